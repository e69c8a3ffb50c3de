"""The tables of docs/results.md: a recipe's study, the published search with as many images, and schedules set by hand.

For every seed: the study of the recipe; the published search (AutoNAT's settings) on the study's first network, until
it has spent the images that the whole study spent; and the presets, on the first network and on the tuned pair's. All
are measured on the study's held-out images, whose seed no search has seen. Everything lies in one database, so a run
that is cut off goes on, and a further seed computes only what is new.

    python -m benchmarks.results cifar10_cpu --db results.db --seeds 0 1 2 --front 2 3 6 8 12 --markdown table.md

Further arguments of the form key=value change the recipe.
"""

import argparse
import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console

from autonat.analyses.estimates import Measured
from autonat.analyses.findings import Findings, Series
from autonat.analyses.page import as_png
from autonat.cli.shared import pairs_of
from autonat.cli.tables import mask_ratio_label
from autonat.config import Recipe, load_recipe
from autonat.execution.executor import ProcessExecutor
from autonat.memo import Memo
from autonat.orchestrator import run_program, run_study
from autonat.progress import ProgressReporter
from autonat.search.program import Pair, Phase, Program
from autonat.specs import Evaluation
from autonat.storage.store import Store
from autonat.units import with_prefix
from models.counts import image_counts
from models.schedule import PRESETS, GenerationSchedule

HAND_SET = {"maskgit-cosine": "MaskGIT's cosine", "linear": "linear", "autonat-initial": "AutoNAT's initial"}
FIRST, TUNED = "the recipe's", "tuned pair's"


@dataclass(frozen=True)
class Row:
    """One pair of one seed on held-out images. searched: images that the search spent on the way to it."""

    seed: int
    network: str
    schedule: str
    num_steps: int
    macs: int
    searched: int
    evaluation: Evaluation


def official_of(recipe: Recipe, seed_name: str, images: int) -> Recipe:
    """The published search on the recipe's first network, with so many images."""
    search = {"method": "official", "iterations": 100_000, "images": 1000}
    changes = {
        "name": f"{seed_name}-official",
        "phases": ["schedule"],
        "search": search,
        "later_search": None,
        "front": (),
        "metrics": (),
        "budget_images": images,
    }
    return Recipe.model_validate({**recipe.model_dump(), **changes})


def images_of(summary: dict[str, Any], phase: str) -> int:
    """Images that a phase spent before the first change of the network."""
    return sum(entry["images"] for entry in summary["phases"] if (entry["phase"], entry["round"]) == (phase, 0))


def images_for_pair(summary: dict[str, Any]) -> int:
    """Images that the search had spent when it had the tuned pair, before other numbers of steps."""
    return sum(entry["images"] for entry in summary["phases"] if not entry["phase"].startswith("front"))


def measured(store: Store, memo: Memo, name: str, published: dict[str, Any], steps: list[int], seed: int) -> list[Row]:
    """All rows of one seed."""
    row = store.study(name)
    summary: dict[str, Any] = row.summary or {}
    lab, baseline, tuned = pairs_of(store, row, summary)
    tuned_name = f"trained with {mask_ratio_label(summary['mask_ratio'])}"
    for_pair = images_for_pair(summary)
    listed: list[tuple[str, str, int, Pair]] = []
    num_steps, rule = baseline.schedule.num_steps, baseline.schedule.rule
    for preset, words in HAND_SET.items():
        listed.append((FIRST, words, 0, replace(baseline, schedule=PRESETS[preset](num_steps, rule))))
        listed.append((tuned_name, words, 0, replace(tuned, schedule=PRESETS[preset](num_steps, rule))))
    cosine = "maskgit-cosine"  # at other numbers of steps too: what a tuned schedule of fewer has to beat
    for other in sorted(set(steps) - {num_steps}):
        listed.append((FIRST, HAND_SET[cosine], 0, replace(baseline, schedule=PRESETS[cosine](other, rule))))
    by_published = replace(baseline, schedule=schedule_of(published["schedule"]))
    listed.append((FIRST, "published search", published["images_spent"], by_published))
    first = replace(baseline, schedule=schedule_of(summary["first_schedule"]))
    listed.append((FIRST, "tuned", images_of(summary, "schedule"), first))
    for point in summary["front"]:
        pair = replace(tuned, schedule=schedule_of(point["schedule"]))
        further = images_of(summary, f"front T={pair.schedule.num_steps}")
        listed.append((tuned_name, "tuned", for_pair + further, pair))

    def program() -> Program[list[Evaluation]]:
        held_out = lab.seed_for("held-out")
        specs = [lab.evaluation(pair, summary["tuned"]["num_images"], held_out) for *_, pair in listed]
        return (yield from lab.evaluate(Phase("held-out", 0, "results"), specs))

    evaluations = run_program(program(), memo)
    return [
        Row(seed, network, words, pair.schedule.num_steps, operations(pair), images, evaluation)
        for (network, words, images, pair), evaluation in zip(listed, evaluations, strict=True)
    ]


