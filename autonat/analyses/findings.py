"""What an analysis hands over, to be printed, plotted and written down in one way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autonat.analyses.estimates import Measured, decimals_of

# A row of a table: texts, whole numbers and measured quantities; None where there is nothing to measure.
Row = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """Points to plot: a line where x are numbers, a row of points where they are names."""

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[Measured]


@dataclass(frozen=True)
class Findings:
    """title: what was compared; reading: how it was measured and how to read it; columns: (key of the rows, heading);
    verdict: one sentence on the papers' ordering; axes: titles of x and y; pictures: (caption, PNG); num_images: where
    they are not as many as of a distance."""

    title: str
    reading: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    verdict: str
    axes: tuple[str, str] = ("", "")
    series: tuple[Series, ...] = ()
    pictures: tuple[tuple[str, bytes], ...] = ()
    num_images: int | None = None


def headings(findings: Findings) -> list[str]:
    """Of the table: a measured quantity takes three columns."""
    found = []
    for key, heading in findings.columns:
        found.append(heading)
        if _is_measured(findings, key):
            found += ["+- trainings", "+- images"]
    return found


def cells(findings: Findings, row: Row) -> list[str]:
    """A row's texts, in the order of ``headings``."""
    found = []
    for key, _ in findings.columns:
        value = row[key]
        if isinstance(value, Measured):
            digits = decimals_of(value.error)
            numbers = (value.mean, value.over_trainings, value.over_images)
            found += [f"{number:.{digits}f}" if number == number else "-" for number in numbers]
        elif value is None:
            found += [""] * (3 if _is_measured(findings, key) else 1)
        else:
            found.append(f"{value:,}" if isinstance(value, int) else str(value))
    return found


def _is_measured(findings: Findings, key: str) -> bool:
    return any(isinstance(row[key], Measured) for row in findings.rows)


def as_json(findings: Findings) -> dict[str, Any]:
    """Everything but the pictures."""
    rows = [
        {key: value.as_json() if isinstance(value, Measured) else value for key, value in row.items()}
        for row in findings.rows
    ]
    return {"title": findings.title, "reading": findings.reading, "rows": rows, "verdict": findings.verdict}
