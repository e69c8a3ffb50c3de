"""What is remembered: results by fingerprint, studies with their journal and task ledger.

Contract: one driver a study writes; any number of readers. ``record`` is atomic and a recorded result is final, so a
process may be killed at any moment and what was recorded stays. SQLite runs with write-ahead logging. Errors of the
database become UserError with one line that says what to do.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from autonat.errors import UserError
from autonat.storage.artifacts import Artifacts
from autonat.storage.database import PATIENCE_SECONDS, Database
from autonat.storage.ownership import Owner, in_utc, is_driven, owner_of
from autonat.storage.schema import check_version, migrate
from autonat.storage.tables import journal, results, settings, studies, tasks
from autonat.storage.task_rows import lose_tasks

if TYPE_CHECKING:  # specs import torch, which a list of studies does not need
    from autonat.specs import Result, Spec

DEFAULT_URL = "sqlite:///autonat.db"
DEFAULT_ARTIFACTS = "autonat-artifacts"


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def decision_json(facts: dict[str, Any]) -> str:
    """A decision's facts as JSON; schedules and mask ratios become objects."""
    return json.dumps(facts, default=_plain, sort_keys=True)


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study as the database has it."""

    id: int
    name: str
    recipe: str
    state: str
    error: str | None
    summary: dict[str, Any] | None
    seconds: float
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Removed:
    """How many results a deletion removed, and how many it left for ``gc`` while another study was being run."""

    results: int
    left: int


Heartbeat = Literal["go on", "stop", "lost"]


class Store:
    """See the module's docstring. ``Store.open`` brings the schema up to date; ``readonly`` never writes."""

    def __init__(self, database: Database, artifacts: Artifacts) -> None:
        self.database, self.artifacts = database, artifacts
        self.engine = database.engine

    @staticmethod
    def open(
        url: str = DEFAULT_URL, artifacts: str | Path | None = None, *, readonly: bool = False, may_create: bool = True
    ) -> "Store":
        """Connect and, unless `readonly`, migrate.

        may_create: whether an SQLite file that is not there is made; `readonly` makes none. artifacts: a folder or an
        fsspec URL, which the database remembers. Unless given: the remembered one, else a folder beside an SQLite
        file, else ``autonat-artifacts`` in the current folder.

        Raises UserError for an address that cannot be read, a file that is not a database, one of a newer version,
        a missing one where nothing may be created, and one that cannot be written.
        """
        database = Database(url if "://" in url else f"sqlite:///{url}")
        file = database.file
        if file is not None and not file.exists():
            if readonly or not may_create:
                raise UserError(f"no database at {file}: run a study first, or name one with --db")
            if not file.parent.is_dir():
                raise UserError(f"no folder {file.parent} for the database: create it first")
        if readonly:
            check_version(database)
        else:
            migrate(database)
        store = Store(database, Artifacts(_location(database, artifacts, remember=not readonly)))
        if not readonly:
            with database.explained():
                store.artifacts.create()
            database.patience_seconds = PATIENCE_SECONDS
        return store

    @property
    def url(self) -> str:
        """The database's address, without a password."""
        return self.database.name

    # Results

    def result(self, spec: "Spec") -> "tuple[Result, str | None] | None":
        """The recorded result and its artifact's hash, or None."""
        from autonat.specs import fingerprint

        return self.results([fingerprint(spec)]).get(fingerprint(spec))

    def results(self, fingerprints: Sequence[str]) -> "dict[str, tuple[Result, str | None]]":
        """The recorded results of some fingerprints, each with its artifact's hash."""
        from autonat.specs import result_from_dict

        rows: list[Any] = []
        for first in range(0, len(fingerprints), 500):  # databases limit the number of parameters
            wanted = sa.select(
                results.c.fingerprint, results.c.kind, results.c.result, results.c.artifact_sha256
            ).where(results.c.fingerprint.in_(fingerprints[first : first + 500]))
            rows += self.database.rows(wanted)
        return {
            row.fingerprint: (result_from_dict(row.kind, json.loads(row.result)), row.artifact_sha256) for row in rows
        }

    def record(
        self,
        spec: "Spec",
        result: "Result",
        seconds: float,
        artifact_sha256: str | None = None,
        ledger: Sequence[dict[str, Any]] = (),
        images: int | None = None,
    ) -> None:
        """Remember a result for good, and rows of the task ledger with it.

        images: painted for it, the spec's unless given (another result's may have served). Recording it again (a
        recomputed artifact) only updates the hash.
        """
        from autonat.specs import canonical_json, fingerprint

        row = {
            "fingerprint": fingerprint(spec),
            "kind": type(spec).__name__,
            "spec": canonical_json(asdict(spec)),
            "result": json.dumps(asdict(result), sort_keys=True),
            "images": spec.images if images is None else images,
            "seconds": seconds,
            "artifact_sha256": artifact_sha256,
            "created_at": datetime.now(UTC),
        }
        final = tuple(name for name in row if name not in ("fingerprint", "artifact_sha256"))

        def write(connection: sa.Connection) -> None:
            connection.execute(self.database.upsert(results, keep=final), row)
            if ledger:
                connection.execute(self.database.upsert(tasks), list(ledger))

        self.database.run(write)

    # Studies

    def study(self, name: str) -> StudyRow:
        """Raises UserError for a name that is not there."""
        found = [row for row in self.studies() if row.name == name]
        if not found:
            known = ", ".join(row.name for row in self.studies()) or "none yet"
            raise UserError(f"no study {name!r} in {self.url}; there: {known}")
        return found[0]

    def studies(self) -> list[StudyRow]:
        """All studies, oldest first. A study whose driver died is shown as "killed"."""

        def read(connection: sa.Connection) -> list[StudyRow]:
            now = self.database.now(connection)
            return [
                StudyRow(
                    row.id,
                    row.name,
                    row.recipe,
                    "killed" if row.state == "running" and not is_driven(row, now) else row.state,
                    row.error,
                    json.loads(row.summary) if row.summary else None,
                    row.seconds,
                    in_utc(row.created_at),
                    in_utc(row.updated_at),
                )
                for row in connection.execute(sa.select(studies).order_by(studies.c.id))
            ]

        return self.database.run(read)

    def claim(self, name: str, recipe: str) -> int:
        """Create the study or take over one whose driver is gone; returns its id.

        Tasks that an earlier driver left running become lost. Raises UserError while another driver lives (with its
        host and pid) and where the study has another recipe.
        """
        owner = Owner.this_process()

        def take(connection: sa.Connection) -> int:
            now = self.database.now(connection)
            mine: dict[str, Any] = {"state": "running", "error": None, "stop_requested": False}
            mine |= {"updated_at": now, "heartbeat_at": now}
            mine |= {"owner_host": owner.host, "owner_pid": owner.pid, "owner_mark": owner.mark}
            row = connection.execute(sa.select(studies).where(studies.c.name == name)).first()
            if row is None:
                inserted = connection.execute(
                    sa.insert(studies).values(name=name, recipe=recipe, created_at=now, seconds=0.0, **mine)
                )
                key = inserted.inserted_primary_key
                assert key is not None
                return int(key[0])
            if row.recipe != recipe:
                raise UserError(
                    f"study {name!r} exists with another recipe: give it another name (name=NEW) or delete it "
                    f"first (autonat delete {name})"
                )
            if is_driven(row, now) and owner_of(row) != owner:
                raise UserError(
                    f"study {name!r} is being run by process {row.owner_pid} on {row.owner_host}: wait for it or "
                    f"stop it (autonat stop {name})"
                )
            connection.execute(sa.update(studies).where(studies.c.id == row.id).values(**mine))
            lose_tasks(connection, row.id, now)
            return int(row.id)

        return self.database.run(take, locked=True)

    def heartbeat(self, study_id: int, seconds: float) -> Heartbeat:
        """The driver lives; `seconds` are added to the study's running time. Returns whether it is to go on.

        "lost": another driver holds the study, as this one was silent for too long.
        """

        def beat(connection: sa.Connection) -> Heartbeat:
            now = self.database.now(connection)
            connection.execute(
                sa.update(studies).where(_mine(study_id)).values(heartbeat_at=now, seconds=studies.c.seconds + seconds)
            )
            stop = connection.execute(sa.select(studies.c.stop_requested).where(_mine(study_id))).scalar()
            return "lost" if stop is None else "stop" if stop else "go on"

        return self.database.run(beat)

    def request_stop(self, name: str) -> StudyRow:
        """Ask a study's driver to end after the tasks in flight. Raises UserError where it has none."""
        row = self.study(name)
        if row.state != "running":
            raise UserError(f"study {name!r} is {row.state}: there is nothing to stop")
        self.database.run(
            lambda connection: connection.execute(
                sa.update(studies).where(studies.c.id == row.id).values(stop_requested=True)
            )
        )
        return row

    def release(
        self, study_id: int, state: str, error: str | None = None, summary: dict[str, Any] | None = None
    ) -> None:
        """Let go of a study: finished, stopped, interrupted or failed. Nothing happens where another took it over."""
        owner = Owner.this_process()

        def let_go(connection: sa.Connection) -> None:
            now = self.database.now(connection)
            values: dict[str, Any] = {"state": state, "error": error, "updated_at": now, "stop_requested": False}
            values |= {"owner_host": None, "owner_pid": None, "owner_mark": None, "heartbeat_at": None}
            if summary is not None:
                values["summary"] = json.dumps(summary, default=_plain, sort_keys=True)
            connection.execute(sa.update(studies).where(_mine(study_id)).values(**values))
            in_flight = (tasks.c.study_id == study_id) & (tasks.c.driver == owner.label) & (tasks.c.state == "running")
            connection.execute(sa.update(tasks).where(in_flight).values(state="lost", finished_at=now))

        self.database.run(let_go)

    def write_journal(self, study_id: int, first_number: int, entries: list[dict[str, Any]]) -> None:
        """Append entries (phase, round, purpose, and a fingerprint or a decision) from `first_number` on.

        Numbers that are there already, from before an interruption, stay as they are.
        """

        def append(connection: sa.Connection) -> None:
            last = connection.execute(
                sa.select(sa.func.max(journal.c.number)).where(journal.c.study_id == study_id)
            ).scalar()
            now = datetime.now(UTC)
            common = {"fingerprint": None, "decision": None, "study_id": study_id, "created_at": now}
            fresh = [
                {**common, **entry, "number": number}
                for number, entry in enumerate(entries, first_number)
                if last is None or number > last
            ]
            if fresh:
                connection.execute(sa.insert(journal), fresh)

        self.database.run(append)

    def decisions(self, study_id: int) -> list[dict[str, Any]]:
        """A study's decisions in order: phase, round, purpose and facts."""
        wanted = (
            sa.select(journal.c.phase, journal.c.round, journal.c.purpose, journal.c.decision)
            .where(journal.c.study_id == study_id, journal.c.decision.is_not(None))
            .order_by(journal.c.number)
        )
        rows = self.database.rows(wanted)
        return [
            {"phase": row.phase, "round": row.round, "purpose": row.purpose, **json.loads(row.decision)} for row in rows
        ]

    def recorded_specs(self, study_id: int) -> list[tuple[str, str, str]]:
        """(fingerprint, kind, spec as JSON) of all results that a study asked for or had computed, in a fixed order."""
        wanted = (
            sa.select(results.c.fingerprint, results.c.kind, results.c.spec)
            .where(results.c.fingerprint.in_(_used_by(study_id)))
            .order_by(results.c.fingerprint)
        )
        rows = self.database.rows(wanted)
        return [(row.fingerprint, row.kind, row.spec) for row in rows]

    def delete(self, name: str) -> Removed:
        """Remove a study with its results, and their artifacts, that no other study asked for or had computed.

        While another study runs the results stay: it may have looked them up and not yet written it down. ``gc``
        removes them later. Raises UserError while the study is being run.
        """

        def remove(connection: sa.Connection) -> Removed:
            now = self.database.now(connection)
            row = connection.execute(sa.select(studies).where(studies.c.name == name)).first()
            if row is None:
                raise UserError(f"no study {name!r} in {self.url}")
            if row.state == "running" and is_driven(row, now):
                raise UserError(f"study {name!r} is being run: stop it before deleting it")
            used = set(connection.scalars(_used_by(row.id)))
            mine = sorted(used | _evaluations_of(connection, used))
            connection.execute(sa.delete(studies).where(studies.c.id == row.id))
            orphans = set(_orphans(connection)) & set(mine)
            if _running(connection, now):
                return Removed(0, len(orphans))
            self._remove_results(connection, sorted(orphans))
            for fingerprint in _unfinished(connection, mine):
                self.artifacts.remove(fingerprint)
            return Removed(len(orphans), 0)

        return self.database.run(remove, locked=True)

    def gc(self) -> int:
        """Remove results, and their artifacts, that no study has any use for; returns how many.

        Raises UserError while a study is being run.
        """

        def collect(connection: sa.Connection) -> int:
            running = _running(connection, self.database.now(connection))
            if running:
                raise UserError(
                    f"study {running[0]!r} is being run: wait for it or stop it (autonat stop {running[0]})"
                )
            orphans = _orphans(connection)
            self._remove_results(connection, orphans)
            return len(orphans)

        return self.database.run(collect, locked=True)

    def _remove_results(self, connection: sa.Connection, fingerprints: list[str]) -> None:
        """Files go before the transaction ends: a driver that starts after it finds neither result nor artifact."""
        from autonat.specs import fingerprint_of_whole

        whole: list[str] = []  # trainings of which parts are recorded, whose states lie there
        for first in range(0, len(fingerprints), 500):
            some = fingerprints[first : first + 500]
            trained = sa.select(results.c.spec).where(results.c.fingerprint.in_(some), results.c.kind == "TrainSpec")
            whole += filter(None, map(fingerprint_of_whole, connection.scalars(trained)))
            connection.execute(sa.delete(results).where(results.c.fingerprint.in_(some)))
        for fingerprint in fingerprints:
            self.artifacts.remove(fingerprint)
        for fingerprint in whole:
            self.artifacts.discard(self.artifacts.state_path(fingerprint))

    def close(self) -> None:
        self.engine.dispose()


