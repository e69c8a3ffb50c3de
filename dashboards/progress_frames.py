"""How a study went on: its phases over time, its tasks by worker, and how fast images came.

As in ``dashboards.frames``: one read, nothing changed, an empty frame of the same columns where nothing is there.
Times are UTC.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from autonat.storage.ownership import owner_of
from autonat.storage.tables import journal, results, studies, tasks
from autonat.storage.task_rows import rows_of
from dashboards.database import OpenDatabase
from dashboards.frames import (
    STUDY,
    Measured,
    as_frame,
    find_study,
    mask_ratio_from,
    read_measured,
    study_state,
    summary_of,
)

TIMELINE_COLUMNS = {
    "phase": "str",
    "round": "int64",
    "purpose": "str",
    "start": "datetime64[us, UTC]",
    "end": "datetime64[us, UTC]",
    "requests": "int64",
    "images": "int64",
    "decided": "str",
    "gain": "float64",
    "gain_standard_error": "float64",
}
TASK_COLUMNS = {
    "kind": "str",
    "label": "str",
    "fingerprint": "str",
    "worker": "str",
    "submitted": "datetime64[us, UTC]",
    "start": "datetime64[us, UTC]",
    "end": "datetime64[us, UTC]",
    "attempts": "int64",
    "seconds": "float64",
    "images": "int64",
    "peak_memory_mb": "float64",
    "outcome": "str",
    "error": "str",
}
RUNNING_COLUMNS = {"what": "str", "worker": "str", "since": "datetime64[us, UTC]", "done": "float64", "loss": "float64"}
THROUGHPUT_COLUMNS = {"time": "datetime64[us, UTC]", "images_per_second": "float64"}


def states(engine: sa.Engine) -> list[tuple[str, str, str, float]]:
    """Name, state, time of the last change and running time (in steps of ten seconds) of every study."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(*STUDY).order_by(studies.c.id)).all()
        now = OpenDatabase(engine).now(connection)
    return [(row.name, study_state(row, now), str(row.updated_at), row.seconds // 10) for row in rows]


def ledger_version(engine: sa.Engine) -> str:
    """Changes with every change of the task ledger; empty where a database keeps none."""
    if not sa.inspect(engine).has_table(tasks.name):
        return ""
    marks = [sa.func.count(), sa.func.max(tasks.c.submitted_at), sa.func.max(tasks.c.finished_at)]
    with engine.connect() as connection:
        return str(tuple(connection.execute(sa.select(*marks).select_from(tasks)).one()))


def timeline_frame(engine: sa.Engine, study: str, measured: Sequence[Measured] | None = None) -> pd.DataFrame:
    """The alternation, one row for each stretch of one phase, round and purpose.

    measured: the study's requests, where they have been read already (``frames.read_measured``).

    Columns: phase, round, purpose; start (the end of the stretch before, or the study's creation) and end (its last
    record); requests; images (generated for results first asked for here); decided (what was settled in it), gain with
    its standard error (paired, a lower distance is a positive gain; a whole round's, which the summary tells, stands at
    its last confirmation).
    """
    row = find_study(engine, study)
    if row is None:
        return as_frame([], TIMELINE_COLUMNS)
    if measured is None:
        measured = read_measured(engine, row.id)
    with engine.connect() as connection:
        settled = connection.execute(
            sa.select(
                journal.c.number,
                journal.c.phase,
                journal.c.round,
                journal.c.purpose,
                journal.c.created_at.label("asked_at"),
                journal.c.decision,
            ).where(journal.c.study_id == row.id, journal.c.decision.is_not(None), journal.c.purpose != "gradient")
        ).all()
    entries: list[Any] = sorted([*measured, *settled], key=lambda entry: entry.number)
    found: list[dict[str, Any]] = []
    counted: set[str] = set()
    start = row.created_at
    for (phase, round_, purpose), group in groupby(entries, key=lambda each: (each.phase, each.round, each.purpose)):
        part = list(group)
        asked = [entry for entry in part if isinstance(entry, Measured)]
        images = 0
        for entry in asked:
            if entry.fingerprint not in counted:
                counted.add(entry.fingerprint)
                images += entry.images
        facts = [json.loads(entry.decision) for entry in part if not isinstance(entry, Measured)]
        last = facts[-1] if facts else {}
        found.append(
            {
                "phase": phase,
                "round": round_,
                "purpose": purpose,
                "start": start,
                "end": part[-1].asked_at,
                "requests": len(asked),
                "images": images,
                "decided": mask_ratio_from(last["mask_ratio"]).label if "mask_ratio" in last else None,
                "gain": last.get("gain"),
                "gain_standard_error": last.get("gain_standard_error"),
            }
        )
        start = part[-1].asked_at
    rounds = {(each["phase"], each["round"]): each for each in summary_of(row).get("phases") or ()}
    for stretch in found:
        account = rounds.get((stretch["phase"], stretch["round"]))
        if account and stretch["purpose"] == "confirmation" and stretch["decided"] is None:
            stretch["decided"] = "the whole round, adopted" if account["gain"] > 0 else "the whole round, turned down"
            stretch |= {key: account[key] for key in ("gain", "gain_standard_error")}
    return as_frame(found, TIMELINE_COLUMNS)


def tasks_frame(engine: sa.Engine, study: str) -> pd.DataFrame:
    """The tasks of a study from the ledger, oldest first; empty where a database keeps none.

    Columns: kind, label (the start of the spec's fingerprint, and its blocks), fingerprint, worker (host and name),
    submitted, start and end (missing while it runs), attempts, seconds (of work), images, peak_memory_mb, outcome
    ("running", "done", "failed" or "lost", as `autonat show --tasks` tells it), error.
    """
    row = find_study(engine, study)
    if row is None or not sa.inspect(engine).has_table(tasks.name):
        return as_frame([], TASK_COLUMNS)
    return as_frame([_task(each, row) for each in rows_of(OpenDatabase(engine), row.id)], TASK_COLUMNS)


def _task(row: Any, study: Any) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "label": row.fingerprint[:8] + (f", blocks {row.blocks}" if row.blocks else ""),
        "fingerprint": row.fingerprint,
        "worker": f"{row.host} {row.worker}",
        "submitted": row.submitted_at,
        "start": row.started_at,
        "end": _end(row, study),
        "attempts": row.attempt,
        "seconds": row.seconds,
        "images": row.images,
        "peak_memory_mb": None if row.peak_memory is None else row.peak_memory / 2**20,
        "outcome": row.state,
        "error": row.error,
    }


def _end(row: Any, study: Any) -> Any:
    """When a task ended; None while it runs. Nobody wrote down when what a dead driver left behind did: at the driver's
    last beat, where the study still has it."""
    if row.finished_at is not None or row.state != "lost":
        return row.finished_at
    owner = owner_of(study)
    is_its_driver = owner is not None and owner.label == row.driver
    return max(row.started_at, study.heartbeat_at) if is_its_driver and study.heartbeat_at else row.started_at


def running_frame(ledger: pd.DataFrame, artifacts: Path) -> pd.DataFrame:
    """What is at work now of a study's ``tasks_frame``: a row for each task that has begun and not ended.

    Columns: what, worker, since, done (share) and loss (both of trainings alone, as far as they say it).
    """
    at_work = ledger[ledger["outcome"] == "running"]
    found: list[dict[str, Any]] = [
        {
            "what": f"{row.kind} {row.label}",
            "worker": row.worker,
            "since": row.start,
            **(_progress(artifacts / f"{row.fingerprint}.progress.json") if row.kind == "training" else {}),
        }
        for row in at_work.itertuples()
    ]
    return as_frame(found, RUNNING_COLUMNS)


def _progress(path: Path) -> dict[str, Any]:
    """How far a training is. Nothing where it has not said so yet, has just ended, or runs on another host."""
    try:
        state = json.loads(path.read_text())
        return {"done": state["step"] / state["steps"], "loss": state.get("loss")}
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return {}


def throughput_frame(engine: sa.Engine, study: str, buckets: int = 60) -> pd.DataFrame:
    """Images a second over the study's clock time, in equal buckets: images of results recorded within each.

    Results that were there before the study took nobody's time in it.
    """
    row = find_study(engine, study)
    if row is None:
        return as_frame([], THROUGHPUT_COLUMNS)
    mine = sa.select(journal.c.fingerprint).where(journal.c.study_id == row.id, journal.c.fingerprint.is_not(None))
    wanted = sa.select(results.c.created_at, results.c.images).where(
        results.c.fingerprint.in_(mine.distinct()), results.c.created_at >= row.created_at
    )
    with engine.connect() as connection:
        rows = connection.execute(wanted).all()
    measured = as_frame(
        [{"time": each.created_at, "images": each.images} for each in rows if each.images],
        {"time": "datetime64[us, UTC]", "images": "int64"},
    ).sort_values("time")
    if len(measured) < 2 or measured["time"].iloc[0] == measured["time"].iloc[-1]:
        return as_frame([], THROUGHPUT_COLUMNS)
    width = (measured["time"].iloc[-1] - measured["time"].iloc[0]) / buckets
    place = ((measured["time"] - measured["time"].iloc[0]) / width).astype("int64").clip(upper=buckets - 1)
    sums = measured.groupby(place)["images"].sum().reindex(range(buckets), fill_value=0)
    times = [measured["time"].iloc[0] + (index + 0.5) * width for index in range(buckets)]
    return as_frame(
        [
            {"time": time, "images_per_second": count / width.total_seconds()}
            for time, count in zip(times, sums, strict=True)
        ],
        THROUGHPUT_COLUMNS,
    )