def schedule_of(data: dict[str, Any]) -> GenerationSchedule:
    """Of a summary, where tuples are lists."""
    return TypeAdapter(GenerationSchedule).validate_python(data)


def operations(pair: Pair) -> int:
    """Multiply-accumulates of one image, the first step read from its table as the sampler does."""
    return sum(step.macs for step in image_counts(pair.training.network, pair.schedule, first_logits=True))


def table(rows: list[Row]) -> str:
    """A line a schedule and network, the seeds side by side, and their mean with the seeds' standard error."""
    seeds = sorted({row.seed for row in rows})
    heading = ["network", "schedule", "T", "FLOPs an image", "images searched"]
    heading += [f"seed {seed}" for seed in seeds] + (["mean"] if len(seeds) > 1 else [])
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    for network, schedule, num_steps in sorted({key_of(row) for row in rows}, key=lambda key: (key[2], key[0], key[1])):
        found = {row.seed: row for row in rows if key_of(row) == (network, schedule, num_steps)}
        some = next(iter(found.values()))
        cells = [network, schedule, str(num_steps), f"{with_prefix(2 * some.macs)}".strip(), f"{some.searched:,}"]
        for seed in seeds:
            row = found.get(seed)
            cells.append(f"{row.evaluation.value:.2f} +- {row.evaluation.standard_error:.2f}" if row else "")
        values = [row.evaluation.value for row in found.values()]
        if len(seeds) > 1:
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):.2f} +- {error:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    found_ratios = sorted({(row.seed, row.network) for row in rows if row.network != FIRST})
    return "\n".join(
        [*lines, "", "Tuned pair: " + "; ".join(f"seed {seed}, {words}" for seed, words in found_ratios) + "."]
    )


def key_of(row: Row) -> tuple[str, str, int]:
    """What the rows of different seeds have in common; each seed may have found another Beta."""
    return (FIRST if row.network == FIRST else TUNED, row.schedule, row.num_steps)


def plot(rows: list[Row]) -> bytes:
    """Distance over operations: MaskGIT's cosine on the first network, and the tuned pair's front."""
    names = {(FIRST, HAND_SET["maskgit-cosine"]): "MaskGIT's cosine, first network"}
    names[(TUNED, "tuned")] = "tuned schedule and network"
    series = []
    for (network, schedule), name in names.items():
        chosen = [row for row in rows if key_of(row)[:2] == (network, schedule)]
        steps = sorted({row.num_steps for row in chosen})
        groups = [[row for row in chosen if row.num_steps == number] for number in steps]
        if groups:
            x = [2e-6 * statistics.mean(row.macs for row in group) for group in groups]
            series.append(Series(name, x, [Measured.of([row.evaluation for row in group]) for group in groups]))
    metric = rows[0].evaluation.metric
    return as_png(Findings("", "", (), (), "", ("MFLOPs of one image", f"held-out {metric}"), tuple(series)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--db", default="results.db")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 3, 4, 6, 8, 12], help="T of MaskGIT's cosine")
    parser.add_argument("--front", type=int, nargs="*", default=[], help="other T that the tuned pair is tuned for")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="a PNG of distance over operations")
    options = parser.parse_intermixed_args()
    store = Store.open(options.db)
    console = Console(width=160, markup=False)
    rows: list[Row] = []
    with ProcessExecutor(str(store.artifacts.folder), options.workers) as executor:
        reporter = ProgressReporter(console, store.artifacts)
        with reporter, reporter.watch(executor) as watched:
            memo = Memo(store, watched, reporter.say)
            for seed in options.seeds:
                name = f"{options.recipe}-{seed}"
                front = [f"front=[{','.join(map(str, options.front))}]"] if options.front else []
                recipe = load_recipe(options.recipe, [*options.overrides, f"seed={seed}", f"name={name}", *front])
                summary = run_study(recipe, store, memo, reporter)
                official = official_of(recipe, name, images_for_pair(summary))
                published = run_study(official, store, memo, reporter)
                memo.begin(store.study(name).id)  # the results belong to the study
                rows += measured(store, memo, name, published, options.steps, seed)
                console.print(table(rows))
    if options.markdown:
        options.markdown.write_text(table(rows) + "\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if options.figure:
        options.figure.write_bytes(plot(rows))


if __name__ == "__main__":
    main()
