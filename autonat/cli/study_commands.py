"""Commands that look after studies."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autonat.cli.application import app
from autonat.cli.shared import (
    DEFAULT_DATABASE,
    AddressOption,
    DatabaseOption,
    ExecutorOption,
    GpusOption,
    StudyArgument,
    WorkersOption,
    executor_choice,
    finished,
    make_console,
    opened,
    recorded_device,
)
from autonat.cli.tables import mask_ratio_label, result_json, schedule_table, summary_table
from autonat.errors import UserError

if TYPE_CHECKING:
    from autonat.storage.store import Store, StudyRow

PANEL = "Look after studies"


@app.command("list", rich_help_panel=PANEL, epilog="Example: autonat list --db results.db")
def list_studies(db: DatabaseOption = DEFAULT_DATABASE) -> None:
    """All studies in a database."""
    from rich.table import Table

    table = Table()
    for column in ("study", "state", "default", "tuned", "images", "time"):
        table.add_column(column, justify="left" if column in ("study", "state") else "right")
    for row in opened(db).studies():
        cells = ["", "", ""]
        if row.summary is not None:
            cells = [
                f"{row.summary['baseline']['value']:.3f}",
                f"{row.summary['tuned']['value']:.3f} +- {row.summary['tuned']['standard_error']:.3f}",
                f"{row.summary['images_spent']:,}",
            ]
        table.add_row(row.name, row.state, *cells, f"{row.seconds:.0f} s")
    make_console().print(table)


@app.command(rich_help_panel=PANEL, epilog="Example: autonat show quickstart --tasks")
def show(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    tasks: Annotated[bool, typer.Option("--tasks", help="Also the task ledger: who did what, when.")] = False,
    last: Annotated[int, typer.Option(min=1, help="With --tasks: so many of the latest rows.")] = 100,
    logs: Annotated[bool, typer.Option("--logs", help="Only where Ray's own logs of its runs are.")] = False,
) -> None:
    """A study's state, what it decided on the way, what its tasks came to, and its result."""
    from autonat.phase_table import phase_table

    store = opened(db)
    row = store.study(study)
    if logs:
        _print_logs(store, row)
        return
    console = make_console()
    console.print(f"Study {row.name}: {row.state}, {row.seconds:.0f} s" + (f". {row.error}" if row.error else ""))
    decisions = store.decisions(row.id)
    for entry in decisions:
        if entry["purpose"] == "gradient":
            continue
        console.print(
            f"  {entry['phase']}, round {entry['round']}: {mask_ratio_label(entry['mask_ratio'])}, distance "
            f"{entry['distance']:.3f}, gain {entry['gain']:.3f} +- {entry['gain_standard_error']:.3f}, "
            f"{entry['spent_images']:,} images so far",
            highlight=False,
        )
    if row.summary is not None:
        console.print(summary_table(row.name, row.summary, row.seconds))
        console.print(schedule_table(row.summary["baseline_schedule"], "Default schedule"))
        console.print(schedule_table(row.summary["schedule"], "Tuned schedule"))
        if "phases" in row.summary:  # not so in studies of earlier versions
            console.print(phase_table(row.summary["phases"]))
    _print_ended(decisions)
    _print_importance(decisions)
    _print_tasks(store, row, last if tasks else None)


def _print_ended(decisions: list[dict[str, Any]]) -> None:
    """The points of the Beta search whose trainings were left off at rungs."""
    for decision in decisions:
        for point in decision.get("candidates", []):
            if "ended_at_step" in point:
                label, distance = mask_ratio_label(point["mask_ratio"]), point["distance"]
                typer.echo(
                    f"Round {decision['round']}, {label}: training left off at step {point['ended_at_step']:,}, "
                    f"distance {distance:.3f} +- {point['standard_error']:.3f} then"
                )


def _print_importance(decisions: list[dict[str, Any]]) -> None:
    """Which values the distance hangs on, by the gradients that were measured."""
    from rich.table import Table

    from autonat.importance import importance

    rows = importance(decisions)
    if not rows:
        return
    table = Table(title="Which values matter, by the gradients", title_justify="left")
    for column in ("value", "importance", "mean slope"):
        table.add_column(column, justify="left" if column == "value" else "right")
    for row in rows[:8]:
        name = f"{row.family.replace('_', ' ')[:-1]}, step {row.step + 1}"
        table.add_row(name, f"{row.size:.3f}", f"{row.slope:+.3f} +- {row.standard_error:.3f}")
    table.caption = "distance per unit step in the search's coordinates; importance counts what exceeds its own noise"
    make_console().print(table)


def _print_tasks(store: "Store", row: "StudyRow", last: int | None) -> None:
    """The ledger in short, and its last rows."""
    from autonat.storage.task_rows import rows_of, summarize
    from autonat.task_tables import kind_table, task_table

    kinds = summarize(store.database, row.id)
    if kinds:
        make_console().print(kind_table(kinds))
    if last is not None:
        make_console().print(task_table(rows_of(store.database, row.id, last)))


def _print_logs(store: "Store", row: "StudyRow") -> None:
    """Hosts and folders of Ray's logs, by driver."""
    from autonat.execution.ray_logs import read_notes
    from autonat.storage.task_rows import drivers_of

    notes = read_notes(store.artifacts.folder, drivers_of(store.database, row.id))
    for driver, host, folders in notes:
        make_console().print(f"driver {' '.join(driver.split()[:2])}: {host}: {', '.join(folders)}", highlight=False)
    if not notes:
        make_console().print(f"No run of {row.name} used Ray (or its notes in {store.artifacts.folder} are gone)")


