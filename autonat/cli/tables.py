"""Studies as tables on a terminal, and as JSON."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autonat.storage.store import StudyRow


def mask_ratio_label(data: dict[str, Any]) -> str:
    """What a distribution calls itself, from its recorded parameters."""
    from pydantic import TypeAdapter

    from models.mask_ratio import AnyMaskRatio  # brings SciPy along, which a list of studies does not need

    mask_ratio: Any = TypeAdapter(AnyMaskRatio).validate_python(data)
    return str(mask_ratio.label)


def summary_table(name: str, summary: dict[str, Any], seconds: float) -> Any:
    from rich.table import Table

    from autonat import metric_columns
    from autonat.seed_gap import gap_line
    from autonat.units import counted

    table = Table(title=f"Study {name}: {summary['metric']}, seeds the search never saw", title_justify="left")
    for column, justify in (("", "left"), ("distance", "right"), ("of the default", "right"), ("images", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for column in metric_columns.headings(summary):
        table.add_column(column, justify="right")
    base = summary["baseline"]["value"]

    def row(label: str, entry: dict[str, Any], key: str) -> None:
        table.add_row(
            label,
            f"{entry['value']:.3f} +- {entry['standard_error']:.3f}",
            f"{entry['value'] / base:.2f}",
            f"{entry['num_images']:,}",
            *metric_columns.cells(summary, key),
        )

    row("default network and schedule", summary["baseline"], "baseline")
    row("tuned schedule, same network", summary["tuned_schedule"], "tuned_schedule")
    row(f"tuned pair, trained with {mask_ratio_label(summary['mask_ratio'])}", summary["tuned"], "tuned")
    num_steps = len(summary["schedule"]["sampling_temperatures"])
    for point in summary.get("front", ()):  # not in summaries of earlier versions
        if point["num_steps"] != num_steps:
            row(f"its schedule tuned for T = {point['num_steps']}", point, "front")
    if summary["floor"] is not None:  # as where the metric's statistics come from a file
        row("real test images (a small sample reads high)", summary["floor"], "floor")
    trainings = counted(summary["trainings"], "training")
    table.caption = (
        f"{summary['images_spent']:,} images spent by the search, {trainings}, {seconds:.0f} s. "
        "+- is one standard error." + metric_columns.caption(summary)
    )
    if summary.get("front_left_out"):  # not in summaries of earlier versions
        steps = ", ".join(map(str, summary["front_left_out"]))
        table.caption += f"\nNot tuned, as the images had been spent by then: T = {steps}."
    for line in (gap_line(summary), metric_columns.variety_line(summary)):
        if line is not None:
            table.caption += f"\n{line}"
    return table


def schedule_table(schedule: dict[str, Any], title: str) -> Any:
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


def result_json(row: "StudyRow", summary: dict[str, Any]) -> dict[str, Any]:
    keys = ("baseline", "tuned_schedule", "tuned", "floor", "images_spent", "trainings", "mask_ratio", "schedule")
    content = {key: summary[key] for key in keys}
    later = ("metrics", "search_time", "front")  # not in summaries of earlier versions
    content |= {key: summary.get(key) for key in later}
    return content | {"metric": summary["metric"], "seconds": row.seconds, "study": row.name}
