"""Studies as tables on a terminal, and as JSON."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autonat.storage.store import StudyRow


def mask_ratio_label(data: dict[str, Any]) -> str:
    if data["kind"] == "beta":
        return f"Beta({data['alpha']:g}, {data['beta']:g})"
    return str(data["kind"])


def summary_table(name: str, summary: dict[str, Any], seconds: float) -> Any:
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
        "tuned": f"tuned pair, trained with {mask_ratio_label(summary['mask_ratio'])}",
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
    content |= {key: summary.get(key) for key in ("metrics", "search_time")}  # not in summaries of earlier versions
    return content | {"metric": summary["metric"], "seconds": row.seconds, "study": row.name}
