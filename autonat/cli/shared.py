"""What several commands take, open and run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autonat.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from autonat.config import Recipe
    from autonat.execution.choice import ExecutorChoice
    from autonat.storage.store import Store, StudyRow

DatabaseOption = Annotated[
    str, typer.Option("--db", envvar="AUTONAT_DB", help="Database: an SQLite file or an SQLAlchemy URL.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Workers; 0 stays in this process. Default: one a core, on a GPU one, with --address all there are.",
        show_default=False,
    ),
]
ExecutorOption = Annotated[str, typer.Option(help="Where work is done: local processes, or ray.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="With ray: a running cluster, as auto, HOST:PORT or ray://HOST:PORT. Default: one for this run, here.",
        show_default=False,
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        min=0,
        help="With ray: 0.25 lets four workers share a GPU. Default: 1 for compute.device cuda, else 0.",
        show_default=False,
    ),
]
ArtifactsOption = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        envvar="AUTONAT_ARTIFACTS",
        help="Folder or fsspec URL for checkpoints; the database remembers it. Default: beside an SQLite file.",
        show_default=False,
    ),
]
RecipeArgument = Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe in studies/.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe, as key.subkey=value.", show_default=False)
]
FromStudyOption = Annotated[
    str | None,
    typer.Option(
        "--from-study",
        help="Start from the schedule that this finished study tuned, interpolated where T differs.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the result as JSON to this file.", show_default=False)
]
DecodingThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="Threads that decode images ahead.")]
StudyArgument = Annotated[str, typer.Argument(help="A study's name; `autonat list` shows them.")]
DEFAULT_DATABASE = "autonat.db"


def make_console() -> "Console":
    from rich.console import Console

    # Without a terminal lines keep their length, so that they can be read by programs.
    return Console(width=None if sys.stdout.isatty() else 200, markup=False)


def executor_choice(
    kind: str, workers: int | None, address: str | None, gpus_per_worker: float | None
) -> "ExecutorChoice":
    from autonat.execution.choice import ExecutorChoice

    return ExecutorChoice(kind, workers, address, gpus_per_worker)


def run_recipe(
    recipe: "Recipe", db: str, choice: "ExecutorChoice", artifacts: str | None
) -> tuple["Store", "StudyRow"]:
    from autonat.memo import Memo
    from autonat.orchestrator import run_study
    from autonat.progress import ProgressReporter
    from autonat.storage.store import Store

    if choice.kind == "local" and recipe.compute.device != "cpu":  # before a study of that name is begun
        from autonat.execution.worker import device_of

        device_of(recipe.compute)
    store = Store.open(db, artifacts)
    reporter = ProgressReporter(make_console(), store.artifacts)
    executor = choice.executor(store.artifacts.address, recipe.compute.device)
    with reporter, reporter.watch(executor) as watched:
        run_study(recipe, store, Memo(store, watched, reporter.say), reporter)
    return store, store.study(recipe.name)


def recipe_of(name: str, overrides: list[str] | None, db: str, from_study: str | None) -> "Recipe":
    """A recipe, with the schedule of an earlier study of the database where it asks for one."""
    from autonat.config import load_recipe
    from autonat.earlier_study import tuned_schedule

    changes = [*(overrides or ()), *([f"schedule.study='{from_study}'"] if from_study is not None else [])]
    return load_recipe(name, changes, lambda study, num_steps: tuned_schedule(opened(db), study, num_steps))


def recorded_device(row: "StudyRow") -> str:
    """What a study's recipe computes on."""
    import json

    return str(json.loads(row.recipe).get("compute", {}).get("device", "cpu"))


def opened(db: str) -> "Store":
    from autonat.storage.store import Store

    return Store.open(db, readonly=True)


def opened_to_record(db: str) -> "Store":
    """A database that results are added to; one that is not there is an error, as for a reader."""
    from autonat.storage.store import Store

    return Store.open(db, may_create=False)


def finished(store: "Store", name: str) -> tuple["StudyRow", dict[str, Any]]:
    row = store.study(name)
    if row.summary is None:
        raise UserError(f"study {name!r} is {row.state} and has no result yet: `autonat run` its recipe to go on")
    return row, row.summary


def require_checkpoints(store: "Store", pairs: list[Any]) -> None:
    from autonat.specs import TrainSpec, fingerprint

    for pair in pairs:
        if not isinstance(pair.training, TrainSpec):
            continue  # a file of the user's, which says itself what is wrong with it
        found, name = store.result(pair.training), fingerprint(pair.training)
        if found is None or found[1] is None or store.artifacts.flaw(name, found[1]) is not None:
            path = store.artifacts.path(name)
            raise UserError(f"checkpoint {path} is missing or damaged: `autonat run` the recipe to train it again")


def save_report(store: "Store", study: str, path: Path) -> None:
    from autonat.pictures import captioned
    from dashboards.report import write_report

    grids = captioned(store, study)
    write_report(store, study, path, grids)
