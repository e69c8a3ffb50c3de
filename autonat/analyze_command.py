"""`autonat analyze`: ENAT's own analyses on a study's data. What each one does is in ``autonat.analyses``."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from autonat.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from autonat.analyses.findings import Findings
    from autonat.analyses.subject import Subject
    from autonat.execution.choice import ExecutorChoice
    from autonat.search.program import Laboratory, Pair
    from autonat.storage.store import Store, StudyRow

ANALYSES = ("networks", "decoder-attention", "one-step", "feature-change", "canvases", "size")


def seeds_of(text: str) -> tuple[int, ...]:
    """Training seeds written as 0,1 or "0 1". Raises UserError for anything else, and for one twice."""
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise UserError(f"--seeds {text!r}: write whole numbers from 0 on, as 0,1")
    seeds = tuple(int(part) for part in parts)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text!r} names one twice")
    return seeds


def check_name(what: str) -> None:
    """Raises UserError for a name that is no analysis."""
    if what not in ANALYSES:
        raise UserError(f"no analysis {what!r}: there are {', '.join(ANALYSES)}")


def subject_of(
    store: "Store", row: "StudyRow", lab: "Laboratory", tuned: "Pair", seeds: tuple[int, ...], images: int | None
) -> "Subject":
    """What is looked at. images: of each distance; the study's held-out count unless given. Raises UserError."""
    from autonat.analyses.subject import Subject

    recipe = json.loads(row.recipe)
    num_images = int(recipe["held_out_images"]) if images is None else images
    if num_images < 2 * lab.block_size or num_images % lab.block_size:
        raise UserError(f"--images {num_images}: must be at least two whole blocks of {lab.block_size}")
    return Subject(
        name=row.name,
        lab=lab,
        tuned=tuned,
        study_seed=int(recipe["seed"]),
        seeds=seeds,
        num_images=num_images,
        artifacts=store.artifacts.address,
    )


def analyze(
    store: "Store", row: "StudyRow", subject: "Subject", what: str, choice: "ExecutorChoice", console: "Console"
) -> "Findings":
    """Run one analysis: trainings and measurements by way of the memo, so what is recorded is not computed again."""
    from autonat.memo import Memo
    from autonat.orchestrator import run_program
    from autonat.progress import ProgressReporter

    module: Any = _module(what)
    reporter = ProgressReporter(console, store.artifacts)
    executor = choice.executor(store.artifacts.address, subject.lab.compute.device)
    with reporter, reporter.watch(executor) as watched:
        memo = Memo(store, watched, reporter.say)
        memo.begin(row.id)  # the results belong to the study
        found: Findings = run_program(module.program(subject), memo, reporter)
        memo.tick()
    return found


def _module(what: str) -> ModuleType:
    from importlib import import_module

    check_name(what)
    return import_module(f"autonat.analyses.{what.replace('-', '_')}")


def protocol(subject: "Subject", findings: "Findings") -> str:
    """What every number was measured with, in one sentence."""
    seeds = ", ".join(map(str, subject.seeds))
    trainings = f"training seeds {seeds}" if subject.is_trained else "one checkpoint, no trainings"
    images = findings.num_images or subject.num_images
    return (
        f"Study {subject.name}: {subject.lab.features.metric}, {images:,} images each, mask ratio "
        f"{subject.tuned.mask_ratio.label}, T = {subject.tuned.schedule.num_steps}, {trainings}."
    )


def write(
    findings: "Findings", subject: "Subject", what: str, page: Path, json_file: Path | None, say: Callable[[str], None]
) -> None:
    """The HTML page, the PNG beside it, and JSON where it is asked for."""
    from autonat.analyses.findings import as_json
    from autonat.analyses.page import as_html, as_png
    from autonat.analyses.published import published
    from autonat.storage.files import write_atomically

    beside, picture = published(what), page.with_suffix(".png")
    write_atomically(page, as_html(findings, beside, protocol(subject, findings)).encode())
    write_atomically(picture, as_png(findings))
    if json_file is not None:
        content = {
            "analysis": what,
            **subject.facts(findings.num_images),
            **as_json(findings),
            "published": list(beside.lines),
        }
        write_atomically(json_file, (json.dumps(content, indent=2) + "\n").encode())
    say(f"{page} and {picture}" + (f" and {json_file}" if json_file is not None else ""))


def show(findings: "Findings", subject: "Subject", what: str, console: "Console") -> None:
    """The table, what the papers published, and the verdict."""
    from rich.table import Table

    from autonat.analyses.findings import cells, headings
    from autonat.analyses.published import published

    table = Table(title=f"{findings.title}. {protocol(subject, findings)}", title_justify="left")
    for number, heading in enumerate(headings(findings)):
        table.add_column(heading, justify="left" if number == 0 else "right")
    for row in findings.rows:
        table.add_row(*cells(findings, row))
    console.print(table)
    lines = [findings.reading, "+- are standard errors: over training seeds, and over images."]
    beside = published(what)
    lines += [f"Published ({beside.source}; ImageNet, FID):", *(f"  {line}" for line in beside.lines)]
    for line in [*lines, findings.verdict]:
        console.print(line, highlight=False)