@app.command(rich_help_panel=PANEL, epilog="Example: autonat stop digits")
def stop(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    wait: Annotated[bool, typer.Option("--wait", help="Return only when nothing runs any more.")] = False,
) -> None:
    """End a running study after its tasks in flight; `autonat run` goes on with it."""
    import time

    from autonat.storage.store import Store

    opened(db).study(study)
    store = Store.open(db)
    store.request_stop(study)
    make_console().print(f"Study {study} ends after its tasks in flight; the same `autonat run` goes on from there")
    while wait and store.study(study).state == "running":
        time.sleep(0.5)


@app.command(rich_help_panel=PANEL, epilog="Example: autonat verify digits --count 10 --seed 1")
def verify(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    count: Annotated[int | None, typer.Option(min=1, help="How many results. Default: 5.", show_default=False)] = None,
    fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="Or which share of all results.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 0,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    gpus_per_worker: GpusOption = None,
) -> None:
    """Compute a random sample of a study's results again and compare bits; exit status 1 where one differs."""
    from autonat.verify import sample_size
    from autonat.verify import verify as compare_again

    if count is not None and fraction is not None:
        raise UserError("give either --count or --fraction")
    store = opened(db)
    row = store.study(study)
    total = len(store.recorded_specs(row.id))
    if total == 0:
        raise UserError(f"study {study!r} has no results yet")
    choice, device = executor_choice(executor, workers, address, gpus_per_worker), recorded_device(row)
    console = make_console()
    verdicts = compare_again(
        store,
        row.id,
        lambda artifacts: choice.executor(artifacts, device),
        size=sample_size(total, count, fraction),
        seed=seed,
    )
    words = {True: "same", False: "DIFFERS", None: "not computed"}
    for verdict in verdicts:
        line = f"{words[verdict.same]:12} {verdict.kind} {verdict.fingerprint[:12]}"
        console.print(line + (f": {verdict.note}" if verdict.note else ""), highlight=False)
    different = [verdict for verdict in verdicts if verdict.same is False]
    done = [verdict for verdict in verdicts if verdict.same is not None]
    console.print(
        f"{len(done)} of {total:,} results computed again, {len(different)} differ"
        + (f"; {len(verdicts) - len(done)} could not be computed" if len(done) < len(verdicts) else ""),
        highlight=False,
    )
    if different:
        raise typer.Exit(1)
    if not done:
        raise UserError("nothing was verified")


@app.command(rich_help_panel=PANEL, epilog="Example: autonat compare digits digits-official")
def compare(
    studies: Annotated[list[str], typer.Argument(help="Two studies or more.")], db: DatabaseOption = DEFAULT_DATABASE
) -> None:
    """Put finished studies side by side."""
    from rich.table import Table

    store = opened(db)
    rows = [finished(store, name) for name in studies]
    if len(studies) < 2:
        raise UserError(f"comparing needs two studies or more; `autonat show {studies[0]}` shows one")
    table = Table(title="Held-out distances, +- one standard error", title_justify="left")
    table.add_column("")
    for row, _ in rows:
        table.add_column(row.name, justify="right")
    for key, label in (("baseline", "default"), ("tuned_schedule", "tuned schedule"), ("tuned", "tuned pair")):
        cells = [f"{summary[key]['value']:.3f} +- {summary[key]['standard_error']:.3f}" for _, summary in rows]
        table.add_row(label, *cells)
    table.add_row("mask ratio", *[mask_ratio_label(summary["mask_ratio"]) for _, summary in rows])
    table.add_row("images spent", *[f"{summary['images_spent']:,}" for _, summary in rows])
    table.add_row("trainings", *[str(summary["trainings"]) for _, summary in rows])
    table.add_row("time", *[f"{row.seconds:.0f} s" for row, _ in rows])
    table.add_row("metric", *[summary["metric"] for _, summary in rows])
    console = make_console()
    console.print(table)
    if len({summary["metric"] for _, summary in rows}) > 1:
        console.print("These studies were measured with different feature networks: their distances do not compare.")


@app.command(rich_help_panel=PANEL, epilog="Example: autonat best quickstart")
def best(study: StudyArgument, db: DatabaseOption = DEFAULT_DATABASE) -> None:
    """The best pair a study found, as JSON on standard output."""
    import json

    row, summary = finished(opened(db), study)
    typer.echo(json.dumps(result_json(row, summary), indent=2))


@app.command(rich_help_panel=PANEL, epilog="Example: autonat delete quickstart --yes")
def delete(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a study, with the results and checkpoints that no other study uses."""
    from autonat.storage.store import Store

    opened(db).study(study)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("deleting needs --yes where nobody can be asked")
        typer.confirm(f"Delete study {study} and its checkpoints?", abort=True)
    removed = Store.open(db).delete(study)
    make_console().print(f"Deleted {study}: {removed.results} results that no other study uses")
    if removed.left:
        make_console().print(f"{removed.left} were left while another study is being run: `autonat gc` removes them")


@app.command(rich_help_panel=PANEL, epilog="Example: autonat gc --yes")
def gc(
    db: DatabaseOption = DEFAULT_DATABASE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove results and checkpoints that no study has any use for."""
    from autonat.storage.store import Store

    opened(db)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("removing needs --yes where nobody can be asked")
        typer.confirm("Remove results that no study asked for?", abort=True)
    make_console().print(f"Removed {Store.open(db).gc()} results that no study uses")
