"""The benchmark of the Beta search against a full grid, on a simulated landscape where the truth is known."""

import argparse

import pytest

from autonat.execution.simulated import SimulatedLandscape
from autonat.orchestrator import run_program
from autonat.specs import TrainSpec
from benchmarks import beta_grid
from models.mask_ratio import BetaMaskRatio
from models.schedule import autonat_initial

OPTIONS = {"recipe": "quickstart", "training_steps": None, "trainings": 8, "repeats": 1, "warm_start": None}
GRID = [BetaMaskRatio(alpha, beta) for alpha in beta_grid.ALPHAS for beta in beta_grid.BETAS]
START = BetaMaskRatio(3.0, 1.5)


def measured(optimum, seeds, **changes):
    recipe = beta_grid.recipe_of(argparse.Namespace(**{**OPTIONS, "images": 2000, **changes}))
    landscape = SimulatedLandscape(
        autonat_initial(4, "enat"), alpha=optimum[0], beta=optimum[1], noise=0.5, private=0.5
    )
    points = {mask_ratio: [] for mask_ratio in GRID}
    searches = []
    for seed in seeds:
        for point in run_program(beta_grid.grid(beta_grid.laboratory(recipe, seed), recipe, GRID, seed), landscape):
            points[point.mask_ratio].append(point)
        before = len(landscape.fulfilled)
        searches.append(
            run_program(beta_grid.search(beta_grid.laboratory(recipe, seed), recipe, START, seed), landscape)
        )
        asked = {spec for spec in landscape.fulfilled[before:] if isinstance(spec, TrainSpec)}
        assert searches[-1].trainings == len(asked) <= 8 + (searches[-1].end.mask_ratio not in GRID)
    return points, searches


@pytest.fixture(autouse=True)
def short(monkeypatch):
    tuning = {**beta_grid.TUNING, "warm_start": None, "descent": {"iterations": 1, "images": 400}}
    monkeypatch.setattr(beta_grid, "TUNING", tuning)
    monkeypatch.setattr(beta_grid, "RETUNE", {"trials": 4, "random_trials": 4, "images": 200, "keep": 1})


@pytest.mark.parametrize(("optimum", "warm_start"), [((12.0, 3.0), None), ((3.0, 1.5), None), ((6.0, 3.0), 100)])
def test_the_search_ends_at_the_grids_best(optimum, warm_start):
    points, searches = measured(optimum, [0, 1], warm_start=warm_start)
    assert len({point.pair.training for own in points.values() for point in own}) == 32
    assert len({point.evaluation.seed for own in points.values() for point in own}) == 1
    best = min(points, key=lambda mask_ratio: sum(point.evaluation.value for point in points[mask_ratio]))
    assert best == BetaMaskRatio(*optimum)
    ends = [found.end.mask_ratio for found in searches]
    assert ends == [best, best]
    text = "\n".join(beta_grid.summary(points, searches))
    assert ("Training luck" in text, text.count("no worse")) == (True, 2)
    table = beta_grid.grid_table(points, ends, START)
    assert (table.count("end"), table.count("start"), table.count("**best**")) == (2, 1, 1)
    assert len(beta_grid.search_table(points, searches).splitlines()) == 4


def test_one_seed_says_nothing_of_luck():
    points, searches = measured((12.0, 3.0), [0])
    assert "Training luck" not in "\n".join(beta_grid.summary(points, searches))
    assert "nan" not in beta_grid.grid_table(points, [], START) + beta_grid.search_table(points, searches)
