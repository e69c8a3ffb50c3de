"""The tables of docs/results.md: a recipe's study, the published search with as many images, and schedules set by hand.

For every seed: the study of the recipe; the published search (AutoNAT's settings) on the study's first network, whose
last iteration begins before it has spent what the study had spent when it had its tuned pair; and the presets, on the
first network and on the tuned pair's. All are measured on the study's held-out images, whose seed no search has seen.
Everything lies in one database, so a run that is cut off goes on, and a further seed computes only what is new.

    python -m benchmarks.results cifar10_cpu --db results.db --seeds 0 1 2 --front 2 3 6 8 12 --markdown table.md

Further arguments of the form key=value change the recipe.
"""

import argparse
import json
import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from autonat.analyses.equal_operations import operations
from autonat.analyses.estimates import Measured
from autonat.analyses.findings import Findings, Series
from autonat.analyses.page import as_png
from autonat.cli.tables import mask_ratio_label
from autonat.config import Recipe, load_recipe
from autonat.execution.choice import ExecutorChoice
from autonat.memo import Memo
from autonat.metric_columns import COLUMNS
from autonat.orchestrator import run_program, run_study
from autonat.phases import is_front
from autonat.progress import ProgressReporter
from autonat.search.program import Ask, Laboratory, Pair, Phase, Program
from autonat.specs import Evaluation, Metrics
from autonat.storage.store import Store
from autonat.study_pairs import schedule_of, study_pairs
from autonat.units import with_prefix
from models.frechet import standard_error
from models.schedule import PRESETS

HAND_SET = {"maskgit-cosine": "MaskGIT's cosine", "linear": "linear", "autonat-initial": "AutoNAT's initial"}
COSINE = "maskgit-cosine"
FIRST, TUNED = "the recipe's", "the tuned pair's"


@dataclass(frozen=True)
class Row:
    """One pair of one seed on held-out images. searched: images that the search spent on the way to it; share: of the
    distance of the seed's default, MaskGIT's cosine for the recipe's number of steps on the recipe's network. metrics:
    what the recipe's say of the same images, of the default and of what was searched."""

    seed: int
    network: str
    schedule: str
    num_steps: int
    macs: int
    searched: int
    evaluation: Evaluation
    share: float
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        """What the rows of different seeds have in common."""
        return self.network, self.schedule, self.num_steps


@dataclass(frozen=True)
class Results:
    """All rows, and for each seed the mask ratio of the tuned pair's training."""

    rows: tuple[Row, ...]
    mask_ratios: tuple[tuple[int, str], ...]


def official_of(recipe: Recipe, images: int) -> Recipe:
    """The published search on the recipe's first network, with about so many images."""
    changes = {
        "name": f"{recipe.name}-official",
        "phases": ["schedule"],
        "search": {"method": "official", "iterations": 100_000, "images": 1000},
        "later_search": None,
        "front": (),
        "metrics": (),
        "keep_variety": None,
        "budget_images": images,
    }
    return Recipe.model_validate({**recipe.model_dump(), **changes})


def images_for_pair(summary: dict[str, Any]) -> int:
    """Images that the search had spent when it had the tuned pair, before other numbers of steps."""
    return sum(entry["images"] for entry in summary["phases"] if not is_front(entry["phase"]))


def pairs_to_measure(
    baseline: Pair, tuned: Pair, summary: dict[str, Any], published: dict[str, Any], steps: list[int]
) -> list[tuple[str, str, int, Pair]]:
    """(network, schedule in words, images searched, pair) of every row, the default first."""
    num_steps, rule = baseline.schedule.num_steps, baseline.schedule.rule
    others = sorted(set(steps) - {num_steps})  # what a tuned schedule of fewer steps has to beat

    def by_hand(network: str, pair: Pair, preset: str, steps_here: int) -> tuple[str, str, int, Pair]:
        return network, HAND_SET[preset], 0, replace(pair, schedule=PRESETS[preset](steps_here, rule))

    rows = [by_hand(FIRST, baseline, preset, num_steps) for preset in HAND_SET]
    rows += [by_hand(FIRST, baseline, COSINE, other) for other in others]
    by_published = replace(baseline, schedule=schedule_of(published["schedule"]))
    rows.append((FIRST, "published search", published["images_spent"], by_published))
    network = FIRST
    if tuned.training != baseline.training:
        network = TUNED
        for entry in summary["phases"]:
            if (entry["phase"], entry["round"]) == ("schedule", 0):
                first = replace(baseline, schedule=schedule_of(summary["first_schedule"]))
                rows.append((FIRST, "tuned", entry["images"], first))
        rows += [by_hand(TUNED, tuned, preset, num_steps) for preset in HAND_SET]
    for point in summary["front"]:
        rows.append((network, "tuned", point["images_spent"], replace(tuned, schedule=schedule_of(point["schedule"]))))
    return rows


