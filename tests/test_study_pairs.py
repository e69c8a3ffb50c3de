"""What a finished study's summary leads back to: the networks and schedules that were reported, and no others."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from test_search_programs import SMALL_OPTIMUM, whole

from autonat.errors import UserError
from autonat.execution.simulated import SimulatedLandscape
from autonat.orchestrator import run_program
from autonat.search.alternation import alternate, start_of
from autonat.specs import EvaluationSpec, TrainSpec
from autonat.study_pairs import recipe_of, study_pairs
from models.mask_ratio import BetaMaskRatio


class LuckyTrainings(SimulatedLandscape):
    """All Beta distributions are as good, so that a line's best is a close call; a training that is repeated with
    another seed turns out better than the first."""

    def __init__(self, first_seed):
        super().__init__(SMALL_OPTIMUM, noise=1.0)
        self.first_seed = first_seed

    def true_distance(self, schedule, mask_ratio):
        is_beta = isinstance(mask_ratio, BetaMaskRatio)
        return super().true_distance(schedule, BetaMaskRatio(6, 3)) + (0 if is_beta else 1)

    def _answer(self, spec):
        answer = super()._answer(spec)
        if isinstance(spec, EvaluationSpec) and spec.training.seed != self.first_seed:
            shares = tuple(share - 0.2 for share in answer.shares)
            return replace(answer, value=answer.value - 0.2, shares=shares)
        return answer


def study(recipe, summary):
    text = json.dumps(summary) if summary else None
    return SimpleNamespace(name="s", recipe=recipe.model_dump_json()), json.loads(text) if text else None


@pytest.mark.parametrize("repeats", [0, 3])
def test_the_tuned_pair_is_the_one_that_was_reported(repeats):
    recipe = whole(seed=0, beta__repeats=repeats, beta__max_trainings=12)
    _, baseline = start_of(recipe)
    landscape = LuckyTrainings(baseline.training.seed)
    row, summary = study(recipe, run_program(alternate(recipe), landscape))
    _, found, tuned = study_pairs(row, summary)
    assert found == baseline
    reported = [
        spec for spec in landscape.fulfilled
        if isinstance(spec, EvaluationSpec) and spec.num_images == recipe.held_out_images
    ]  # fmt: skip
    assert (tuned.training, tuned.schedule) in [(spec.training, spec.schedule) for spec in reported]
    assert (tuned.training.seed != baseline.training.seed) == (repeats > 0)
    # Earlier versions did not note the seed; theirs is the study's.
    del summary["training_seed"]
    assert study_pairs(row, summary)[2].training.seed == baseline.training.seed


@pytest.mark.parametrize("most", [1, 2])
def test_a_line_that_is_cut_short_begins_with_its_centre(most):
    recipe = whole(beta__max_trainings=most, beta__start_alpha=6, beta__start_beta=3)
    landscape = SimulatedLandscape(SMALL_OPTIMUM)
    run_program(alternate(recipe), landscape)
    trained = [spec.mask_ratio for spec in landscape.fulfilled if isinstance(spec, TrainSpec)]
    points = list(dict.fromkeys(ratio for ratio in trained if isinstance(ratio, BetaMaskRatio)))
    assert points[0] == BetaMaskRatio(6, 3)
    assert len(points) <= most


def test_a_recipe_that_is_no_longer_accepted_is_one_line():
    row, _ = study(whole(), None)
    data = json.loads(row.recipe) | {"left_behind": 1}
    with pytest.raises(
        UserError, match=r"study 's': this version does not accept its recipe: left_behind: unknown key"
    ):
        recipe_of(SimpleNamespace(name="s", recipe=json.dumps(data)))
    assert asdict(start_of(recipe_of(row))[1].schedule)["rule"] == "enat"
