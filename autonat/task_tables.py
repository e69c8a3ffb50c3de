"""The task ledger as tables for the terminal."""

from datetime import datetime
from typing import Any

from rich.table import Table

from autonat.storage.ownership import in_utc
from autonat.storage.task_rows import KindSummary


def _memory(peak: int | None) -> str:
    return "" if peak is None else f"{peak / 2**20:,.0f} MiB"


def kind_table(kinds: list[KindSummary]) -> Table:
    """One line a kind of task."""
    table = Table(title="Tasks (a worker's share of a measurement's blocks, or a training)", title_justify="left")
    table.add_column("kind")
    for column in ("done", "running", "failed", "lost", "images", "worker time", "peak memory"):
        table.add_column(column, justify="right")
    for kind in kinds:
        counts = [f"{count:,}" for count in (kind.done, kind.running, kind.failed, kind.lost, kind.images)]
        table.add_row(kind.kind, *counts, f"{kind.seconds:,.1f} s", _memory(kind.peak_memory))
    return table


def task_table(rows: list[Any]) -> Table:
    """One line a row of the ledger, oldest first."""
    table = Table(title="Task ledger, times in UTC", title_justify="left")
    for column in ("submitted", "waited", "task", "blocks", "where", "attempt", "images", "seconds", "memory", "ended"):
        table.add_column(column, justify="right" if column in ("waited", "images", "seconds", "memory") else "left")
    for row in rows:
        waited = (row.started_at - row.submitted_at).total_seconds()
        table.add_row(
            _time(row.submitted_at),
            f"{waited:.1f} s",
            f"{row.kind} {row.fingerprint[:12]}",
            row.blocks or "",
            f"{row.host}:{row.pid} {row.worker}",
            str(row.attempt),
            f"{row.images:,}",
            f"{row.seconds:.2f}",
            _memory(row.peak_memory),
            row.state + (f": {row.error}" if row.error else ""),
        )
    return table


def _time(moment: datetime) -> str:
    return in_utc(moment).strftime("%m-%d %H:%M:%S")
