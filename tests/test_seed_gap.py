"""A search must not fit its own seeds: the race catches what only seemed good, and every summary states the gap."""

import json
import math
from dataclasses import replace

import pytest
from studies_for_tests import run_ok, tiny_recipe, write_recipe

from autonat.execution.simulated import SimulatedLandscape
from autonat.orchestrator import run_program
from autonat.search.alternation import alternate, start_of
from autonat.search.program import Phase
from autonat.search.schedule_search import tune_schedule
from autonat.search_config import StagedSearch, WarmStart
from autonat.seed_gap import gap_line, seed_gap
from autonat.specs import Evaluation, EvaluationSpec
from models.schedule import GenerationSchedule, maskgit_cosine

OPTIMUM = GenerationSchedule((0.8, 0.3), (0.8, 0.9, 0.7), (2.0, 1.0), (0.2, 0.9, 1.6))
PHASE = Phase("test", 0)


class LuckySeed(SimulatedLandscape):
    """Schedules with much guidance at first are worse by 1 and seem better by 3 on the first seed that is asked for."""

    seed = None

    def true_distance(self, schedule, mask_ratio):
        return super().true_distance(schedule, mask_ratio) + (schedule.guidance_scales[0] > 1.0)

    def _answer(self, spec):
        self.seed = spec.seed if self.seed is None else self.seed
        answer = super()._answer(spec)
        if isinstance(spec, EvaluationSpec) and spec.seed == self.seed and spec.schedule.guidance_scales[0] > 1.0:
            answer = replace(answer, value=answer.value - 3, shares=tuple(share - 3 for share in answer.shares))
        return answer


@pytest.mark.parametrize("seed", range(5))
def test_the_race_drops_a_winner_of_the_search_that_is_worse_on_fresh_seeds(seed):
    landscape = LuckySeed(OPTIMUM, noise=0.2)
    lab, pair = start_of(tiny_recipe(seed=seed))
    lab.block_size = 20
    trials = []

    class Witness:
        asked = decided = lambda *_: None

        def answered(self, ask, results):
            if ask.phase.purpose == "warm start":
                trials.extend((result.value, spec.schedule) for spec, result in zip(ask.requests, results, strict=True))

    warm = WarmStart(sampler="random", trials=24, random_trials=24, images=400, keep=24)
    settings = StagedSearch(warm_start=warm, descent=None, confirmation_images=2000)
    verdict = run_program(tune_schedule(lab, PHASE, pair, settings), landscape, Witness())

    def truth(schedule):
        return landscape.true_distance(schedule, pair.mask_ratio)

    promised, winner = min(trials, key=lambda trial: trial[0])
    assert winner.guidance_scales[0] > 1.0
    assert promised < truth(winner) - 2
    assert verdict.pair.schedule != winner
    assert truth(verdict.pair.schedule) < truth(winner)
    # What is reported does not carry the luck along.
    assert verdict.evaluation.value == pytest.approx(truth(verdict.pair.schedule), abs=0.1)


def test_a_summary_states_the_gap():
    landscape = SimulatedLandscape(GenerationSchedule((0.6,), (0.8, 0.7), (2.0,), (0.2, 1.6)))
    summary = run_program(alternate(tiny_recipe(schedule__num_steps=2)), landscape)
    found = summary["search_time"]
    *measured, held_out, fresh = [spec for spec in landscape.fulfilled if isinstance(spec, EvaluationSpec)]
    # A distance of fewer images reads higher, so that both have as many; the fresh seed is nobody else's.
    assert list(fresh.schedule.values()) == _values(summary)
    assert fresh.num_images == found["num_images"]
    assert fresh.seed not in {spec.seed for spec in [*measured, held_out]}
    again = SimulatedLandscape(GenerationSchedule((0.6,), (0.8, 0.7), (2.0,), (0.2, 1.6)))
    assert found["fresh_value"] == again.fulfil([fresh])[0].value
    assert found["gap"] == pytest.approx(found["fresh_value"] - found["value"])
    errors = found["fresh_standard_error"], found["standard_error"]
    assert found["gap_standard_error"] == pytest.approx(math.hypot(*errors))
    # One of the search's own evaluations of the tuned schedule, on another seed.
    own = [spec for spec in measured if list(spec.schedule.values()) == _values(summary) and spec.seed != held_out.seed]
    assert found["value"] in [result.value for result in again.fulfil(own)]


def test_a_gap_needs_as_many_images():
    few, many = (Evaluation(1.0, 0.1, count, "FD", 1, (1.0,)) for count in (600, 10_000))
    with pytest.raises(ValueError, match="10000 and 600 images"):
        seed_gap(few, many)


def _values(summary):
    return [value for family, values in summary["schedule"].items() if family != "rule" for value in values]


def test_the_gap_in_words():
    summary = {
        "search_time": {
            "value": 0.812, "standard_error": 0.03, "num_images": 2000, "fresh_value": 0.832,
            "fresh_standard_error": 0.024, "gap": 0.02, "gap_standard_error": 0.0384,
        },
    }  # fmt: skip
    assert gap_line(summary) == (
        "Tuned pair on 2,000 images: as the search saw it 0.812 +- 0.030, on fresh seeds 0.832 +- 0.024, "
        "gap +0.020 +- 0.038."
    )


@pytest.mark.parametrize("summary", [None, {}, {"search_time": None}, {"search_time": {"value": 1.0, "gap": 0.1}}])
def test_a_summary_of_an_earlier_version_has_no_gap(summary):
    assert gap_line(summary) is None


def test_every_way_to_see_a_summary_states_the_gap(tmp_path):
    recipe, db, report = write_recipe(tmp_path, phases=["schedule"]), tmp_path / "a.db", tmp_path / "report.html"
    ended = run_ok("run", recipe, "--db", db, "--workers", 0)
    shown = run_ok("show", "tiny", "--db", db)
    result = json.loads(run_ok("best", "tiny", "--db", db))
    run_ok("report", "tiny", "--db", db, "--to", report)
    assert set(result["search_time"]) == {
        "value", "standard_error", "num_images", "fresh_value", "fresh_standard_error", "gap", "gap_standard_error",
    }  # fmt: skip
    sentence = gap_line(result)
    for text in (ended, shown, report.read_text()):
        assert sentence in " ".join(text.split()).replace("±", "+-")


def test_further_descents_get_nearer_and_end_by_themselves():
    def tuned(descents, start, **changes):
        landscape = SimulatedLandscape(OPTIMUM, noise=0.3)
        lab, pair = start_of(tiny_recipe())
        lab.block_size = 20
        for name, value in changes.items():
            setattr(lab, name, value)
        settings = StagedSearch.model_validate(
            {
                "warm_start": None,
                "descents": descents,
                "descent": {"iterations": 6, "images": 400},
                "confirmation_images": 2000,
            }
        )
        verdict = run_program(tune_schedule(lab, PHASE, replace(pair, schedule=start), settings), landscape)
        return landscape.true_distance(verdict.pair.schedule, pair.mask_ratio), lab.spent_images

    far = maskgit_cosine(3)
    (once, few), (often, many) = tuned(1, far), tuned(20, far)
    lowest = SimulatedLandscape(OPTIMUM).true_distance(OPTIMUM, tiny_recipe().mask_ratio)
    assert once > lowest + 0.02
    assert often < lowest + 0.1 * (once - lowest)
    assert many > 2 * few
    # From the optimum nothing gains, whatever the recipe allows.
    assert tuned(200, OPTIMUM)[1] < 40 * few
    # A budget ends it: no new step is begun.
    assert few <= tuned(200, far, budget_images=few + 1)[1] <= 2 * few + 12_000
