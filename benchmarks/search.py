"""Schedule searches side by side: how good a schedule does each know after how many images?

Every method tunes the same networks from the same start. What a method would answer after so many images is measured on
held-out images whose seed no search uses. Results lie in a database, so a run that is cut off goes on, and adding a
method or a seed computes only what is new.

    python -m benchmarks.search --db search.db --seeds 0 --steps 4 --networks 12,3 --methods official staged tpe

prints a table; --markdown and --figure write it for docs/search.md.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autonat.config import Recipe, load_recipe
from autonat.execution.executor import ProcessExecutor
from autonat.memo import Memo
from autonat.orchestrator import run_program
from autonat.search.alternation import start_of
from autonat.search.program import Ask, Decision, Laboratory, Pair, Phase, Program
from autonat.search.schedule_search import tune_schedule
from autonat.specs import Evaluation, EvaluationSpec, Result
from autonat.storage.store import Store
from benchmarks.browser import picture
from models.schedule import PRESETS, GenerationSchedule, resampled

HELD_OUT_IMAGES = 5000
POINTS = 12  # of a run are measured on held-out images, beside its last

METHODS: dict[str, dict[str, Any]] = {
    # AutoNAT's published search; 300,000 images are its 20 iterations at T = 4.
    "official": {"method": "official", "iterations": 1000, "images": 1000},
    "staged": {
        "method": "staged",
        "warm_start": {"trials": 40, "random_trials": 12, "images": 200, "keep": 3},
        "descent": {"iterations": 16, "images": 1000, "max_images": 3000, "check_every": 4},
        "descents": 20,
        "confirmation_images": 2000,
    },
    "tpe": {"method": "tpe", "trials": 10_000, "images": 500},
    "cmaes": {"method": "cmaes", "trials": 10_000, "images": 500},
    # A Gaussian process takes seconds a trial, more with every trial: fewer trials, each known better.
    "gp": {"method": "gp", "trials": 100, "images": 3000},
    "random": {"method": "random", "trials": 10_000, "images": 500},
    "spsa": {"method": "spsa", "iterations": 10_000, "images": 500},
}


@dataclass
class Trail:
    """What a search would answer, over the images it has spent. An observer of its program."""

    lab: Laboratory
    points: list[tuple[int, GenerationSchedule]] = field(default_factory=list)
    best: float = math.inf

    def _note(self, schedule: GenerationSchedule) -> None:
        if not self.points or self.points[-1][1] != schedule:
            self.points.append((self.lab.spent_images, schedule))

    def asked(self, ask: Ask) -> None: ...

    def answered(self, ask: Ask, results: Sequence[Result]) -> None:
        if ask.phase.purpose != "warm start":
            return
        for spec, result in zip(ask.requests, results, strict=True):
            if isinstance(spec, EvaluationSpec) and isinstance(result, Evaluation) and result.value < self.best:
                self.best = result.value
                self._note(spec.schedule)

    def decided(self, decision: Decision) -> None:
        facts = decision.facts
        if "iteration" not in facts or "gradient_standard_errors" in facts:
            self._note(facts["schedule"])
        elif facts["distance"] < self.best:  # the published search keeps what it saw lowest
            self.best = facts["distance"]
            self._note(facts["schedule"])


@dataclass(frozen=True)
class Longer:
    """What more steps bring: held-out distances and their standard errors of MaskGIT's cosine schedule and of the
    search's end carried over to so many steps, values interpolated. Tells how much of a distance is the network's."""

    num_steps: int
    cosine: tuple[float, float]
    carried_over: tuple[float, float]


@dataclass(frozen=True)
class Run:
    """Held-out distance and its standard error over images spent."""

    method: str
    network: str
    num_steps: int
    seed: int
    trail: tuple[tuple[int, float, float], ...]
    longer: tuple[Longer, ...] = ()

    @property
    def final(self) -> tuple[int, float, float]:
        return self.trail[-1]

    @property
    def best(self) -> tuple[int, float, float]:
        return min(self.trail, key=lambda point: point[1])

    def images_to(self, distance: float) -> int | None:
        """Images spent when the distance was first at most this."""
        return next((images for images, value, _ in self.trail if value <= distance), None)


def recipe_of(method: str, network: str, num_steps: int, seed: int, budget: int) -> Recipe:
    alpha, beta = network.split(",")
    base = load_recipe("digits").model_dump()
    return Recipe.model_validate(
        {
            **base,
            "name": "benchmark",
            "seed": seed,
            "phases": ["schedule"],
            "mask_ratio": {"kind": "beta", "alpha": float(alpha), "beta": float(beta)},
            "schedule": {"num_steps": num_steps, "preset": "maskgit-cosine"},
            "search": METHODS[method],
            "later_search": None,
            "budget_images": budget,
        }
    )


def searched(recipe: Recipe, trail_of: list[Trail], more_steps: Sequence[int] = ()) -> Program[list[Any]]:
    """The schedule search of a recipe, then its trail on held-out images, then its end and the cosine at more steps."""
    lab, start = start_of(recipe)
    trail = Trail(lab, [(0, start.schedule)])
    trail_of.append(trail)
    yield Ask(Phase("set-up", 0, "training"), (lab.features, start.training))  # type: ignore[arg-type]
    verdict = yield from tune_schedule(lab, Phase("schedule", 0), start, recipe.search)
    spent = lab.spent_images
    chosen = thinned([*trail.points, (spent, verdict.pair.schedule)])
    end, rule = verdict.pair.schedule, start.schedule.rule
    for steps in more_steps:
        chosen += [(spent, PRESETS["maskgit-cosine"](steps, rule)), (spent, resampled(end, steps))]
    seed = lab.seed_for("held-out")
    evaluations = yield from lab.evaluate(
        Phase("held-out", 0, "report"),
        [lab.evaluation(Pair(start.training, schedule), HELD_OUT_IMAGES, seed) for _, schedule in chosen],
    )
    return list(zip(chosen, evaluations, strict=True))


def thinned(points: list[tuple[int, GenerationSchedule]]) -> list[tuple[int, GenerationSchedule]]:
    """The first, the last, and some between, close together where images are few."""
    if len(points) <= POINTS + 2:
        return points
    last = len(points) - 1
    return [
        points[index] for index in sorted({round(last * (part / (POINTS + 1)) ** 1.5) for part in range(POINTS + 2)})
    ]


class Relay:
    """Passes a program's events to the trail, which exists once the program has begun."""

    def __init__(self, trails: list[Trail]) -> None:
        self.trails = trails

    def asked(self, ask: Ask) -> None: ...

    def answered(self, ask: Ask, results: list[Result]) -> None:
        self.trails[-1].answered(ask, results)

    def decided(self, decision: Decision) -> None:
        self.trails[-1].decided(decision)


