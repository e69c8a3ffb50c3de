"""Searches that may not lose variety: what they count, what they ask for, and where they end."""

from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from studies_for_tests import query, run_cli, run_ok, tiny_recipe, write_recipe
from test_search_programs import BOTH, DESCENT, OPTIMUM, PHASE, laboratory
from test_study_metrics import SMALL, summary_of

from autonat.config import Recipe
from autonat.execution.executor import InProcessExecutor
from autonat.execution.simulated import SimulatedLandscape
from autonat.execution.tasks import RealFeaturesTask
from autonat.execution.worker import Worker
from autonat.memo import Memo
from autonat.orchestrator import run_program
from autonat.plan import plan
from autonat.search.alternation import alternate, start_of
from autonat.search.black_box import black_box
from autonat.search.schedule_search import tune_schedule
from autonat.search.variety import KEY, LACKING, NAMES, Counted, Variety, as_measured
from autonat.search_config import BetaSearch, SPSASearch, StagedSearch, WarmStart
from autonat.specs import (
    EvaluationSpec,
    Metrics,
    MetricsSpec,
    canonical_json,
    fingerprint,
    fingerprint_of_evaluation,
    paired_difference,
)
from autonat.storage.store import Store
from models.metrics import report_metrics, within_class_influence, within_class_variance
from models.random_streams import stream


class Collapsing(SimulatedLandscape):
    """Guidance costs variety: none is left where the mean guidance scale reaches 1, which the optimum's does.

    spread: of one image's part in it.
    """

    spread = 20.0

    def variety(self, schedule):
        return max(0.0, 60 * (1 - sum(schedule.guidance_scales) / len(schedule.guidance_scales)))

    def _answer(self, spec):
        if isinstance(spec, MetricsSpec):
            self.fulfilled.append(spec)
            noise = stream(spec.seed, "variety").standard_normal(spec.num_blocks)  # common, as the distance's is
            noise += 0.3 * stream(spec.seed, "variety", fingerprint(spec)).standard_normal(spec.num_blocks)
            spread = self.spread / spec.block_size**0.5
            shares = [self.variety(spec.schedule) + spread * float(value) for value in noise]
            values = {KEY: sum(shares) / len(shares)}
            return Metrics(
                values, spec.features.metric, spec.seed, spec.num_images, spec.num_images, 0, 0, tuple(shares)
            )
        return super()._answer(spec)


GREEDY = replace(OPTIMUM, guidance_scales=(0.8, 1.1, 1.1))


def searched(settings, keep, seed=0):
    """Variety and true distance at the start and at the end."""
    landscape = Collapsing(GREEDY)
    lab, start = start_of(tiny_recipe(seed=seed, keep_variety=keep, held_out_images=20_000))
    lab.block_size = 20
    verdict = run_program(tune_schedule(lab, PHASE, start, settings), landscape)
    assert lab.spent_images == landscape.asked
    return [
        (landscape.variety(pair.schedule), landscape.true_distance(pair.schedule, pair.mask_ratio))
        for pair in (start, verdict.pair)
    ]