def _mine(study_id: int) -> Any:
    """The study, if this process still holds it."""
    owner = Owner.this_process()
    return sa.and_(
        studies.c.id == study_id,
        studies.c.owner_host == owner.host,
        studies.c.owner_pid == owner.pid,
        studies.c.owner_mark == owner.mark,
    )


def _running(connection: sa.Connection, now: datetime) -> list[str]:
    """Names of the studies that are being run."""
    rows = connection.execute(sa.select(studies).where(studies.c.state == "running")).all()
    return [row.name for row in rows if is_driven(row, now)]


def _used_by(study_id: int) -> Any:
    """Fingerprints that a study asked for, or had computed (`autonat evaluate`, or just before it was killed)."""
    asked = sa.select(journal.c.fingerprint).where(journal.c.study_id == study_id, journal.c.fingerprint.is_not(None))
    return asked.union(sa.select(tasks.c.fingerprint).where(tasks.c.study_id == study_id))


def _orphans(connection: sa.Connection) -> list[str]:
    """Results of no study."""
    asked = sa.exists().where(journal.c.fingerprint == results.c.fingerprint)
    computed = sa.exists().where(tasks.c.fingerprint == results.c.fingerprint)
    wanted = sa.select(results.c.fingerprint).where(~asked, ~computed).order_by(results.c.fingerprint)
    orphans = list(connection.scalars(wanted))
    if not orphans:
        return []
    every = set(connection.scalars(sa.select(results.c.fingerprint).where(results.c.kind == "MetricsSpec")))
    kept = _evaluations_of(connection, every - set(orphans))
    return [fingerprint for fingerprint in orphans if fingerprint not in kept]


