"""Rows of the task ledger, as the database has them. Reading needs nothing but the database."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from autonat.storage.database import Database
from autonat.storage.ownership import Owner, is_driven, owner_of
from autonat.storage.tables import studies
from autonat.storage.tables import tasks as table


def write(database: Database, rows: list[dict[str, Any]]) -> None:
    """Insert or update rows."""
    database.run(lambda connection: connection.execute(database.upsert(table), rows))


@dataclass(frozen=True, slots=True)
class KindSummary:
    """What a study's tasks of one kind came to."""

    kind: str
    done: int
    running: int
    failed: int
    lost: int
    images: int
    seconds: float
    peak_memory: int | None


def _dead_drivers(connection: sa.Connection, study_id: int, now: datetime) -> list[str]:
    """Drivers with tasks in flight that neither run on this host nor hold the study."""
    study = connection.execute(sa.select(studies).where(studies.c.id == study_id)).one()
    in_flight = sa.select(table.c.driver).where(table.c.study_id == study_id, table.c.state == "running").distinct()
    dead = []
    for label in connection.scalars(in_flight).all():
        driver = Owner.from_label(label)
        holds = driver == owner_of(study) and is_driven(study, now)
        if not holds and not (driver.is_here and driver.is_alive(None, now)):
            dead.append(label)
    return dead


def lose_tasks(connection: sa.Connection, study_id: int, now: datetime) -> None:
    """What dead drivers left in flight is lost."""
    for label in _dead_drivers(connection, study_id, now):
        of_the_dead = (table.c.study_id == study_id) & (table.c.driver == label) & (table.c.state == "running")
        connection.execute(sa.update(table).where(of_the_dead).values(state="lost", finished_at=now))


def _state(database: Database, connection: sa.Connection, study_id: int) -> Any:
    """The state as a reader is to see it: the next driver has yet to write down what the last one lost."""
    dead = _dead_drivers(connection, study_id, database.now(connection))
    lost = (table.c.state == "running") & table.c.driver.in_(dead)
    return sa.case((lost, "lost"), else_=table.c.state)


def summarize(database: Database, study_id: int) -> list[KindSummary]:
    """A study's ledger by kind of task."""

    def read(connection: sa.Connection) -> list[KindSummary]:
        state = _state(database, connection, study_id)
        counts = [
            sa.func.sum(sa.case((state == name, 1), else_=0)).label(name)
            for name in ("done", "running", "failed", "lost")
        ]
        wanted = (
            sa.select(
                table.c.kind,
                *counts,
                sa.func.sum(table.c.images).label("images"),
                sa.func.sum(table.c.seconds).label("seconds"),
                sa.func.max(table.c.peak_memory).label("peak_memory"),
            )
            .where(table.c.study_id == study_id)
            .group_by(table.c.kind)
            .order_by(table.c.kind)
        )
        return [
            KindSummary(r.kind, r.done, r.running, r.failed, r.lost, int(r.images), float(r.seconds), r.peak_memory)
            for r in connection.execute(wanted)
        ]

    return database.run(read)


def rows_of(database: Database, study_id: int, last: int | None = None) -> list[Any]:
    """A study's ledger, oldest first; the last rows alone where a number is given."""

    def read(connection: sa.Connection) -> list[Any]:
        state = _state(database, connection, study_id).label("state")
        columns = [column for column in table.columns if column.name != "state"]
        wanted = sa.select(*columns, state).where(table.c.study_id == study_id).order_by(table.c.id.desc()).limit(last)
        return list(connection.execute(wanted).all())[::-1]

    return database.run(read)


def drivers_of(database: Database, study_id: int) -> set[str]:
    """Labels of the drivers that had work done for a study."""
    wanted = sa.select(table.c.driver).where(table.c.study_id == study_id).distinct()
    return database.run(lambda connection: set(connection.scalars(wanted)))
