"""The greedy Beta search against a full grid of 16 trainings: does it end at a distribution that is no worse?

Every point of the grid is a network of its own, judged on held-out images under a schedule tuned for it. The search
begins at one of them, tunes within its lines as a study does, and may train half as many. Each seed is another training
of every point and another search. Results lie in a database, so a run that is cut off goes on, and further seeds or
points compute only what is new.

    python -m benchmarks.beta_grid --db beta.db --seeds 0 1 2 --workers 2

prints the grid's distances, where each search ended, and what lies between the two; --markdown and --json write it.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from autonat.config import Recipe, load_recipe
from autonat.execution.executor import ProcessExecutor
from autonat.memo import Memo
from autonat.orchestrator import run_program
from autonat.search.alternation import start_of
from autonat.search.mask_ratio_search import search_mask_ratio
from autonat.search.program import Ask, Laboratory, Pair, Phase, Program, together
from autonat.search.schedule_search import tune_schedule
from autonat.specs import Evaluation, FeatureSpec, TrainSpec, derived_seed, paired_difference
from autonat.storage.store import Store
from models.frechet import standard_error
from models.mask_ratio import BetaMaskRatio

ALPHAS = (1.5, 3.0, 6.0, 12.0)
BETAS = (0.75, 1.5, 3.0, 6.0)
# What a schedule is tuned with for one network, outside a line and inside.
TUNING = {
    "method": "staged",
    "warm_start": {"trials": 24, "random_trials": 8, "images": 400, "keep": 3},
    "descent": {"iterations": 8, "images": 1000},
    "confirmation_images": 2000,
}
RETUNE = {"trials": 16, "random_trials": 6, "images": 400, "keep": 2}


@dataclass(frozen=True)
class Point:
    """A network under the schedule tuned for it, on held-out images."""

    mask_ratio: BetaMaskRatio
    seed: int
    pair: Pair
    evaluation: Evaluation


@dataclass(frozen=True)
class Searched:
    """Where one search ended. trainings and images: of the search alone, its start's included."""

    end: Point
    trainings: int
    images: int


def recipe_of(options: argparse.Namespace) -> Recipe:
    base = load_recipe(options.recipe).model_dump()
    training = {**base["training"], **({"steps": options.training_steps} if options.training_steps else {})}
    beta = {
        "max_trainings": options.trainings - (options.warm_start is not None),  # the start's is not a point then
        "images": 2000,
        "retune": RETUNE,
        "repeats": options.repeats,
        "warm_start": {"steps": options.warm_start} if options.warm_start is not None else None,
    }
    changes = {"name": "beta-grid", "training": training, "search": TUNING, "later_search": None, "beta": beta}
    return Recipe.model_validate({**base, **changes, "held_out_images": options.images})


def laboratory(recipe: Recipe, seed: int) -> Laboratory:
    """The search of each seed draws labels and noise of its own; the feature network is common to all."""
    lab, _ = start_of(recipe)
    return replace(lab, seed=lab.seed_for("grid", seed))


def training_of(recipe: Recipe, mask_ratio: BetaMaskRatio, seed: int) -> TrainSpec:
    training = start_of(recipe)[1].training
    assert isinstance(training, TrainSpec)
    own_seed = derived_seed(training.seed, "repeat", seed) if seed else training.seed
    return replace(training, mask_ratio=mask_ratio, seed=own_seed)


def judged(lab: Laboratory, recipe: Recipe, mask_ratio: BetaMaskRatio, seed: int) -> Program[Point]:
    """Train, tune the schedule from the recipe's, and measure on images that are the same for every point and seed."""
    training = training_of(recipe, mask_ratio, seed)
    phase = Phase("grid", 0)
    yield from lab.train(phase.at("training"), [training])
    verdict = yield from tune_schedule(lab, phase, Pair(training, recipe.schedule.build()), recipe.search)
    held_out = derived_seed(recipe.seed, "grid", "held-out")
    (evaluation,) = yield from lab.evaluate(
        Phase("held-out", 0, "report"), [lab.evaluation(verdict.pair, recipe.held_out_images, held_out)]
    )
    return Point(mask_ratio, seed, verdict.pair, evaluation)