SEARCHES = {
    "both": BOTH,
    "warm start": StagedSearch(warm_start=BOTH.warm_start, descent=None, confirmation_images=2000),
    "descent": StagedSearch(
        warm_start=None, descent=DESCENT.model_copy(update={"check_every": 2}), descents=3, confirmation_images=2000
    ),
    "spsa": SPSASearch(iterations=30, images=400, confirmation_images=2000),
    "gp": StagedSearch(
        warm_start=WarmStart(sampler="gp", trials=16, random_trials=6, batch=4, images=400),
        descent=None,
        confirmation_images=2000,
    ),
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("seed", range(3))
def test_a_search_keeps_variety_and_still_gains(name, seed):
    (before, start), (after, end) = searched(SEARCHES[name], 0.5, seed)
    least = 0.5 * before
    assert after >= 0.75 * least  # a penalty and no bar: distance may pay for some of it
    assert end * max(1.0, 1 + LACKING * (1 - after / least)) <= start
    if name == "both":
        assert end < start - 0.05


def test_without_it_the_same_search_loses_its_variety():
    ends = [searched(BOTH, None, seed)[1][0] for seed in range(3)]
    assert max(ends) < 20
    assert min(searched(BOTH, 0.5, seed)[1][0] for seed in range(3)) > 25


def test_only_a_search_that_keeps_variety_looks_far():
    """In the family and on all values: some of its guidance is stronger than the others' box allows."""
    for space, near in (("family", 2.5), ("values", 4.0)):
        strongest = []
        for keep in (None, 0.5):
            lab, start = start_of(tiny_recipe(keep_variety=keep))
            lab.block_size = 20
            landscape = Collapsing(GREEDY)
            random = WarmStart(sampler="random", space=space, trials=60, images=40)
            run_program(black_box(lab, PHASE, start, random, ("test",)), landscape)
            tried = [spec.schedule for spec in landscape.fulfilled if isinstance(spec, EvaluationSpec)]
            strongest.append(max(max(schedule.guidance_scales) for schedule in tried))
        assert near * 0.8 < strongest[0] <= near + 1e-9 < 6 < strongest[1] <= 8 + 1e-9


def judged(found, least, share=0.5):
    """An evaluation and what it counts as."""
    lab, pair = laboratory()
    spec = lab.evaluation(pair, 100, 3)
    (evaluation,) = SimulatedLandscape(OPTIMUM).fulfil([spec])
    variety = Variety(share, lab.evaluation(pair, 200, 4))
    metrics = [Metrics({KEY: value}, "m", 3, 100, 100, 0, 0, (value,) * 5) for value in (found, least / share)]
    assert len(variety.metrics([spec])) == 2
    (counted,) = variety.judge([evaluation, *metrics], 1)
    assert variety.metrics([spec]) == [spec.metrics(NAMES)]  # the reference is known by now
    return evaluation, counted


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 100), st.floats(0, 100))
def test_what_an_evaluation_counts_as(found, least):
    evaluation, counted = judged(found, least)
    if found >= least:
        assert counted == evaluation
        return
    factor = counted.value / evaluation.value
    assert 1 <= factor <= 1 + LACKING + 1e-9
    assert counted.standard_error == pytest.approx(factor * evaluation.standard_error)
    change, error = paired_difference(counted, evaluation)
    assert change == pytest.approx((factor - 1) * evaluation.value)
    assert error == pytest.approx((factor - 1) * evaluation.standard_error, abs=1e-12)


def test_without_any_variety_it_counts_as_three_times_as_far():
    evaluation, counted = judged(0.0, 20.0)
    assert counted.value == pytest.approx(3 * evaluation.value)
    assert as_measured(counted) == as_measured(evaluation) == evaluation


def test_where_there_was_no_variety_to_begin_with_none_can_be_lost():
    evaluation, counted = judged(0.0, 0.0)
    assert counted == evaluation


def test_random_labels_have_no_metrics():
    lab, pair = laboratory()
    with pytest.raises(ValueError, match="balanced"):
        lab.evaluation(pair, 100, 3, random_labels=True).metrics(NAMES)


def test_variety_is_half_the_mean_squared_distance_of_two_images_of_a_class():
    rows, labels = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 7
    halves = []
    for label in range(7):
        own = rows[labels == label].double()
        squares = torch.cdist(own, own) ** 2
        halves += [float(squares.sum() / (len(own) * (len(own) - 1))) / 2] * len(own)
    expected = sum(halves) / 60
    assert float(within_class_influence(rows, labels).mean()) == pytest.approx(expected)
    assert report_metrics(["variety"], rows, labels_N=labels)["within_class_variance"] == pytest.approx(expected)
    assert within_class_variance(10 + 0 * rows, labels) == 0
    lonely = torch.where(labels == 0, labels, torch.arange(60))  # one class has two images or more
    assert within_class_variance(rows, lonely) == pytest.approx(halves[0])
    with pytest.raises(ValueError, match="two images"):
        within_class_variance(rows, torch.arange(60))
    with pytest.raises(ValueError, match="labels"):
        report_metrics(["variety"], rows)