def _evaluations_of(connection: sa.Connection, fingerprints: set[str]) -> set[str]:
    """The evaluations that recorded metrics among `fingerprints` carried: nobody was given a task for those."""
    from autonat.specs import fingerprint_of_evaluation

    metrics = sa.select(results.c.fingerprint, results.c.spec).where(results.c.kind == "MetricsSpec")
    return {
        fingerprint_of_evaluation(row.spec) for row in connection.execute(metrics) if row.fingerprint in fingerprints
    }


def _unfinished(connection: sa.Connection, fingerprints: list[str]) -> list[str]:
    """Those of a deleted study's that were begun and have no result, and that no other study has begun."""
    found: list[str] = []
    for first in range(0, len(fingerprints), 500):
        some = fingerprints[first : first + 500]
        kept = set(connection.scalars(sa.select(results.c.fingerprint).where(results.c.fingerprint.in_(some))))
        kept |= set(connection.scalars(sa.select(tasks.c.fingerprint).where(tasks.c.fingerprint.in_(some))))
        found += [fingerprint for fingerprint in some if fingerprint not in kept]
    return found


def _location(database: Database, given: str | Path | None, *, remember: bool) -> str | Path:
    """Where the artifacts lie. `remember` writes down what was given, and where a server's driver keeps them."""
    stored = database.run(
        lambda connection: connection.execute(
            sa.select(settings.c.value).where(settings.c.name == "artifacts")
        ).scalar()
    )
    if given is None and stored is not None:
        return str(stored)
    if given is None and database.file is not None:
        # Not remembered, so that both can be moved together.
        return database.file.with_name(f"{database.file.stem}-artifacts")
    location = str(given or DEFAULT_ARTIFACTS)
    if "://" not in location:
        location = str(Path(location).resolve())
    if remember and location != stored:
        row = {"name": "artifacts", "value": location}
        database.run(lambda connection: connection.execute(database.upsert(settings), row))
    return location