def grid(lab: Laboratory, recipe: Recipe, mask_ratios: Sequence[BetaMaskRatio], seed: int) -> Program[list[Point]]:
    """Some points of the grid, side by side."""
    assert isinstance(lab.features, FeatureSpec)
    yield Ask(Phase("set-up", 0, "training"), (lab.features,))
    return (yield from together([judged(lab, recipe, mask_ratio, seed) for mask_ratio in mask_ratios]))


def search(lab: Laboratory, recipe: Recipe, start: BetaMaskRatio, seed: int) -> Program[Searched]:
    """The greedy search from one point and its tuned schedule; its end is judged as the grid's points are."""
    (first,) = yield from grid(lab, recipe, [start], seed)
    lab.spent_images -= first.evaluation.num_images
    verdict = yield from search_mask_ratio(lab, Phase("mask ratio", 1), first.pair, recipe.beta)
    trainings, images = len(lab.trained), lab.spent_images
    assert isinstance(verdict.pair.mask_ratio, BetaMaskRatio)
    end = yield from judged(lab, recipe, verdict.pair.mask_ratio, seed)
    return Searched(end, trainings, images)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error over trainings; the error of one value is not known."""
    return statistics.fmean(values), standard_error(values)


def grid_table(points: dict[BetaMaskRatio, list[Point]], ends: Sequence[BetaMaskRatio], start: BetaMaskRatio) -> str:
    """Means over seeds with errors that hold the trainings' luck; of one seed with the images' error alone."""
    lines = ["| alpha \\ beta | " + " | ".join(f"{beta:g}" for beta in BETAS) + " |", "|---" * 5 + "|"]
    best = min(points, key=lambda mask_ratio: mean_and_error([p.evaluation.value for p in points[mask_ratio]])[0])
    for alpha in ALPHAS:
        cells = []
        for beta in BETAS:
            here = BetaMaskRatio(alpha, beta)
            value, error = mean_and_error([point.evaluation.value for point in points[here]])
            if math.isnan(error):
                error = points[here][0].evaluation.standard_error
            marks = "start " * (here == start) + "**best** " * (here == best) + "end " * ends.count(here)
            cells.append(f"{value:.3f} +- {error:.3f} {marks}".strip())
        lines.append(f"| {alpha:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def search_table(points: dict[BetaMaskRatio, list[Point]], searches: Sequence[Searched]) -> str:
    """One line a seed: the search's end against the best of that seed's own 16 networks, on the same images.

    The best of 16 is lucky in its training; the error of the difference counts the luck of both where it is known.
    """
    luck = luck_of(points)
    lines = [
        "| seed | grid's best | distance | search's end | distance | trainings | images | end - best | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for number, found in enumerate(searches):
        best = min((own[number] for own in points.values()), key=lambda point: point.evaluation.value)
        change, error = paired_difference(found.end.evaluation, best.evaluation)
        same = found.end.mask_ratio == best.mask_ratio
        total = 0.0 if same else math.hypot(error, math.sqrt(2) * (0.0 if math.isnan(luck) else luck))
        lines.append(
            f"| {found.end.seed} | {best.mask_ratio.label} | {best.evaluation.value:.3f} "
            f"| {found.end.mask_ratio.label} | {found.end.evaluation.value:.3f} | {found.trainings} of 16 "
            f"| {found.images:,} | {change:+.3f} | {total:.3f} |"
        )
    return "\n".join(lines)


def luck_of(points: dict[BetaMaskRatio, list[Point]]) -> float:
    """Standard deviation over trainings of one distribution, pooled over the grid; nan with one seed."""
    spreads = [statistics.variance([p.evaluation.value for p in own]) for own in points.values() if len(own) > 1]
    return math.sqrt(statistics.fmean(spreads)) if spreads else math.nan


def summary(points: dict[BetaMaskRatio, list[Point]], searches: Sequence[Searched]) -> list[str]:
    """In words: the luck, and the ends against the grid's best by the means over all seeds."""
    lines = []
    luck = luck_of(points)
    if not math.isnan(luck):
        images = statistics.fmean(p.evaluation.standard_error for own in points.values() for p in own)
        lines.append(
            f"Training luck: standard deviation {luck:.3f} over seeds of one distribution (the images' own error "
            f"{images:.3f})."
        )
    best = min(points, key=lambda mask_ratio: mean_and_error([p.evaluation.value for p in points[mask_ratio]])[0])
    for found in searches:
        end = found.end.mask_ratio
        if end not in points:
            lines.append(f"Seed {found.end.seed} ended at {end.label}, outside the grid.")
            continue
        gaps = [a.evaluation.value - b.evaluation.value for a, b in zip(points[end], points[best], strict=True)]
        mean, error = mean_and_error(gaps)
        verdict = "no worse" if end == best or mean <= error else "worse" if mean > 2 * error else "within two errors"
        lines.append(
            f"Seed {found.end.seed}: {end.label} against {best.label}, the grid's best by the mean of {len(gaps)} "
            f"trainings each: {mean:+.3f} +- {error:.3f}" + (f", {verdict}." if len(gaps) > 1 else ".")
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", default="beta_grid.db")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="trainings of every point")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--recipe", default="quickstart", help="its network, training and first schedule")
    parser.add_argument("--training-steps", type=int, help="in place of the recipe's")
    parser.add_argument("--images", type=int, default=10_000, help="held-out images of a point")
    parser.add_argument("--start", type=float, nargs=2, default=(3.0, 1.5), metavar=("ALPHA", "BETA"))
    parser.add_argument("--trainings", type=int, default=8, help="that the search may have, its start's included")
    parser.add_argument("--repeats", type=int, default=1, help="further trainings where a line's best is uncertain")
    parser.add_argument("--warm-start", type=int, help="steps of points that go on from the incumbent's weights")
    parser.add_argument("--points", type=int, default=16, help="only so many of the grid, to estimate the time")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    recipe = recipe_of(options)
    start = BetaMaskRatio(*options.start)
    mask_ratios = [BetaMaskRatio(alpha, beta) for alpha in ALPHAS for beta in BETAS][: options.points]
    points: dict[BetaMaskRatio, list[Point]] = {mask_ratio: [] for mask_ratio in mask_ratios}
    searches: list[Searched] = []
    store = Store.open(options.db)
    with ProcessExecutor(str(store.artifacts.folder), options.workers) as executor:
        memo = Memo(store, executor)
        for seed in options.seeds:
            for first in range(0, len(mask_ratios), len(BETAS)):
                row = mask_ratios[first : first + len(BETAS)]
                began = time.perf_counter()
                for point in run_program(grid(laboratory(recipe, seed), recipe, row, seed), memo):
                    points[point.mask_ratio].append(point)
                    value, error = point.evaluation.value, point.evaluation.standard_error
                    print(f"seed {seed} {point.mask_ratio.label}: {value:.3f} +- {error:.3f}", flush=True)
                print(f"  {time.perf_counter() - began:.0f} s for {len(row)} points", flush=True)
            if len(mask_ratios) == len(ALPHAS) * len(BETAS):
                searches.append(run_program(search(laboratory(recipe, seed), recipe, start, seed), memo))
                print(f"seed {seed}: the search ended at {searches[-1].end.mask_ratio.label}", flush=True)
    if not searches:
        return
    text = "\n\n".join(
        [
            grid_table(points, [found.end.mask_ratio for found in searches], start),
            search_table(points, searches),
            "\n".join(summary(points, searches)),
        ]
    )
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        content = {
            "points": [asdict(point) for own in points.values() for point in own],
            "searches": [asdict(found) for found in searches],
        }
        options.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