def test_a_whole_study_asks_for_its_images_once():
    """The Beta search judges by it too. Beside the reference's, no image is painted for variety alone."""
    recipe = tiny_recipe(keep_variety=0.8, beta=BetaSearch(max_trainings=3, images=400), front=[2])
    landscape = Collapsing(GREEDY)
    summary = run_program(alternate(recipe), landscape)
    varieties = [spec for spec in landscape.fulfilled if isinstance(spec, MetricsSpec)]
    (reference,) = [spec for spec in varieties if spec.evaluation not in landscape.fulfilled]
    assert reference.num_images == recipe.held_out_images
    assert all(spec.names == NAMES for spec in varieties)
    # Held-out images beside those of the search: three pairs, of which some are one, the front's and the gap's.
    assert 0 < landscape.asked - summary["images_spent"] <= 4 * recipe.held_out_images + 4000
    more, less = plan(recipe, 1), plan(tiny_recipe(beta=recipe.beta, front=[2]), 1)
    assert more.evaluations - 1 <= 1.5 * less.evaluations  # metrics are no evaluations of their own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_recipe(folder, keep_variety=1.0, **SMALL)
    run_ok("run", folder / "recipe.yaml", "--db", folder / "whole.db", "--workers", 0)
    return folder


def test_a_real_study_measures_the_variety_of_what_it_judges(folder):
    out = query(folder / "whole.db", "SELECT count(*) FROM results WHERE kind = 'MetricsSpec'")
    evaluations = query(folder / "whole.db", "SELECT count(*) FROM results WHERE kind = 'EvaluationSpec'")
    assert 3 <= out[0][0] <= evaluations[0][0] + 2


def test_again_it_ends_in_the_same_bits_and_the_log_says_variety(folder):
    whole = run_ok("run", folder / "recipe.yaml", "--db", folder / "again.db", "--workers", 0)
    assert "; variety " in whole
    assert summary_of(folder / "again.db") == summary_of(folder / "whole.db")
    found = run_ok("verify", "tiny", "--db", folder / "again.db", "--fraction", 1, "--workers", 0)
    assert "MetricsSpec" in found


def test_real_images_features_are_asked_for_once_and_not_for_variety(tmp_path, monkeypatch):
    performed = []
    perform = Worker.perform

    def counted(self, task):
        performed.append(task)
        return perform(self, task)

    monkeypatch.setattr(Worker, "perform", counted)
    store = Store.open(str(tmp_path / "store.db"))
    memo = Memo(store, InProcessExecutor(store.artifacts.address))
    lab, pair = start_of(tiny_recipe())
    for names, count in ((NAMES, 0), (("prc",), 1), (("kid",), 1)):
        for seed in (3, 4):
            (metrics,) = memo.fulfil([lab.evaluation(pair, 40, seed).metrics(names)])
            assert (metrics.reference_images > 0) == (count > 0)
        assert sum(isinstance(task, RealFeaturesTask) for task in performed) == count


def test_what_a_study_keeps_is_in_its_report(folder):
    """The metric is of the network's features of the same images; the report compares it."""
    metrics = summary_of(folder / "whole.db")["metrics"]
    assert all(entry["values"].keys() == {KEY} for entry in metrics.values())
    shown = " ".join(run_ok("show", "tiny", "--db", folder / "whole.db").split())
    assert "variety: variance of the features within a class" in shown
    assert f"{metrics['tuned']['values'][KEY]:.2f}" in shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["keep_variety=0"], "keep_variety"),
        (["keep_variety=1.1"], "keep_variety"),
        (["keep_variety=0.5", "search.method=official"], "keep_variety is for other searches"),
    ],
)
def test_shares_that_cannot_be(changes, words):
    status, _, err = run_cli("plan", "digits", *changes)
    assert (status, err.count("\n")) == (2, 1)
    assert words in err


