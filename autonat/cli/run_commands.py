"""Commands that run studies, and say beforehand what they cost."""

from pathlib import Path
from typing import Annotated

import typer

from autonat.cli.application import app
from autonat.cli.shared import (
    DEFAULT_DATABASE,
    AddressOption,
    ArtifactsOption,
    DatabaseOption,
    ExecutorOption,
    FromStudyOption,
    GpusOption,
    JsonOption,
    OverridesArgument,
    RecipeArgument,
    WorkersOption,
    executor_choice,
    make_console,
    recipe_of,
    run_recipe,
    save_report,
)
from autonat.cli.tables import result_json, schedule_table, summary_table

PANEL = "Run"


@app.command(rich_help_panel=PANEL, epilog="Example: autonat quickstart --json result.json")
def quickstart(
    overrides: OverridesArgument = None,
    db: DatabaseOption = DEFAULT_DATABASE,
    json_file: JsonOption = None,
    report_file: Annotated[Path, typer.Option("--report", help="Where the HTML report goes.")] = Path(
        "quickstart.html"
    ),
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    gpus_per_worker: GpusOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """A whole study on real digits in a few minutes: training, search, report."""
    import json

    from autonat.config import load_recipe
    from autonat.storage.files import write_atomically

    recipe = load_recipe("quickstart", overrides or ())
    store, row = run_recipe(recipe, db, executor_choice(executor, workers, address, gpus_per_worker), artifacts)
    assert row.summary is not None
    if json_file is not None:
        write_atomically(json_file, (json.dumps(result_json(row, row.summary), indent=2) + "\n").encode())
    save_report(store, row.name, report_file)
    console = make_console()
    console.print(summary_table(row.name, row.summary, row.seconds))
    console.print(schedule_table(row.summary["schedule"], "Tuned schedule"))
    console.print(f"Report: {report_file}   Take the schedule away: autonat export {row.name} --to schedule.json")


@app.command(rich_help_panel=PANEL, epilog="Example: autonat run digits seed=1 name=digits-1")
def run(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    db: DatabaseOption = DEFAULT_DATABASE,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    gpus_per_worker: GpusOption = None,
    artifacts: ArtifactsOption = None,
    from_study: FromStudyOption = None,
) -> None:
    """Run a recipe's study, or go on with it from wherever it was interrupted."""
    choice = executor_choice(executor, workers, address, gpus_per_worker)
    _, row = run_recipe(recipe_of(recipe, overrides, db, from_study), db, choice, artifacts)
    assert row.summary is not None
    make_console().print(summary_table(row.name, row.summary, row.seconds))


@app.command(rich_help_panel=PANEL, epilog="Example: autonat plan digits schedule.num_steps=8")
def plan(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    workers: WorkersOption = None,
    db: DatabaseOption = DEFAULT_DATABASE,
    from_study: FromStudyOption = None,
) -> None:
    """Say what a study will cost before it starts, after a calibration of a few seconds."""
    from autonat.execution.choice import ExecutorChoice
    from autonat.plan import plan as make_plan

    loaded = recipe_of(recipe, overrides, db, from_study)
    count = ExecutorChoice(workers=workers).local_workers(loaded.compute.device)
    expected = make_plan(loaded, count)
    steps = f" of {loaded.training.steps:,} steps" if loaded.training is not None else ""
    time = f"not estimated: this machine has no {loaded.compute.device} device"
    if expected.seconds is not None:
        time = f"about {expected.seconds / 60:.1f} min on {count or 1} workers of this machine"
    lines = [
        f"Study {loaded.name}, a typical run (a search's path depends on what it finds):",
        f"  trainings       {expected.trainings}{steps}",
        f"  evaluations     {expected.evaluations:,}",
        f"  gradients       {expected.gradients:,}",
        f"  images          {expected.images:,}",
        f"  forward passes  {expected.forward_passes:,} (of one image through the network)",
        f"  time            {time}",
    ]
    for key, file in loaded.files().items():
        lines.append(f"  {'file' if file.exists() else 'MISSING'}  {key}: {file.path}")
    make_console().print("\n".join(lines), highlight=False)
