"""What each phase of a finished study gained and cost, for the terminal."""

from typing import Any

from rich.table import Table


def phase_table(phases: list[dict[str, Any]]) -> Table:
    """phases: the summary's, see ``autonat.search.accounts``."""
    table = Table(title="What each phase gained, and what it cost", title_justify="left")
    for column in ("phase", "round", "gain", "images", "trainings"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for row in phases:
        gain = "" if row["phase"] == "set-up" else f"{row['gain']:+.3f} +- {row['gain_standard_error']:.3f}"
        table.add_row(row["phase"], str(row["round"]), gain, f"{row['images']:,}", str(row["trainings"]))
    table.caption = (
        "Gain: in distance over what the phase began with, 0 where nothing better was confirmed. The alternation's is "
        "a whole round's, on images that none of its phases saw; a round without one ends the study."
    )
    return table
