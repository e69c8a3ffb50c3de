"""The command line. Heavy imports happen inside the commands, so that --help answers at once."""

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autonat.errors import StudyStopped, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from autonat.config import Recipe
    from autonat.execution.choice import ExecutorChoice
    from autonat.storage.store import Store, StudyRow

app = typer.Typer(
    help="Tune masked-token image generators: generation schedules and training mask ratios.",
    epilog="Start with: autonat quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

DatabaseOption = Annotated[
    str, typer.Option("--db", envvar="AUTONAT_DB", help="Database: an SQLite file or an SQLAlchemy URL.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=0, help="Workers; 0 stays in this process. Default: one a core.", show_default=False)
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
StudyArgument = Annotated[str, typer.Argument(help="A study's name; `autonat list` shows them.")]
# An unknown command, a missing argument, a wrong value: typer exports this class's children alone.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
DEFAULT_DATABASE = "autonat.db"


def _console() -> "Console":
    from rich.console import Console

    # Without a terminal lines keep their length, so that they can be read by programs.
    return Console(width=None if sys.stdout.isatty() else 200, markup=False)


def _choice(kind: str, workers: int | None, address: str | None, gpus_per_worker: float | None) -> "ExecutorChoice":
    from autonat.execution.choice import ExecutorChoice

    return ExecutorChoice(kind, workers, address, gpus_per_worker)


def _run(recipe: "Recipe", db: str, choice: "ExecutorChoice", artifacts: str | None) -> tuple["Store", "StudyRow"]:
    from autonat.memo import Memo
    from autonat.orchestrator import run_study
    from autonat.progress import ProgressReporter
    from autonat.storage.store import Store

    if choice.kind == "local" and recipe.compute.device != "cpu":  # before a study of that name is begun
        from autonat.execution.worker import device_of

        device_of(recipe.compute)
    store = Store.open(db, artifacts)
    reporter = ProgressReporter(_console(), store.artifacts)
    executor = choice.executor(store.artifacts.address, recipe.compute.device)
    with reporter, reporter.watch(executor) as watched:
        run_study(recipe, store, Memo(store, watched, reporter.say), reporter)
    return store, store.study(recipe.name)


def _recipe(name: str, overrides: list[str] | None, db: str, from_study: str | None) -> "Recipe":
    """A recipe, with the schedule of an earlier study of the database where it asks for one."""
    from autonat.config import load_recipe
    from autonat.earlier_study import tuned_schedule

    changes = [*(overrides or ()), *([f"schedule.study='{from_study}'"] if from_study is not None else [])]
    return load_recipe(name, changes, lambda study, num_steps: tuned_schedule(_opened(db), study, num_steps))


def _device_of(row: "StudyRow") -> str:
    """What a study's recipe computes on."""
    import json

    return str(json.loads(row.recipe).get("compute", {}).get("device", "cpu"))


def _opened(db: str) -> "Store":
    from autonat.storage.store import Store

    return Store.open(db, readonly=True)


def _finished(store: "Store", name: str) -> tuple["StudyRow", dict[str, Any]]:
    row = store.study(name)
    if row.summary is None:
        raise UserError(f"study {name!r} is {row.state} and has no result yet: `autonat run` its recipe to go on")
    return row, row.summary


def _pairs(store: "Store", row: "StudyRow", summary: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The study's laboratory, its baseline and its tuned pair."""
    from dataclasses import replace

    from pydantic import TypeAdapter

    from autonat.config import Recipe
    from autonat.search.alternation import start_of
    from autonat.search.program import Pair
    from models.mask_ratio import AnyMaskRatio
    from models.schedule import GenerationSchedule

    lab, baseline = start_of(Recipe.model_validate_json(row.recipe))
    mask_ratio: Any = TypeAdapter(AnyMaskRatio).validate_python(summary["mask_ratio"])
    schedule = TypeAdapter(GenerationSchedule).validate_python(summary["schedule"])
    return lab, baseline, Pair(replace(baseline.training, mask_ratio=mask_ratio), schedule)


def _mask_ratio_label(data: dict[str, Any]) -> str:
    if data["kind"] == "beta":
        return f"Beta({data['alpha']:g}, {data['beta']:g})"
    return str(data["kind"])


def _summary_table(name: str, summary: dict[str, Any], seconds: float) -> Any:
    from rich.table import Table

    from autonat import metric_columns
    from autonat.seed_gap import gap_line

    table = Table(title=f"Study {name}: {summary['metric']}, seeds the search never saw", title_justify="left")
    for column, justify in (("", "left"), ("distance", "right"), ("of the default", "right"), ("images", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for column in metric_columns.headings(summary):
        table.add_column(column, justify="right")
    names = {
        "baseline": "default network and schedule",
        "tuned_schedule": "tuned schedule, same network",
        "tuned": f"tuned pair, trained with {_mask_ratio_label(summary['mask_ratio'])}",
        "floor": "real test images (a small sample reads high)",
    }
    base = summary["baseline"]["value"]
    for key, label in names.items():
        entry = summary[key]
        if entry is None:  # the floor, where the metric's statistics come from a file
            continue
        table.add_row(
            label,
            f"{entry['value']:.3f} +- {entry['standard_error']:.3f}",
            f"{entry['value'] / base:.2f}",
            f"{entry['num_images']:,}",
            *metric_columns.cells(summary, key),
        )
    table.caption = (
        f"{summary['images_spent']:,} images spent by the search, {summary['trainings']} trainings, {seconds:.0f} s. "
        "+- is one standard error." + metric_columns.caption(summary)
    )
    line = gap_line(summary)
    if line is not None:
        table.caption += f"\n{line}"
    return table


def _schedule_table(schedule: dict[str, Any], title: str) -> Any:
    from rich.table import Table

    num_steps = len(schedule["sampling_temperatures"])
    table = Table(title=title, title_justify="left")
    table.add_column("step t")
    for step in range(num_steps):
        table.add_column(str(step + 1), justify="right")
    for family in ("mask_ratios", "sampling_temperatures", "choice_temperatures", "guidance_scales"):
        cells = [f"{value:.3f}" for value in schedule[family]]
        table.add_row(family.replace("_", " "), *cells, *[""] * (num_steps - len(cells)))
    return table


def _result_json(row: "StudyRow", summary: dict[str, Any]) -> dict[str, Any]:
    keys = ("baseline", "tuned_schedule", "tuned", "floor", "images_spent", "trainings", "mask_ratio", "schedule")
    content = {key: summary[key] for key in keys}
    content |= {key: summary.get(key) for key in ("metrics", "search_time")}  # not in summaries of earlier versions
    return content | {"metric": summary["metric"], "seconds": row.seconds, "study": row.name}


def _say_version(asked: bool) -> None:
    if asked:
        from autonat import __version__

        typer.echo(f"autonat {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """What stands before a command."""


@app.command(epilog="Example: autonat quickstart --json result.json")
def quickstart(
    overrides: OverridesArgument = None,
    db: DatabaseOption = DEFAULT_DATABASE,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result as JSON to this file.")] = None,
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
    store, row = _run(recipe, db, _choice(executor, workers, address, gpus_per_worker), artifacts)
    assert row.summary is not None
    if json_file is not None:
        write_atomically(json_file, (json.dumps(_result_json(row, row.summary), indent=2) + "\n").encode())
    _write_report(store, row.name, report_file)
    console = _console()
    console.print(_summary_table(row.name, row.summary, row.seconds))
    console.print(_schedule_table(row.summary["schedule"], "Tuned schedule"))
    console.print(f"Report: {report_file}   Take the schedule away: autonat export {row.name} --to schedule.json")


@app.command(epilog="Example: autonat run digits seed=1 name=digits-1")
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
    choice = _choice(executor, workers, address, gpus_per_worker)
    _, row = _run(_recipe(recipe, overrides, db, from_study), db, choice, artifacts)
    assert row.summary is not None
    _console().print(_summary_table(row.name, row.summary, row.seconds))


@app.command(epilog="Example: autonat plan digits schedule.num_steps=8")
def plan(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    workers: WorkersOption = None,
    db: DatabaseOption = DEFAULT_DATABASE,
    from_study: FromStudyOption = None,
) -> None:
    """Say what a study will cost before it starts, after a calibration of a few seconds."""
    from autonat.execution.choice import cores
    from autonat.plan import plan as make_plan

    loaded = _recipe(recipe, overrides, db, from_study)
    count = workers if workers is not None else cores()
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
    _console().print("\n".join(lines), highlight=False)


@app.command(
    epilog="Examples: autonat cost ENAT-L --steps 8    autonat cost nnet_ema.pth --schedule strategy.yaml --measure"
)
def cost(
    network: Annotated[str, typer.Argument(help="A preset (AutoNAT-S, ENAT-L, ...) or the path of a checkpoint.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Decoding steps of the published schedule; 8 unless said.")
    ] = None,
    schedule_file: Annotated[
        Path | None, typer.Option("--schedule", help="A schedule file, in any form that `autonat import` reads.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Also time sampling, random weights if need be.")] = False,
    device: Annotated[str, typer.Option(help="Where to measure: cpu, cuda, cuda:1, ...")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Images a batch when measuring.")] = 8,
    runs: Annotated[int, typer.Option(min=1, help="Timed batches; the median counts.")] = 5,
    heads: Annotated[int | None, typer.Option(min=1, help="Heads of an official checkpoint of no preset.")] = None,
    encoder_blocks: Annotated[int | None, typer.Option(min=0, help="Encoder blocks of such an ENAT.")] = None,
    context_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a caption of such a text network.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything as JSON to this file.")] = None,
) -> None:
    """What a network costs an image: parameters, memory, operations step by step and, with --measure, time."""
    import json

    from autonat import cost_command
    from autonat.storage.files import write_atomically

    told = {"heads": heads, "encoder_blocks": encoder_blocks, "context_tokens": context_tokens}
    told = {name: value for name, value in told.items() if value is not None}
    subject = cost_command.find_subject(network, load=measure, told=told)
    counted = cost_command.cost_of(subject, cost_command.schedule_of(schedule_file, subject.config, steps))
    console = _console()
    console.print("\n".join(cost_command.summary_lines(counted)), highlight=False)
    console.print(cost_command.step_table(counted))
    latency = cost_command.measure(counted, device, batch, runs) if measure else None
    if latency is not None:
        console.print(cost_command.latency_line(latency), highlight=False)
    if json_file is not None:
        write_atomically(json_file, (json.dumps(cost_command.as_json(counted, latency), indent=2) + "\n").encode())


@app.command("list", epilog="Example: autonat list --db results.db")
def list_studies(db: DatabaseOption = DEFAULT_DATABASE) -> None:
    """All studies in a database."""
    from rich.table import Table

    table = Table()
    for column in ("study", "state", "default", "tuned", "images", "time"):
        table.add_column(column, justify="left" if column in ("study", "state") else "right")
    for row in _opened(db).studies():
        cells = ["", "", ""]
        if row.summary is not None:
            cells = [
                f"{row.summary['baseline']['value']:.3f}",
                f"{row.summary['tuned']['value']:.3f} +- {row.summary['tuned']['standard_error']:.3f}",
                f"{row.summary['images_spent']:,}",
            ]
        table.add_row(row.name, row.state, *cells, f"{row.seconds:.0f} s")
    _console().print(table)


@app.command(epilog="Example: autonat show quickstart --tasks")
def show(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    tasks: Annotated[bool, typer.Option("--tasks", help="Also the task ledger: who did what, when.")] = False,
    last: Annotated[int, typer.Option(min=1, help="With --tasks: so many of the latest rows.")] = 100,
    logs: Annotated[bool, typer.Option("--logs", help="Only where Ray's own logs of its runs are.")] = False,
) -> None:
    """A study's state, what it decided on the way, what its tasks came to, and its result."""
    from autonat.phase_table import phase_table

    store = _opened(db)
    row = store.study(study)
    if logs:
        _print_logs(store, row)
        return
    console = _console()
    console.print(f"Study {row.name}: {row.state}, {row.seconds:.0f} s" + (f". {row.error}" if row.error else ""))
    decisions = store.decisions(row.id)
    for entry in decisions:
        if entry["purpose"] == "gradient":
            continue
        console.print(
            f"  {entry['phase']}, round {entry['round']}: {_mask_ratio_label(entry['mask_ratio'])}, distance "
            f"{entry['distance']:.3f}, gain {entry['gain']:.3f} +- {entry['gain_standard_error']:.3f}, "
            f"{entry['spent_images']:,} images so far",
            highlight=False,
        )
    if row.summary is not None:
        console.print(_summary_table(row.name, row.summary, row.seconds))
        console.print(_schedule_table(row.summary["baseline_schedule"], "Default schedule"))
        console.print(_schedule_table(row.summary["schedule"], "Tuned schedule"))
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
                label, distance = _mask_ratio_label(point["mask_ratio"]), point["distance"]
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
    _console().print(table)


def _print_tasks(store: "Store", row: "StudyRow", last: int | None) -> None:
    """The ledger in short, and its last rows."""
    from autonat.storage.task_rows import rows_of, summarize
    from autonat.task_tables import summary_table, task_table

    kinds = summarize(store.database, row.id)
    if kinds:
        _console().print(summary_table(kinds))
    if last is not None:
        _console().print(task_table(rows_of(store.database, row.id, last)))


def _print_logs(store: "Store", row: "StudyRow") -> None:
    """Hosts and folders of Ray's logs, by driver."""
    from autonat.execution.ray_logs import read_notes
    from autonat.storage.task_rows import drivers_of

    notes = read_notes(store.artifacts.folder, drivers_of(store.database, row.id))
    for driver, host, folders in notes:
        _console().print(f"driver {' '.join(driver.split()[:2])}: {host}: {', '.join(folders)}", highlight=False)
    if not notes:
        _console().print(f"No run of {row.name} used Ray (or its notes in {store.artifacts.folder} are gone)")


@app.command(epilog="Example: autonat stop digits")
def stop(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    wait: Annotated[bool, typer.Option("--wait", help="Return only when nothing runs any more.")] = False,
) -> None:
    """End a running study after its tasks in flight; `autonat run` goes on with it."""
    import time

    from autonat.storage.store import Store

    _opened(db).study(study)
    store = Store.open(db)
    store.request_stop(study)
    _console().print(f"Study {study} ends after its tasks in flight; the same `autonat run` goes on from there")
    while wait and store.study(study).state == "running":
        time.sleep(0.5)


@app.command(epilog="Example: autonat verify digits --count 10 --seed 1")
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
    store = _opened(db)
    row = store.study(study)
    total = len(store.recorded_specs(row.id))
    if total == 0:
        raise UserError(f"study {study!r} has no results yet")
    choice, device = _choice(executor, workers, address, gpus_per_worker), _device_of(row)
    console = _console()
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


@app.command(epilog="Example: autonat compare digits digits-official")
def compare(
    studies: Annotated[list[str], typer.Argument(help="Two studies or more.")], db: DatabaseOption = DEFAULT_DATABASE
) -> None:
    """Put finished studies side by side."""
    from rich.table import Table

    store = _opened(db)
    rows = [_finished(store, name) for name in studies]
    table = Table(title="Held-out distances, +- one standard error", title_justify="left")
    table.add_column("")
    for row, _ in rows:
        table.add_column(row.name, justify="right")
    for key, label in (("baseline", "default"), ("tuned_schedule", "tuned schedule"), ("tuned", "tuned pair")):
        cells = [f"{summary[key]['value']:.3f} +- {summary[key]['standard_error']:.3f}" for _, summary in rows]
        table.add_row(label, *cells)
    table.add_row("mask ratio", *[_mask_ratio_label(summary["mask_ratio"]) for _, summary in rows])
    table.add_row("images spent", *[f"{summary['images_spent']:,}" for _, summary in rows])
    table.add_row("trainings", *[str(summary["trainings"]) for _, summary in rows])
    table.add_row("time", *[f"{row.seconds:.0f} s" for row, _ in rows])
    table.add_row("metric", *[summary["metric"] for _, summary in rows])
    console = _console()
    console.print(table)
    if len({summary["metric"] for _, summary in rows}) > 1:
        console.print("These studies were measured with different feature networks: their distances do not compare.")


@app.command(epilog="Example: autonat best quickstart")
def best(study: StudyArgument, db: DatabaseOption = DEFAULT_DATABASE) -> None:
    """The best pair a study found, as JSON on standard output."""
    import json

    row, summary = _finished(_opened(db), study)
    typer.echo(json.dumps(_result_json(row, summary), indent=2))


@app.command(epilog="Example: autonat sample quickstart --to samples.png --per-class 12")
def sample(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    to: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("samples.png"),
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Images a class and side.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
) -> None:
    """A picture of samples, a row a class: the baseline's left, the tuned pair's right, from the same noise."""
    from autonat.storage.files import write_atomically

    store = _opened(db)
    write_atomically(to, _grid(store, study, per_class, seed))
    _console().print(f"{to}: default left, tuned right")


def _grid(store: "Store", study: str, per_class: int, seed: int) -> bytes:
    from autonat.grids import sample_grid

    row, summary = _finished(store, study)
    lab, baseline, tuned = _pairs(store, row, summary)
    _require_checkpoints(store, [baseline, tuned])
    specs = [lab.evaluation(pair, 2 * lab.block_size, seed) for pair in (baseline, tuned)]
    return sample_grid(store.artifacts, specs, per_class=per_class, seed=seed)


def _require_checkpoints(store: "Store", pairs: list[Any]) -> None:
    from autonat.specs import TrainSpec, fingerprint

    for pair in pairs:
        if not isinstance(pair.training, TrainSpec):
            continue  # a file of the user's, which says itself what is wrong with it
        found, name = store.result(pair.training), fingerprint(pair.training)
        if found is None or found[1] is None or store.artifacts.flaw(name, found[1]) is not None:
            path = store.artifacts.path(name)
            raise UserError(f"checkpoint {path} is missing or damaged: `autonat run` the recipe to train it again")


@app.command(epilog="Example: autonat evaluate quickstart --images 20000 --seed 7")
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
    from autonat.storage.store import Store

    store = Store.open(db) if "://" in db or Path(db).exists() else _opened(db)
    row, summary = _finished(store, study)
    lab, baseline, tuned = _pairs(store, row, summary)
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
    console = _console()
    reporter = ProgressReporter(console, store.artifacts)
    choice = _choice(executor, workers, address, gpus_per_worker)
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


@app.command(epilog="Example: autonat analyze digits networks --seeds 0,1,2 --json networks.json")
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
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result as JSON to this file.")] = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    gpus_per_worker: GpusOption = None,
) -> None:
    """One of ENAT's own analyses on a study's data: networks trained alike, compared under its tuned schedule."""
    from autonat import analyze_command
    from autonat.storage.store import Store

    analyze_command.check_name(what)
    training_seeds = analyze_command.seeds_of(seeds)
    store = Store.open(db) if "://" in db or Path(db).exists() else _opened(db)
    row, summary = _finished(store, study)
    lab, _, tuned = _pairs(store, row, summary)
    subject = analyze_command.subject_of(store, row, lab, tuned, training_seeds, images)
    console = _console()
    choice = _choice(executor, workers, address, gpus_per_worker)
    findings = analyze_command.analyze(store, row, subject, what, choice, console)
    analyze_command.show(findings, subject, what, console)
    page = html if html is not None else Path(f"{study}-{what}.html")
    analyze_command.write(findings, subject, what, page, json_file, lambda line: console.print(line, highlight=False))


@app.command(epilog="Example: autonat export quickstart --format improvednat --to strategy.yaml")
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

    store = _opened(db)
    row, summary = _finished(store, study)
    lab, _, tuned = _pairs(store, row, summary)
    if format == "checkpoint":
        _require_checkpoints(store, [tuned])
    content = content_of(store, row, summary, lab, tuned)
    notes = export_to(content, format, to, into_git=into_git, branch=branch, commit=commit)
    console = _console()
    console.print(f"{to}: schedule of {study} in format {format}")
    for note in notes:
        console.print(f"  {note}", highlight=False)


@app.command("import", epilog="Example: autonat import strategy.yaml --to from_autonat.yaml --recipe digits")
def import_schedule(
    file: Annotated[Path, typer.Argument(help="A file or folder in any form that `autonat export` writes.")],
    format: Annotated[str, typer.Option(help="auto, or a form by name.")] = "auto",
    to: Annotated[Path | None, typer.Option(help="Write a recipe that starts from it.", show_default=False)] = None,
    recipe: Annotated[str, typer.Option(help="The recipe to change for --to.")] = "digits",
    steps: Annotated[int | None, typer.Option(min=1, max=10_000, help="T, where the file must have it.")] = None,
) -> None:
    """Read a schedule from another repository's file: show it, or make a recipe that starts from it."""
    from autonat.export.command import start_yaml, write_recipe
    from autonat.export.content import schedule_data
    from autonat.export.formats import read_schedule

    name, imported = read_schedule(file, format, steps)
    console = _console()
    title = f"{file}: {name}, T = {imported.schedule.num_steps}, rule {imported.schedule.rule}"
    console.print(_schedule_table(schedule_data(imported.schedule), title))
    for note in imported.notes:
        console.print(f"  {note}", highlight=False)
    if to is None:
        typer.echo(start_yaml(imported), nl=False)
        return
    made = write_recipe(imported, file, recipe, to, steps)
    console.print(f"{to}: recipe {made}, from {recipe}; start it with: autonat run {to}", highlight=False)


@app.command(epilog="Example: autonat report quickstart --to report.html")
def report(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    to: Annotated[Path | None, typer.Option(help="The HTML file to write. Default: STUDY.html.")] = None,
) -> None:
    """Write one HTML file with a study's plots, tables and samples."""
    path = to if to is not None else Path(f"{study}.html")
    _write_report(_opened(db), study, path)
    _console().print(f"Report: {path}")


def _write_report(store: "Store", study: str, path: Path) -> None:
    from autonat.pictures import captioned
    from dashboards.report import write_report

    grids = captioned(store, study)
    write_report(store, study, path, grids)


@app.command(epilog="Example: autonat dashboard --port 8050")
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

    serve_pages(db, host, port, token, _console())


@app.command(epilog="Example: autonat mirror digits --to optuna.db")
def mirror(
    study: StudyArgument,
    to: Annotated[Path, typer.Option(help="The SQLite file of Optuna's storage to write or bring up to date.")],
    db: DatabaseOption = DEFAULT_DATABASE,
) -> None:
    """Copy a study into Optuna's own tables, for optuna-dashboard and optuna.visualization."""
    from autonat.storage.optuna_mirror import mirror as write

    added, there = write(_opened(db), study, to)
    _console().print(
        f"{to}: {added:,} trials added, {there:,} there now. Open it with: optuna-dashboard sqlite:///{to}"
    )


@app.command(epilog="Example: autonat data cifar10 --train cifar10/train.parquet --test cifar10/test.parquet")
def data(
    name: Annotated[str, typer.Argument(help="The data set: cifar10.")] = "cifar10",
    train: Annotated[str | None, typer.Option(help="Check this file of training images.", show_default=False)] = None,
    test: Annotated[str | None, typer.Option(help="Check this file of test images.", show_default=False)] = None,
    archive: Annotated[
        Path | None, typer.Option(help="The official archive, to be unpacked into --to.", show_default=False)
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Where prepared files go. Default: files/NAME.")] = None,
    device: Annotated[str, typer.Option(help="Commands for the study on cpu or cuda.")] = "cpu",
) -> None:
    """Say where to get a data set, check its files, and print the commands that prepare a study."""
    from autonat.data_command import run as show

    show(name, train, test, archive, to if to is not None else Path("files") / name, device, _console())


@app.command(
    "train-features",
    epilog="Example: autonat train-features --train train.parquet --test test.parquet --out features.safetensors",
)
def train_features(
    train: Annotated[str, typer.Option(help="Labelled images: a folder (one folder a class), .parquet, or .npz.")],
    test: Annotated[str, typer.Option(help="Labelled images for the test accuracy.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    name: Annotated[str, typer.Option(help="What the metric is called: FD(NAME).")] = "cifar10-resnet",
    device: Annotated[str, typer.Option(help="cpu: a small network; cuda: a large one.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes another network.")] = 0,
    size: Annotated[int | None, typer.Option(min=8, help="Centre crop to so many pixels first.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels; the features have 4 times as many.")] = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="Residual blocks in each of three stages.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its highest.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads that decode images ahead.")] = 0,
) -> None:
    """Train a feature network on labelled images, for a metric of your own in place of FID."""
    from autonat.train_features_command import Options
    from autonat.train_features_command import run as train_network

    options = Options(name, device, seed, size, width, blocks, epochs, batch_size, learning_rate, precision, threads)
    train_network(train, test, out, options, _console())


@app.command(epilog="Example: autonat statistics imagenet/train --weights inception.pth --size 256 --out train.npz")
def statistics(
    source: Annotated[str, typer.Argument(help="Images: a folder (one folder a class), .parquet, or .npz.")],
    out: Annotated[Path, typer.Option(help="The .npz (mu, sigma) or .safetensors file to write.")],
    weights: Annotated[
        Path | None, typer.Option(help="The Inception weights file; its hash is verified first.", show_default=False)
    ] = None,
    features: Annotated[str, typer.Option(help="inception, or a file of `autonat train-features`.")] = "inception",
    test: Annotated[
        str | None, typer.Option(help="Other real images: their distance is the floor.", show_default=False)
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(help="Inception's, to 299 pixels: tensorflow1 or bilinear.", show_default="tensorflow1"),
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Centre crop to so many pixels first.")] = None,
    keep: Annotated[int, typer.Option(min=0, help="Images whose features are kept for KID, precision, recall.")] = 0,
    sha256: Annotated[str | None, typer.Option(help="Hash of other weights that you trust.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Threads that decode images ahead.")] = 0,
) -> None:
    """Compute a data source's reference statistics, what FID compares generated images with."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from autonat.statistics_command import run as compute

    console = _console()
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("images", total=None)
        compute(
            source,
            weights,
            out,
            features=features,
            resize=resize,
            size=size,
            keep=keep,
            sha256=sha256,
            device=device,
            threads=threads,
            say=lambda line: console.print(line, highlight=False),
            test=test,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


@app.command("train-tokenizer", epilog="Example: autonat train-tokenizer cifar10_cpu --out tokenizer.safetensors")
def train_tokenizer(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe in studies/tokenizers/.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write; the same command goes on with it.")],
    overrides: OverridesArgument = None,
    features: Annotated[
        Path | None, typer.Option(help="A file of `autonat train-features`, for the reconstructions' distance.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="A PNG to write: test images, each beside its reconstruction.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads on a CPU. Other numbers, other last bits.")] = 1,
) -> None:
    """Train a tokenizer of small images from a recipe, and say how well it gives images back."""
    from autonat.tokenizer_config import load_tokenizer_recipe
    from autonat.train_tokenizer_command import Options
    from autonat.train_tokenizer_command import train_tokenizer as train

    train(load_tokenizer_recipe(recipe, overrides or ()), out, Options(features, pictures, threads), _console())


@app.command(epilog="Example: autonat tokenize imagenet/train --tokenizer vqgan_jax_strongaug.ckpt --out tokens")
def tokenize(
    source: Annotated[Path, typer.Argument(help="Images: a folder (one folder a class), .parquet, or .npz.")],
    tokenizer: Annotated[str, typer.Option(help="A file of `autonat train-tokenizer`, a VQGAN's, or digits.")],
    out: Annotated[Path, typer.Option(help="The folder to write; the same command goes on with an unfinished one.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Centre crop to so many pixels. Default: the tokenizer's, a VQGAN's 256."),
    ] = None,
    flip: Annotated[bool, typer.Option(help="Also the copies flipped left to right, for training.")] = True,
    split: Annotated[str, typer.Option(help="Name of the file in the official layout.")] = "train",
    official: Annotated[bool, typer.Option(help="Write the official SPLIT.npy beside our smaller tokens.npy.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Threads that decode images ahead.")] = 0,
    label_column: Annotated[
        str | None, typer.Option(help="The Parquet column of classes. Default: label.", show_default=False)
    ] = None,
) -> None:
    """Turn images into token files for training. Unreadable images are named and skipped."""
    from autonat.tokenize_command import Options
    from autonat.tokenize_command import tokenize as write_tokens

    options = Options(tokenizer, size, flip, split if official else None, batch_size, device, threads, label_column)
    write_tokens(source, out, options, _console())


@app.command(
    "encode-captions", epilog="Example: autonat encode-captions val.tsv --clip CLIP-ViT-bigG-14 --out contexts.npy"
)
def encode_captions(
    table: Annotated[Path, typer.Argument(help="Captions: .tsv or .csv with a header, or .parquet.")],
    clip: Annotated[Path, typer.Option(help="A folder with CLIP's text encoder and tokenizer (transformers' layout).")],
    out: Annotated[Path, typer.Option(help="The .npy to write; the same command goes on with an unfinished one.")],
    column: Annotated[str, typer.Option(help="The column of captions.")] = "caption",
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Captions encoded at once.")] = 64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Encode captions for a text-conditional network: one row a caption, the null context last."""
    from autonat.captions_command import run as encode

    encode(table, clip, out, _console(), column=column, dtype=dtype, batch_size=batch_size, device=device)


@app.command(epilog="Example: autonat delete quickstart --yes")
def delete(
    study: StudyArgument,
    db: DatabaseOption = DEFAULT_DATABASE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a study, with the results and checkpoints that no other study uses."""
    from autonat.storage.store import Store

    _opened(db).study(study)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("deleting needs --yes where nobody can be asked")
        typer.confirm(f"Delete study {study} and its checkpoints?", abort=True)
    removed = Store.open(db).delete(study)
    _console().print(f"Deleted {study}: {removed.results} results that no other study uses")
    if removed.left:
        _console().print(f"{removed.left} were left while another study is being run: `autonat gc` removes them")


@app.command(epilog="Example: autonat gc --yes")
def gc(
    db: DatabaseOption = DEFAULT_DATABASE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove results and checkpoints that no study has any use for."""
    from autonat.storage.store import Store

    _opened(db)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("removing needs --yes where nobody can be asked")
        typer.confirm("Remove results that no study asked for?", abort=True)
    _console().print(f"Removed {Store.open(db).gc()} results that no study uses")


def main() -> None:
    """Run the command line: one line and exit status 2 for what the user can mend."""
    try:
        status = app(standalone_mode=False)
        if status == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        raise SystemExit(status or 0)
    except UserError as error:
        _fail(str(error))
    except UsageError as error:
        _fail_usage(error)
    except typer.Abort:
        typer.echo("nothing was changed", err=True)
        raise SystemExit(1) from None
    except StudyStopped:
        typer.echo("stopped: what was finished is kept; the same command goes on from there", err=True)
    except KeyboardInterrupt:
        typer.echo("interrupted: what was finished is kept; the same command goes on from there", err=True)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno == errno.EPIPE:
            sys.stderr.close()
            raise SystemExit(0) from None
        _fail(f"{error}; what was finished is kept, so the same command goes on from there")


def _fail(message: str) -> None:
    typer.echo("error: " + " ".join(message.split()), err=True)
    raise SystemExit(2)


def _fail_usage(error: Any) -> None:
    """One line for an unknown command, a missing argument or an option's wrong value."""
    command = error.ctx.command_path if error.ctx is not None else "autonat"
    message = error.format_message().strip().rstrip(".")
    if not message:
        raise SystemExit(2)  # no command at all: the help has been printed
    _fail(f"{message[0].lower()}{message[1:]} (see {command} --help)")
