"""Commands that look at what a study found, and take it away."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autonat.cli.application import app
from autonat.cli.shared import (
    DEFAULT_DATABASE,
    AddressOption,
    DatabaseOption,
    ExecutorOption,
    GpusOption,
    JsonOption,
    StudyArgument,
    WorkersOption,
    executor_choice,
    finished,
    make_console,
    opened,
    opened_to_record,
    require_checkpoints,
    save_report,
)
from autonat.cli.tables import schedule_table
from autonat.errors import UserError

if TYPE_CHECKING:
    from autonat.storage.store import Store

PANEL = "Use what was found"


@app.command(rich_help_panel=PANEL, epilog="Example: autonat sample quickstart --to samples.png --per-class 12")
def sample(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    to: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("samples.png"),
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Images a class and side.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
) -> None:
    """A picture of samples, a row a class: the baseline's left, the tuned pair's right, from the same noise."""
    from autonat.storage.files import write_atomically

    store = opened(db)
    write_atomically(to, _grid(store, study, per_class, seed))
    make_console().print(f"{to}: default left, tuned right")


def _grid(store: "Store", study: str, per_class: int, seed: int) -> bytes:
    from autonat.grids import sample_grid
    from autonat.study_pairs import study_pairs

    row, summary = finished(store, study)
    lab, baseline, tuned = study_pairs(row, summary)
    require_checkpoints(store, [baseline, tuned])
    specs = [lab.evaluation(pair, 2 * lab.block_size, seed) for pair in (baseline, tuned)]
    return sample_grid(store.artifacts, specs, per_class=per_class, seed=seed)


@app.command(rich_help_panel=PANEL, epilog="Example: autonat evaluate quickstart --images 20000 --seed 7")
def evaluate(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    images: Annotated[int, typer.Option(help="Images each.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of labels and noise, apart from the study's own.")] = 1,
    schedule: Annotated[
        Path | None, typer.Option(help="Also the tuned network under the schedule of this file, see `import`.")
    ] = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    gpus_per_worker: GpusOption = None,
) -> None:
    """Measure a study's baseline and tuned pair again on a seed of your choice; recorded like any evaluation."""
    from autonat.memo import Memo
    from autonat.progress import ProgressReporter
    from autonat.specs import Evaluation, paired_difference
    from autonat.study_pairs import study_pairs

    store = opened_to_record(db)
    row, summary = finished(store, study)
    lab, baseline, tuned = study_pairs(row, summary)
    pairs = {"default": baseline, "tuned": tuned}
    if schedule is not None:
        from dataclasses import replace

        from autonat.export.formats import read_schedule

        imported = read_schedule(schedule, num_steps=tuned.schedule.num_steps)[1]
        pairs["file"] = replace(tuned, schedule=imported.schedule)
    try:
        specs = [lab.evaluation(pair, images, lab.seed_for("user", seed)) for pair in pairs.values()]
    except ValueError as error:
        raise UserError(f"--images {images}: {error}") from error
    console = make_console()
    reporter = ProgressReporter(console, store.artifacts)
    choice = executor_choice(executor, workers, address, gpus_per_worker)
    chosen = choice.executor(store.artifacts.address, lab.compute.device)
    with reporter, reporter.watch(chosen) as watched:
        memo = Memo(store, watched, reporter.say)
        memo.begin(row.id)  # the results belong to the study
        results = memo.fulfil(specs)
        memo.tick()
    evaluations = [result for result in results if isinstance(result, Evaluation)]
    for label, evaluation in zip(pairs, evaluations, strict=True):
        console.print(f"{label:8} {evaluation.value:.4f} +- {evaluation.standard_error:.4f}", highlight=False)
    protocol = f"{evaluations[0].metric}, {images:,} images, paired noise"
    for label, evaluation in zip(("change", "of file"), evaluations[1:], strict=False):
        change, error_of_change = paired_difference(evaluation, evaluations[0])
        console.print(f"{label:8} {change:.4f} +- {error_of_change:.4f}  {protocol}", highlight=False)


