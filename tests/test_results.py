"""The tables of a study beside the published search and hand-set schedules, on a simulated landscape."""

import io
from dataclasses import replace

import pytest
from PIL import Image
from studies_for_tests import tiny_recipe

from autonat.execution.simulated import SimulatedLandscape
from autonat.orchestrator import run_program
from autonat.search.alternation import alternate, start_of
from autonat.search.program import Pair
from autonat.study_pairs import schedule_of
from benchmarks import results
from benchmarks.results import FIRST, TUNED, Results
from models.mask_ratio import BetaMaskRatio
from models.schedule import autonat_initial

SETTINGS = {
    "search__warm_start": {"trials": 4, "random_trials": 2, "batch": 2, "images": 400, "keep": 2},
    "search__descent": {"iterations": 2, "images": 400},
    "search__confirmation_images": 2000,
    "beta__images": 2000,
    "beta__max_trainings": 2,
    "beta__retune": None,
    "held_out_images": 2000,
    "front": [2, 4],
    "keep_variety": 0.9,
}


def one_seed(seed, **changes):
    """Rows of a study and the summaries they come from."""
    recipe = tiny_recipe(seed=seed, name=f"tiny-{seed}", **{**SETTINGS, **changes})
    landscape = SimulatedLandscape(autonat_initial(3, "enat"), noise=0.5)
    summary = run_program(alternate(recipe), landscape)
    official = results.official_of(recipe, results.images_for_pair(summary))
    published = run_program(alternate(official), landscape)
    lab, baseline = start_of(recipe)
    training = baseline.training
    if summary["mask_ratio"]["kind"] == "beta":
        found = summary["mask_ratio"]
        training = replace(training, mask_ratio=BetaMaskRatio(found["alpha"], found["beta"]))
    tuned = Pair(training, schedule_of(summary["schedule"]))
    listed = results.pairs_to_measure(baseline, tuned, summary, published, [2, 3, 4])
    rows = run_program(results.measured(lab, listed, 2000, seed, ("variety",)), landscape)
    return rows, summary, published


@pytest.fixture(scope="module")
def two_seeds():
    return [one_seed(seed) for seed in (0, 1)]


def of(rows, *key):
    (row,) = [row for row in rows if row.key == key]
    return row


def test_further_metrics_are_of_the_default_and_of_what_was_searched(two_seeds):
    both = [row for rows, *_ in two_seeds for row in rows]
    assert {row.schedule for row in both if row.metrics} == {"MaskGIT's cosine", "published search", "tuned"}
    assert sum(row.schedule == "MaskGIT's cosine" for row in both if row.metrics) == 2
    lines = results.metrics_table(Results(tuple(both), ())).splitlines()
    assert lines[0] == "| seed | network | schedule | T | images searched | distance | variety |"
    assert len(lines) == 2 + sum(bool(row.metrics) for row in both)
    assert all(line.endswith("| 1.00 |") for line in lines[2:])
    assert results.metrics_table(Results(tuple(replace(row, metrics={}) for row in both), ())) == ""


def test_rows_agree_with_the_studies_that_they_come_from(two_seeds):
    for rows, summary, published in two_seeds:
        assert summary["mask_ratio"]["kind"] == "beta"  # both kinds of network are in the table
        assert len({row.key for row in rows}) == len(rows)
        default = of(rows, FIRST, "MaskGIT's cosine", 3)
        assert (default.evaluation.value, default.share) == (summary["baseline"]["value"], 1.0)
        assert of(rows, FIRST, "published search", 3).evaluation.value == published["tuned_schedule"]["value"]
        assert of(rows, FIRST, "tuned", 3).evaluation.value == summary["tuned_schedule"]["value"]
        assert of(rows, TUNED, "tuned", 3).evaluation.value == summary["tuned"]["value"]
        for point in summary["front"]:
            row = of(rows, TUNED, "tuned", point["num_steps"])
            assert (row.evaluation.value, row.searched) == (point["value"], point["images_spent"])
        assert {row.num_steps for row in rows if row.key[:2] == (FIRST, "MaskGIT's cosine")} == {2, 3, 4}
        assert {row.evaluation.seed for row in rows} == {default.evaluation.seed}


def test_the_published_search_has_as_many_images(two_seeds):
    for rows, summary, published in two_seeds:
        ours, theirs = results.images_for_pair(summary), published["images_spent"]
        assert ours < summary["images_spent"]  # other numbers of steps are not charged to the pair
        assert ours == of(rows, TUNED, "tuned", 3).searched
        assert of(rows, FIRST, "published search", 3).searched == theirs
        assert ours <= theirs < ours + 11_000 + 2_000  # to the end of an iteration, and the record


def test_the_table_has_a_line_a_pair_and_a_column_a_seed(two_seeds):
    rows = tuple(row for own, _, _ in two_seeds for row in own)
    text = results.table(Results(rows, ((0, "Beta(6, 3)"), (1, "Beta(3, 3)"))))
    lines = text.splitlines()
    assert len(lines) == 2 + len({row.key for row in rows}) + 2
    assert len({line.count("|") for line in lines[:-2]}) == 1
    default = next(line for line in lines if line.startswith(f"| {FIRST} | MaskGIT's cosine | 3 "))
    assert default.endswith("| 1.00 +- 0.00 |")
    values = [of(own, FIRST, "MaskGIT's cosine", 3).evaluation.value for own, _, _ in two_seeds]
    assert all(f"{value:.2f} +- " in default for value in values)
    assert "2,000 held-out images" in lines[-1]
    assert "seed 1, Beta(3, 3)" in lines[-1]


def test_distances_of_different_metrics_have_no_mean(two_seeds):
    """Each study seed trains a digit classifier of its own."""
    rows = tuple(row for own, _, _ in two_seeds for row in own)
    assert len({row.evaluation.metric for row in rows}) == 2
    heading = results.table(Results(rows, ())).splitlines()[0]
    assert "| mean |" not in heading
    own = two_seeds[0][0]
    twice = (*own, *(replace(row, seed=1) for row in own))
    assert "| mean |" in results.table(Results(twice, ())).splitlines()[0]


@pytest.mark.parametrize("phases", [["schedule"], ["mask_ratio"]])
def test_a_study_of_one_phase_claims_no_other(phases):
    rows, _, _ = one_seed(0, phases=phases, front=[2])
    kinds = {row.key[:2] for row in rows}
    assert ((FIRST, "tuned") in kinds) == (phases == ["schedule"])
    assert any(row.network == TUNED for row in rows) == (phases == ["mask_ratio"])


def test_the_figure_is_a_picture(two_seeds):
    for seeds in (two_seeds[:1], two_seeds):
        rows = tuple(row for own, _, _ in seeds for row in own)
        with Image.open(io.BytesIO(results.plot(Results(rows, ())))) as picture:
            assert picture.size[0] == 720


def test_numbers_that_differ_by_seed_are_given_as_a_range():
    assert results.several([3, 3], str) == "3"
    assert results.several([5, 2, 3], str) == "2 to 5"