def measure(
    memo: Memo, method: str, network: str, num_steps: int, seed: int, budget: int, more_steps: Sequence[int] = ()
) -> Run:
    trails: list[Trail] = []
    program = searched(recipe_of(method, network, num_steps, seed, budget), trails, more_steps)
    measured = run_program(program, memo, Relay(trails))
    distances = [(result.value, result.standard_error) for _, result in measured]
    on_the_way = len(measured) - 2 * len(more_steps)
    trail = tuple((images, *distance) for ((images, _), _), distance in zip(measured, distances, strict=True))
    further = distances[on_the_way:]
    longer = zip(more_steps, further[::2], further[1::2], strict=True)
    return Run(method, network, num_steps, seed, trail[:on_the_way], tuple(Longer(*line) for line in longer))


def published(runs: list[Run]) -> dict[tuple[str, int, int], Run]:
    """The published search's runs, by network, steps and seed: their best is what the others must reach."""
    return {(run.network, run.num_steps, run.seed): run for run in runs if run.method == "official"}


def table(runs: list[Run]) -> str:
    """One line a run; the published search's best of the same network, steps and seed is what the others must reach."""
    lines = [
        "| network Beta | T | seed | method | images spent | held-out distance at the end "
        "| its best on the way, at images | images to the published search's best | fewer by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    targets = published(runs)
    for run in runs:
        target = targets.get((run.network, run.num_steps, run.seed))
        needed = run.images_to(target.best[1]) if target is not None else None
        images, value, error = run.final
        ratio = f"{target.best[0] / needed:.0f}x" if target is not None and needed else ""
        reached = f"{needed:,}" if needed is not None else "not reached"
        lines.append(
            f"| {run.network} | {run.num_steps} | {run.seed} | {run.method} | {images:,} | {value:.3f} +- {error:.3f} "
            f"| {run.best[1]:.3f} at {run.best[0]:,} | {reached if target is not None else ''} | {ratio} |"
        )
    return "\n".join(lines)


def summary(runs: list[Run]) -> str:
    """A line a network, T and method: medians over seeds, beside the published search's best of each seed."""
    lines = [
        "| network Beta | T | method | seeds | images spent | distance at the end | of the published search's best "
        "| images to that best: so many times fewer, by seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    targets = published(runs)
    groups = dict.fromkeys((run.network, run.num_steps, run.method) for run in runs)
    for network, num_steps, method in groups:
        own = [run for run in runs if (run.network, run.num_steps, run.method) == (network, num_steps, method)]
        shares, fewer = [], []
        for run in own:
            target = targets.get((network, num_steps, run.seed))
            if target is None:
                continue
            shares.append(run.final[1] / target.best[1])
            needed = run.images_to(target.best[1])
            if target.best[0] == 0:
                fewer.append("(it was its start)")
            else:
                fewer.append(f"{target.best[0] / needed:.1f}" if needed else "not reached")
        share = f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})" if shares else ""
        images, distance = (statistics.median(run.final[part] for run in own) for part in (0, 1))
        lines.append(
            f"| {network} | {num_steps} | {method} | {len(own)} | {images:,.0f} | {distance:.2f} | {share} "
            f"| {', '.join(fewer)} |"
        )
    return "\n".join(lines)


