"""The database of results and studies, through SQLAlchemy.

Contract: one driver a study writes; any number of readers. ``record`` is atomic and a recorded result is final, so a
process may be killed at any moment and what was recorded stays. SQLite runs with write-ahead logging. Errors of the
database become UserError with one line that says what to do.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from autonat.errors import UserError
from autonat.specs import Result, Spec, canonical_json, fingerprint, result_from_dict
from autonat.storage.artifacts import Artifacts
from autonat.storage.ownership import Owner
from autonat.storage.tables import journal, results, studies

DEFAULT_URL = "sqlite:///autonat.db"


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


class Store:
    """See the module's docstring. ``Store.open`` brings the schema up to date; ``readonly`` never writes."""

    def __init__(self, engine: sa.Engine, url: str, artifacts: Artifacts) -> None:
        self.engine, self.url, self.artifacts = engine, url, artifacts

    @staticmethod
    def open(url: str = DEFAULT_URL, artifacts: Path | None = None, *, readonly: bool = False) -> "Store":
        """Connect and, unless `readonly`, migrate. Artifacts lie beside an SQLite file unless a folder is given.

        Raises UserError for an address that cannot be read, a file that is not a database, one of a newer version,
        a missing one where nothing may be created, and one that cannot be written.
        """
        if "://" not in url:
            url = f"sqlite:///{url}"
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError) as error:
            raise UserError(f"cannot read database URL {url!r}: write sqlite:///FILE") from error
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and not parsed.database:
            raise UserError("an SQLite database needs a file: write sqlite:///FILE")
        file = Path(parsed.database or "")
        if artifacts is None:
            artifacts = file.with_name(f"{file.stem}-artifacts") if sqlite else Path("autonat-artifacts")
        if sqlite and not file.exists():
            if readonly:
                raise UserError(f"no database at {file}: run a study first, or name one with --db")
            if not file.parent.is_dir():
                raise UserError(f"no folder {file.parent} for the database: create it first")
        try:
            engine = sa.create_engine(parsed)
        except (SQLAlchemyError, ImportError) as error:
            raise UserError(f"cannot use database {url!r}: {' '.join(str(error).split())}") from error
        if sqlite:
            _prepare_sqlite(engine)
        store = Store(engine, url, Artifacts(artifacts))
        with store._explained():
            if readonly:
                store._check_version()
            else:
                artifacts.mkdir(parents=True, exist_ok=True)
                store._migrate()
        return store

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            text = " ".join(str(cause).split())
            hints = {
                "not a database": "give another file with --db",
                "readonly": "make the file and its folder writable",
                "read-only": "make the file and its folder writable",
                "full": "free some space; what was recorded is kept, so run the same command again",
                "No space": "free some space; what was recorded is kept, so run the same command again",
                "unable to open": "check the path and its permissions",
                "Permission denied": "check the permissions",
                "locked": "another process is writing; try again",
            }
            hint = next((hint for word, hint in hints.items() if word in text), "")
            raise UserError(f"database {self.url}: {text}" + (f" ({hint})" if hint else "")) from error

    # Schema

    def _alembic(self) -> Any:
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        return config

    def _version(self, connection: sa.Connection) -> str | None:
        from alembic.migration import MigrationContext

        return MigrationContext.configure(connection).get_current_revision()

    def _check_version(self) -> None:
        from alembic.script import ScriptDirectory

        script = ScriptDirectory.from_config(self._alembic())
        with self.engine.connect() as connection:
            version = self._version(connection)
            if version is None:
                raise UserError(f"database {self.url} holds no autonat studies: name another with --db")
        if version not in {revision.revision for revision in script.walk_revisions()}:
            raise UserError(
                f"database {self.url} was written by a newer autonat (schema {version}): update autonat to read it"
            )
        if version != script.get_current_head():
            raise UserError(f"database {self.url} has the older schema {version}: `autonat run` brings it up to date")

    def _migrate(self) -> None:
        from alembic import command
        from alembic.script import ScriptDirectory

        config = self._alembic()
        script = ScriptDirectory.from_config(config)
        with self.engine.connect() as connection:
            version = self._version(connection)
            if version is None and sa.inspect(connection).get_table_names():
                raise UserError(f"database {self.url} belongs to something else: give another file with --db")
        if version is not None and version not in {revision.revision for revision in script.walk_revisions()}:
            raise UserError(
                f"database {self.url} was written by a newer autonat (schema {version}): update autonat to use it"
            )
        sqlite = self.engine.dialect.name == "sqlite"
        if sqlite:
            # Now, as the file is known to be ours; a read-only one keeps the mode it has, what follows says so.
            with suppress(SQLAlchemyError), self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        if version != script.get_current_head():
            with self.engine.begin() as connection:
                if sqlite:  # pysqlite begins no transaction before DDL: a kill would leave half a schema
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        else:
            # Find a read-only file now and not after the first training.
            with self.engine.begin() as connection:
                connection.execute(sa.update(studies).where(studies.c.id == -1).values(state="none"))

    # Results

    def result(self, spec: Spec) -> tuple[Result, str | None] | None:
        """The recorded result and its artifact's hash, or None."""
        with self._explained(), self.engine.connect() as connection:
            row = connection.execute(
                sa.select(results.c.kind, results.c.result, results.c.artifact_sha256).where(
                    results.c.fingerprint == fingerprint(spec)
                )
            ).first()
        return None if row is None else (result_from_dict(row.kind, json.loads(row.result)), row.artifact_sha256)

    def record(self, spec: Spec, result: Result, seconds: float, artifact_sha256: str | None = None) -> None:
        """Remember a result for good. Recording it again (a recomputed artifact) only updates the hash."""
        name = fingerprint(spec)
        row = {
            "fingerprint": name,
            "kind": type(spec).__name__,
            "spec": canonical_json(asdict(spec)),
            "result": json.dumps(asdict(result), sort_keys=True),
            "images": spec.images,
            "seconds": seconds,
            "artifact_sha256": artifact_sha256,
            "created_at": datetime.now(UTC),
        }
        with self._explained():
            try:
                with self.engine.begin() as connection:
                    connection.execute(sa.insert(results).values(row))
            except IntegrityError:
                with self.engine.begin() as connection:
                    connection.execute(
                        sa.update(results).where(results.c.fingerprint == name).values(artifact_sha256=artifact_sha256)
                    )

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
        with self._explained(), self.engine.connect() as connection:
            rows = connection.execute(sa.select(studies).order_by(studies.c.id)).all()
        return [
            StudyRow(
                row.id,
                row.name,
                row.recipe,
                "killed" if row.state == "running" and not self._is_driven(row) else row.state,
                row.error,
                json.loads(row.summary) if row.summary else None,
                row.seconds,
                row.created_at,
                row.updated_at,
            )
            for row in rows
        ]

    @staticmethod
    def _is_driven(row: Any) -> bool:
        if row.owner_pid is None:
            return False
        return Owner(row.owner_host, row.owner_pid, row.owner_mark).is_alive(row.heartbeat_at, datetime.now(UTC))

    def claim(self, name: str, recipe: str) -> int:
        """Create the study or take over one whose driver is gone; returns its id.

        Raises UserError while another driver lives (with its host and pid) and where the study has another recipe.
        """
        owner, now = Owner.this_process(), datetime.now(UTC)
        mine = {
            "state": "running",
            "error": None,
            "owner_host": owner.host,
            "owner_pid": owner.pid,
            "owner_mark": owner.mark,
            "heartbeat_at": now,
            "updated_at": now,
        }
        with self._explained():
            try:
                with self.engine.begin() as connection:
                    inserted = connection.execute(
                        sa.insert(studies).values(name=name, recipe=recipe, created_at=now, seconds=0.0, **mine)
                    )
                    key = inserted.inserted_primary_key
                    assert key is not None
                    return int(key[0])
            except IntegrityError:
                pass
            with self.engine.begin() as connection:
                row = connection.execute(sa.select(studies).where(studies.c.name == name)).one()
                if row.recipe != recipe:
                    raise UserError(
                        f"study {name!r} exists with another recipe: give it another name (name=NEW) or delete it "
                        f"first (autonat delete {name})"
                    )
                if self._is_driven(row) and (row.owner_host, row.owner_pid) != (owner.host, owner.pid):
                    raise UserError(
                        f"study {name!r} is being run by process {row.owner_pid} on {row.owner_host}: wait for it or "
                        "stop it"
                    )
                # Only if nobody was quicker since the row was read.
                taken = connection.execute(
                    sa.update(studies)
                    .where(
                        studies.c.id == row.id,
                        studies.c.owner_mark.is_(None)
                        if row.owner_mark is None
                        else sa.and_(studies.c.owner_mark == row.owner_mark, studies.c.owner_pid == row.owner_pid),
                    )
                    .values(**mine)
                )
                if taken.rowcount != 1:
                    raise UserError(f"study {name!r} was just taken by another process")
                return int(row.id)

    def heartbeat(self, study_id: int, seconds: float) -> None:
        """The driver lives; `seconds` are added to the study's running time."""
        with self._explained(), self.engine.begin() as connection:
            connection.execute(
                sa.update(studies)
                .where(studies.c.id == study_id)
                .values(heartbeat_at=datetime.now(UTC), seconds=studies.c.seconds + seconds)
            )

    def release(
        self, study_id: int, state: str, error: str | None = None, summary: dict[str, Any] | None = None
    ) -> None:
        """Let go of a study: finished, interrupted or failed."""
        values: dict[str, Any] = {"state": state, "error": error, "updated_at": datetime.now(UTC)}
        values |= {"owner_host": None, "owner_pid": None, "owner_mark": None, "heartbeat_at": None}
        if summary is not None:
            values["summary"] = json.dumps(summary, default=_plain, sort_keys=True)
        with self._explained(), self.engine.begin() as connection:
            connection.execute(sa.update(studies).where(studies.c.id == study_id).values(**values))

    def write_journal(self, study_id: int, first_number: int, entries: list[dict[str, Any]]) -> None:
        """Append entries (phase, round, purpose, and a fingerprint or a decision) from `first_number` on.

        Numbers that are there already, from before an interruption, stay as they are.
        """
        with self._explained(), self.engine.begin() as connection:
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

    def decisions(self, study_id: int) -> list[dict[str, Any]]:
        """A study's decisions in order: phase, round, purpose and facts."""
        with self._explained(), self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(journal.c.phase, journal.c.round, journal.c.purpose, journal.c.decision)
                .where(journal.c.study_id == study_id, journal.c.decision.is_not(None))
                .order_by(journal.c.number)
            ).all()
        return [
            {"phase": row.phase, "round": row.round, "purpose": row.purpose, **json.loads(row.decision)} for row in rows
        ]

    def delete(self, name: str) -> int:
        """Remove a study, the results no other study refers to, and their artifacts; returns how many results.

        Raises UserError while it is being run.
        """
        row = self.study(name)
        if row.state == "running":
            raise UserError(f"study {name!r} is being run: stop it before deleting it")
        with self._explained(), self.engine.begin() as connection:
            asked = sa.select(journal.c.fingerprint).where(journal.c.fingerprint.is_not(None))
            mine = set(connection.scalars(asked.where(journal.c.study_id == row.id)))
            orphaned = sorted(mine - set(connection.scalars(asked.where(journal.c.study_id != row.id))))
            connection.execute(sa.delete(journal).where(journal.c.study_id == row.id))
            connection.execute(sa.delete(studies).where(studies.c.id == row.id))
            connection.execute(sa.delete(results).where(results.c.fingerprint.in_(orphaned)))
        for name_of_result in orphaned:
            self.artifacts.remove(name_of_result)
        return len(orphaned)

    def close(self) -> None:
        self.engine.dispose()


def _prepare_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=30000")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()