def measured(
    lab: Laboratory, listed: list[tuple[str, str, int, Pair]], num_images: int, seed: int, names: tuple[str, ...]
) -> Program[tuple[Row, ...]]:
    """The rows of one seed. names: of the metrics."""
    held_out = lab.seed_for("held-out")
    specs = [lab.evaluation(pair, num_images, held_out) for *_, pair in listed]
    searched = [number for number, (_, _, images, _) in enumerate(listed) if names and (images or number == 0)]
    asked = [specs[number].metrics(names) for number in searched]
    results = yield Ask(Phase("held-out", 0, "results"), (*specs, *asked))
    assert results is not None
    evaluations = [result for result in results if isinstance(result, Evaluation)]
    values = [result.values for result in results if isinstance(result, Metrics)]
    further = dict(zip(searched, values, strict=True))
    return tuple(
        Row(seed, network, words, pair.schedule.num_steps, operations(pair.training.network, pair.schedule), images,
            evaluation, evaluation.value / evaluations[0].value, further.get(number, {}))
        for number, ((network, words, images, pair), evaluation) in enumerate(zip(listed, evaluations, strict=True))
    )  # fmt: skip


def several(values: list[int], text: Any) -> str:
    """A number, or the least and the most of several seeds."""
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def table(results: Results) -> str:
    """A line a schedule and network: the seeds side by side, and their mean share of the default. Distances of
    different seeds have a mean only where they are of one metric."""
    seeds = sorted({row.seed for row in results.rows})
    metrics = {row.evaluation.metric for row in results.rows}
    one_metric = len(metrics) == 1
    heading = ["network", "schedule", "T", "FLOPs an image", "images searched", *(f"seed {seed}" for seed in seeds)]
    heading += [*(["mean"] if len(seeds) > 1 and one_metric else []), "of the default"]
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    for key in sorted({row.key for row in results.rows}, key=lambda key: (key[2], key[0], key[1])):
        found = {row.seed: row for row in results.rows if row.key == key}
        cells = [*key[:2], str(key[2])]
        cells.append(several([2 * row.macs for row in found.values()], lambda value: with_prefix(value).strip()))
        cells.append(several([row.searched for row in found.values()], lambda value: f"{value:,}"))
        for seed in seeds:
            row = found.get(seed)
            cells.append(f"{row.evaluation.value:.2f} +- {row.evaluation.standard_error:.2f}" if row else "")
        if len(seeds) > 1 and one_metric:
            cells.append(with_error([row.evaluation.value for row in found.values()]))
        cells.append(with_error([row.share for row in found.values()]))
        lines.append("| " + " | ".join(cells) + " |")
    images = {row.evaluation.num_images for row in results.rows}
    named = ", ".join(sorted(metrics)) if one_metric else "the metric of its own seed: " + ", ".join(sorted(metrics))
    found_ratios = "; ".join(f"seed {seed}, {label}" for seed, label in results.mask_ratios)
    return "\n".join([*lines, "",
        f"{named}, {several(sorted(images), lambda value: f'{value:,}')} held-out images. +-: one standard error, of a "
        f"seed's distance over images, of a mean over seeds. Tuned pair: {found_ratios}."])  # fmt: skip


