"""Numbers as people read them, the same in the dashboard and the report."""

import math
from datetime import UTC, datetime
from typing import Any

MISSING = "\N{EN DASH}"

STATES = {
    "created": "This study has not started yet.",
    "running": "This study is still running: what follows is what it has recorded so far.",
    "killed": "The process that drove this study is gone before it finished: what follows is what it had recorded. "
    "Running it again continues it.",
    "stopped": "This study was stopped: what follows is what it had recorded. Running it again continues it.",
    "interrupted": "This study was interrupted: what follows is what it had recorded. Running it again continues it.",
    "failed": "This study failed: what follows is what it had recorded before.",
    "finished": "",
}


def count(value: Any) -> str:
    return MISSING if value is None else f"{int(value):,}"


def number(value: Any, digits: int = 3) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def estimate(value: Any, error: Any = None) -> str:
    """A value with its standard error, both to two digits of the error: 0.617 ± 0.019."""
    if value is None or not math.isfinite(value):
        return MISSING
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.3f}"
    decimals = min(8, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def further(metrics: Any) -> tuple[list[str], dict[str, list[str]], str]:
    """``frames.further_metrics_frame`` for a table: headings, the cells of each role, and a line on what they are."""
    names = list(dict.fromkeys(metrics["name"]))
    if not names:
        return [], {}, ""
    cells: dict[str, list[str]] = {}
    for what, part in metrics.groupby("what", sort=False):
        told = {row.name: estimate(row.value, row.deviation) for row in part.itertuples(index=False)}
        cells[str(what)] = [told.get(name, MISSING) for name in names]
    first = metrics.iloc[0]
    images = f"{count(first['sampled_images'])} generated"
    if first["reference_images"]:
        images += f" and {count(first['reference_images'])} real"
    return names, cells, f"{', '.join(names)}: of {images} images; their ± is the deviation over subsets or splits."


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(value: datetime) -> str:
    """In UTC; SQLite hands its times back without a zone."""
    value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return f"{value:%Y-%m-%d %H:%M} UTC"