def longer_table(runs: list[Run]) -> str:
    """A line a run that was carried over to more steps, and a column a number of steps."""
    steps = sorted({line.num_steps for run in runs for line in run.longer})
    columns = [f"{schedule}, T = {number}" for schedule in ("cosine", "its end") for number in steps]
    lines = [
        "| network Beta | T | seed | method | held-out distance at the end | " + " | ".join(columns) + " |",
        "|---" * (5 + len(columns)) + "|",
    ]
    for run in runs:
        found = {line.num_steps: line for line in run.longer}
        cells = [found[number].cosine for number in steps] + [found[number].carried_over for number in steps]
        values = " | ".join(f"{value:.3f} +- {error:.3f}" for value, error in [run.final[1:], *cells])
        lines.append(f"| {run.network} | {run.num_steps} | {run.seed} | {run.method} | {values} |")
    return "\n".join(lines)


def figure(runs: list[Run], path: Path) -> None:
    """Held-out distance over images spent, one panel a network and number of steps: HTML, or by a browser a PNG."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels = sorted({(run.network, run.num_steps) for run in runs})
    titles = [f"Beta({network.replace(',', ', ')}), T = {steps}" for network, steps in panels]
    plot = make_subplots(cols=len(panels), rows=1, subplot_titles=titles, shared_yaxes=True)
    colours = dict(
        zip(METHODS, ["#000000", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#999999", "#d55e00"], strict=True)
    )
    named: set[str] = set()
    for run in runs:
        # The start has no place on a logarithmic axis: it stands at the left edge.
        images, values, errors = zip(*((max(images, 300), *rest) for images, *rest in run.trail), strict=True)
        plot.add_trace(
            go.Scatter(
                x=images, y=values, error_y={"array": errors}, name=run.method, legendgroup=run.method,
                line={"color": colours[run.method]}, showlegend=run.method not in named,
            ),
            row=1, col=panels.index((run.network, run.num_steps)) + 1,
        )  # fmt: skip
        named.add(run.method)
    plot.update_xaxes(title="images spent by the search", type="log")
    plot.update_yaxes(title="held-out FD(digits-cnn)", type="log", col=1)
    width, height = 160 + 440 * len(panels), 480
    plot.update_layout(template="simple_white", width=width, height=height, margin={"l": 60, "r": 20, "t": 40, "b": 50})
    html = plot.to_html(include_plotlyjs=True)
    path.write_bytes(picture(html, width, height) if path.suffix == ".png" else html.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", default="search.db")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--networks", nargs="+", default=["1,1", "12,3"], help="alpha,beta of the training mask ratio")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--budget", type=int, default=300_000, help="images of each search")
    parser.add_argument(
        "--more-steps",
        type=int,
        nargs="*",
        default=[],
        help="T that ends are carried over to, for what the network allows",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="an HTML page, or with Playwright and a Chromium a .png")
    options = parser.parse_args()
    store = Store.open(options.db)
    runs: list[Run] = []
    with ProcessExecutor(str(store.artifacts.folder), options.workers) as executor:
        memo = Memo(store, executor)
        for network in options.networks:
            for num_steps in options.steps:
                for seed in options.seeds:
                    for method in options.methods:
                        runs.append(measure(memo, method, network, num_steps, seed, options.budget, options.more_steps))
                        print(table(runs).splitlines()[-1], flush=True)
    text = "\n\n".join([summary(runs), table(runs), *([longer_table(runs)] if options.more_steps else [])])
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(run) for run in runs], indent=1))
    if options.figure:
        figure(runs, options.figure)


if __name__ == "__main__":
    main()