def metrics_table(results: Results) -> str:
    """A line a row with further metrics; empty without any."""
    rows = sorted((row for row in results.rows if row.metrics), key=lambda row: (row.seed, row.num_steps))
    if not rows:
        return ""
    columns = [column for column in COLUMNS if all(_key(column) in row.metrics for row in rows)]
    heading = ["seed", "network", "schedule", "T", "images searched", "distance", *(name for name, *_ in columns)]
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    for row in rows:
        distance = f"{row.evaluation.value:.2f} +- {row.evaluation.standard_error:.2f}"
        cells = [str(row.seed), row.network, row.schedule, str(row.num_steps), f"{row.searched:,}", distance]
        cells += [f"{row.metrics[_key(column)]:.{column[3]}f}" for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _key(column: tuple[str, str, bool, int]) -> str:
    _, key, deviates, _ = column
    return f"{key}_mean" if deviates else key


def with_error(values: list[float]) -> str:
    """The mean over seeds and its standard error, where there are several."""
    error = standard_error(values)
    return f"{statistics.mean(values):.2f}" + (f" +- {error:.2f}" if error == error else "")


def plot(results: Results) -> bytes:
    """Distance over operations: MaskGIT's cosine on the first network, and the tuned pair's front. Bars: one standard
    error, over seeds where there are several (each has images of its own, so that theirs is in it)."""
    tuned_network = TUNED if any(row.network == TUNED for row in results.rows) else FIRST
    names = {
        (FIRST, HAND_SET[COSINE]): "MaskGIT's cosine, the recipe's network",
        (tuned_network, "tuned"): f"tuned schedule, {tuned_network} network",
    }
    series = []
    for about, name in names.items():
        chosen = [row for row in results.rows if row.key[:2] == about]
        steps = sorted({row.num_steps for row in chosen})
        groups = [[row for row in chosen if row.num_steps == number] for number in steps]
        if not groups:
            continue
        points = []
        for group in groups:
            shares = group[0].evaluation.shares if len(group) == 1 else ()
            points.append(Measured(tuple(row.evaluation.value for row in group), (shares,) * len(group)))
        series.append(Series(name, [2e-6 * statistics.mean(row.macs for row in group) for group in groups], points))
    metric = results.rows[0].evaluation.metric
    return as_png(Findings("", "", (), (), "", ("MFLOPs of one image", f"held-out {metric}"), tuple(series)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--db", default="results.db")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 3, 4, 6, 8, 12], help="T of MaskGIT's cosine")
    parser.add_argument("--front", type=int, nargs="*", default=[], help="other T that the tuned pair is tuned for")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="a PNG of distance over operations, for seeds of one metric")
    options = parser.parse_intermixed_args()
    store = Store.open(options.db)
    console = Console(width=200, markup=False)
    results = Results((), ())
    for seed in options.seeds:
        front = [f"front=[{','.join(map(str, options.front))}]"] if options.front else []
        name = f"{Path(options.recipe).stem}-{seed}" + ("-front" if front else "")
        recipe = load_recipe(options.recipe, [f"name={name}", *options.overrides, f"seed={seed}", *front])
        reporter = ProgressReporter(console, store.artifacts)
        executor = ExecutorChoice(workers=options.workers).executor(store.artifacts.address, recipe.compute.device)
        with reporter, reporter.watch(executor) as watched:
            memo = Memo(store, watched, reporter.say)
            summary = run_study(recipe, store, memo, reporter)
            published = run_study(official_of(recipe, images_for_pair(summary)), store, memo, reporter)
            row = store.study(recipe.name)
            memo.begin(row.id)  # the results belong to the study
            lab, baseline, tuned = study_pairs(row, summary)
            metrics = tuple(name for name in recipe.metrics if name != "fid")
            listed = pairs_to_measure(baseline, tuned, summary, published, options.steps)
            rows = run_program(measured(lab, listed, summary["tuned"]["num_images"], seed, metrics), memo)
        label = mask_ratio_label(summary["mask_ratio"])
        results = Results((*results.rows, *rows), (*results.mask_ratios, (seed, label)))
        console.print(table(results) + "\n\n" + metrics_table(results))
    if options.markdown:
        options.markdown.write_text("\n\n".join(filter(None, (table(results), metrics_table(results)))) + "\n")
    if options.json:
        options.json.write_text(json.dumps(asdict(results), indent=1) + "\n")
    if options.figure:
        options.figure.write_bytes(plot(results))


if __name__ == "__main__":
    main()