@app.command(
    rich_help_panel=PANEL, epilog="Example: autonat analyze digits networks --seeds 0,1,2 --json networks.json"
)
def analyze(
    study: StudyArgument,
    what: Annotated[
        str,
        typer.Argument(help="networks, decoder-attention, one-step, feature-change, canvases, size; docs/analyses.md."),
    ],
    db: DatabaseOption = DEFAULT_DATABASE,
    seeds: Annotated[str, typer.Option(help="Training seeds; 0 is the study's own.")] = "0,1",
    images: Annotated[
        int | None, typer.Option(help="Images a distance. Default: as held out by the study.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="The page to write, a PNG beside it. Default: STUDY-WHAT.html.", show_default=False),
    ] = None,
    json_file: JsonOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    gpus_per_worker: GpusOption = None,
) -> None:
    """One of ENAT's own analyses on a study's data: networks trained alike, compared under its tuned schedule."""
    from autonat import analyze_command
    from autonat.study_pairs import study_pairs

    analyze_command.check_name(what)
    training_seeds = analyze_command.seeds_of(seeds)
    store = opened_to_record(db)
    row, summary = finished(store, study)
    lab, _, tuned = study_pairs(row, summary)
    subject = analyze_command.subject_of(store, row, lab, tuned, training_seeds, images)
    console = make_console()
    choice = executor_choice(executor, workers, address, gpus_per_worker)
    findings = analyze_command.analyze(store, row, subject, what, choice, console)
    analyze_command.show(findings, subject, what, console)
    page = html if html is not None else Path(f"{study}-{what}.html")
    analyze_command.write(findings, subject, what, page, json_file, lambda line: console.print(line, highlight=False))


@app.command(rich_help_panel=PANEL, epilog="Example: autonat export quickstart --format improvednat --to strategy.yaml")
def export(
    study: StudyArgument,
    to: Annotated[Path, typer.Option(help="The file to write; for diffusers and checkpoint a folder.")],
    db: DatabaseOption = DEFAULT_DATABASE,
    format: Annotated[
        str, typer.Option(help="improvednat, enat, halton, diffusers, python, json or checkpoint; see docs/exports.md.")
    ] = "json",
    into_git: Annotated[
        bool, typer.Option("--into-git", help="Into another repository's working tree, never over uncommitted work.")
    ] = False,
    branch: Annotated[str | None, typer.Option(help="With --into-git: the branch to be on, made where needed.")] = None,
    commit: Annotated[bool, typer.Option("--commit", help="With --into-git: commit what was written.")] = False,
) -> None:
    """Write the tuned schedule, or the tuned pair, in the form that another repository runs."""
    from autonat.export.command import content_of, export_to
    from autonat.study_pairs import study_pairs

    store = opened(db)
    row, summary = finished(store, study)
    lab, _, tuned = study_pairs(row, summary)
    if format == "checkpoint":
        require_checkpoints(store, [tuned])
    content = content_of(store, row, summary, lab, tuned)
    notes = export_to(content, format, to, into_git=into_git, branch=branch, commit=commit)
    console = make_console()
    console.print(f"{to}: schedule of {study} in format {format}")
    for note in notes:
        console.print(f"  {note}", highlight=False)


@app.command(
    "import",
    rich_help_panel=PANEL,
    epilog="Example: autonat import strategy.yaml --to from_autonat.yaml --recipe digits",
)
def import_schedule(
    file: Annotated[Path, typer.Argument(help="A file or folder in any form that `autonat export` writes.")],
    format: Annotated[str, typer.Option(help="auto, or a form by name.")] = "auto",
    to: Annotated[Path | None, typer.Option(help="Write a recipe that starts from it.", show_default=False)] = None,
    recipe: Annotated[str, typer.Option(help="The recipe to change for --to.")] = "digits",
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="T, for a file that does not say it; one with another T is refused."),
    ] = None,
) -> None:
    """Read a schedule from another repository's file: show it, or make a recipe that starts from it."""
    from autonat.export.command import start_yaml, write_recipe
    from autonat.export.content import schedule_data
    from autonat.export.formats import read_schedule

    name, imported = read_schedule(file, format, steps)
    console = make_console()
    title = f"{file}: {name}, T = {imported.schedule.num_steps}, rule {imported.schedule.rule}"
    console.print(schedule_table(schedule_data(imported.schedule), title))
    for note in imported.notes:
        console.print(f"  {note}", highlight=False)
    if to is None:
        typer.echo(start_yaml(imported), nl=False)
        return
    made = write_recipe(imported, file, recipe, to, steps)
    console.print(f"{to}: recipe {made}, from {recipe}; start it with: autonat run {to}", highlight=False)


@app.command(rich_help_panel=PANEL, epilog="Example: autonat report quickstart --to report.html")
def report(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    to: Annotated[Path | None, typer.Option(help="The HTML file to write. Default: STUDY.html.")] = None,
) -> None:
    """Write one HTML file with a study's plots, tables and samples."""
    path = to if to is not None else Path(f"{study}.html")
    save_report(opened(db), study, path)
    make_console().print(f"Report: {path}")


@app.command(rich_help_panel=PANEL, epilog="Example: autonat dashboard --port 8050")
def dashboard(
    db: DatabaseOption = DEFAULT_DATABASE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8050,
    host: Annotated[str, typer.Option(help="The address to listen on; one that others reach needs a token.")] = (
        "127.0.0.1"
    ),
    token: Annotated[
        str | None,
        typer.Option(envvar="AUTONAT_TOKEN", help="What others need to look. Default: a new one.", show_default=False),
    ] = None,
) -> None:
    """Serve live pages of a database's studies; they change nothing."""
    from dashboards.command import run as serve_pages

    serve_pages(db, host, port, token, make_console())


@app.command(rich_help_panel=PANEL, epilog="Example: autonat mirror digits --to optuna.db")
def mirror(
    study: StudyArgument,
    to: Annotated[Path, typer.Option(help="The SQLite file of Optuna's storage to write or bring up to date.")],
    db: DatabaseOption = DEFAULT_DATABASE,
) -> None:
    """Copy a study into Optuna's own tables, for optuna-dashboard and optuna.visualization."""
    from autonat.storage.optuna_mirror import mirror as write

    added, there = write(opened(db), study, to)
    make_console().print(
        f"{to}: {added:,} trials added, {there:,} there now. Open it with: optuna-dashboard sqlite:///{to}"
    )