def test_the_error_of_what_counts_holds_that_of_variety():
    """Two pairs of one distance and variety, lacking some: over many seeds they differ by as much as they say."""
    landscape = Collapsing(GREEDY, noise=0.5)
    landscape.spread = 40.0
    lab, start = start_of(tiny_recipe(keep_variety=1.0))
    lab.block_size = 20
    lacking = replace(start, schedule=replace(start.schedule, guidance_scales=(0.2, 0.3, 0.4)))
    other = replace(start, schedule=replace(start.schedule, guidance_scales=(0.4, 0.3, 0.2)))
    differences = []

    def program():
        for seed in range(300):
            one, two = yield from lab.judge(PHASE, [lab.evaluation(pair, 800, seed) for pair in (lacking, other)])
            assert isinstance(one, Counted)
            change, error = paired_difference(one, two)
            differences.append((change, error))

    run_program(program(), landscape)
    changes, errors = (torch.tensor(column) for column in zip(*differences, strict=True))
    assert 0.9 < float(errors.square().mean().sqrt() / changes.std()) < 1.1
    alone = landscape.fulfil([lab.evaluation(lacking, 800, 0)])[0].standard_error
    assert float(errors.mean()) > 2 * alone * 2**0.5 * landscape.private  # most of it is variety's


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search__confirmation_images": 1600}, "search.confirmation_images leaves 400"),
        ({"beta__images": 400}, "beta.images leaves 200"),
        ({"beta__retune": {"images": 400}}, "beta.retune.images leaves 400"),
        ({"search__descent": {"images": 800}}, "search.descent.images leaves 400"),
        ({"search__warm_start": {"images": 400}}, "search.warm_start.images leaves 400"),
        ({"held_out_images": 400}, "held_out_images leaves 400"),
        ({"held_out_images": 400, "keep_variety": None, "metrics": ["variety"]}, "held_out_images leaves 400"),
    ],
)
def test_every_evaluation_needs_two_images_of_a_class(changes, words):
    """As with 250 classes, in blocks of 20."""
    enough = {
        "search__confirmation_images": 4000,
        "search__descent": {"images": 1000},
        "search__warm_start": {"images": 1000},
        "beta__images": 4000,
        "beta__retune": {"images": 1000},
        "later_search": None,
        "held_out_images": 500,
        "keep_variety": 0.5,
        "block_size": 20,
    }
    with pytest.MonkeyPatch.context() as patch:
        check = Recipe._check_variety
        patch.setattr(Recipe, "_check_variety", lambda self, counts, classes: check(self, counts, 250))
        tiny_recipe(**enough)
        with pytest.raises(ValueError, match=f"two images of each of 250 classes, and {words}"):
            tiny_recipe(**{**enough, **changes})
        # What is not searched need not be enough.
        only = {**enough, "search__confirmation_images": 1600, "phases": ["mask_ratio"]}
        tiny_recipe(**only)


def test_an_evaluation_that_metrics_carried_is_told_by_their_record(folder):
    rows = query(folder / "whole.db", "SELECT spec FROM results WHERE kind = 'MetricsSpec'")
    known = {name for (name,) in query(folder / "whole.db", "SELECT fingerprint FROM results")}
    assert sum(fingerprint_of_evaluation(spec) in known for (spec,) in rows) == len(rows) - 1  # the reference
    spec = start_of(tiny_recipe())[0].evaluation(start_of(tiny_recipe())[1], 40, 3)
    recorded = canonical_json(asdict(spec.metrics(NAMES)))
    assert fingerprint_of_evaluation(recorded) == fingerprint(spec)


def test_gc_keeps_the_evaluations_of_an_interrupted_study(folder, monkeypatch):
    """Killed between an evaluation's record and the answer of its turn, where no study has asked for it yet."""
    database = folder / "killed.db"
    perform, seen = Worker.perform, []

    def interrupted(self, task):
        seen.append(task)
        if len(seen) == 12:
            raise KeyboardInterrupt
        return perform(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "perform", interrupted)
        assert run_cli("run", folder / "recipe.yaml", "--db", database, "--workers", 0)[0] == 130
    before = query(database, "SELECT count(*) FROM results WHERE kind = 'EvaluationSpec'")
    assert before[0][0] > 0
    run_ok("gc", "--db", database, "--yes")
    assert query(database, "SELECT count(*) FROM results WHERE kind = 'EvaluationSpec'") == before
    run_ok("delete", "tiny", "--db", database, "--yes")
    assert query(database, "SELECT count(*) FROM results") == [(0,)]
