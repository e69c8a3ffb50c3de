"""A database through SQLAlchemy: SQLite or PostgreSQL, one transaction at a time, errors in one line."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from autonat.errors import UserError

T = TypeVar("T")

# How long a driver waits for a PostgreSQL server that went away, before it gives up.
PATIENCE_SECONDS = 60.0
# The advisory lock that PostgreSQL's drivers take before they claim, delete or migrate; any fixed number will do.
LOCK = 0x6175746F6E6174

HINTS = {
    "not a database": "give another file with --db",
    "readonly": "make the file and its folder writable",
    "read-only": "make the file and its folder writable",
    "full": "free some space; what was recorded is kept, so run the same command again",
    "No space": "free some space; what was recorded is kept, so run the same command again",
    "unable to open": "check the path and its permissions",
    "Permission denied": "check the permissions",
    "locked": "another process is writing; try again",
    "refused": "is the server running there?",
    "authentication failed": "check user and password",
    "FATAL: database": "create it first, with createdb",
}


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return url


def parsed_url(url: str) -> sa.URL:
    """Raises UserError for what is no database URL, naming it where there can be no password in it."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        named = "" if "@" in url else f" {url!r}"
        raise UserError(
            f"cannot read database URL{named}: write sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
        ) from error


class Database:
    """An engine and the ways to use it.

    url: an SQLAlchemy URL of SQLite or PostgreSQL. Raises UserError for one that cannot be used.
    patience_seconds: how long ``run`` tries again where the server went away; 0 until it is known to have been there.
    """

    def __init__(self, url: str) -> None:
        parsed = parsed_url(url)
        self.name = without_password(url)
        self.sqlite = parsed.get_backend_name() == "sqlite"
        self.patience_seconds = 0.0
        if self.sqlite and not parsed.database:
            raise UserError("an SQLite database needs a file: write sqlite:///FILE")
        if not self.sqlite and parsed.get_backend_name() != "postgresql":
            raise UserError(f"cannot use database {self.name!r}: only sqlite and postgresql+psycopg are supported")
        self.file = Path(parsed.database or "") if self.sqlite else None
        try:
            # A connection that died while it was idle is replaced without a word.
            self.engine = sa.create_engine(parsed, pool_pre_ping=not self.sqlite)
        except ModuleNotFoundError as error:
            raise UserError(f"PostgreSQL needs {error.name}: pip install 'autonat[postgres]'") from error
        except (SQLAlchemyError, ImportError) as error:
            raise UserError(f"cannot use database {self.name!r}: {' '.join(str(error).split())}") from error
        if self.sqlite:
            _prepare_sqlite(self.engine)

    def run(self, work: Callable[[sa.Connection], T], *, locked: bool = False) -> T:
        """Do `work` in one transaction and commit. `locked`: no other locked transaction runs at the same time.

        Where the server goes away the work is done again, so it must be right to do it twice.
        """
        deadline = time.monotonic() + self.patience_seconds
        pause = 0.05
        with self.explained():
            while True:
                try:
                    with self.engine.begin() as connection:
                        if locked:
                            self._lock(connection)
                        return work(connection)
                except DBAPIError as error:
                    if not self._is_gone(error) or time.monotonic() + pause > deadline:
                        raise
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def rows(self, query: sa.Select[Any]) -> list[Any]:
        """All rows of a query."""
        return list(self.run(lambda connection: connection.execute(query).all()))

    def _lock(self, connection: sa.Connection) -> None:
        if self.sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))

    def _is_gone(self, error: DBAPIError) -> bool:
        """Whether the server could not be reached or is shutting down or starting (SQLSTATE classes 08 and 57P)."""
        if self.sqlite:
            return False
        state = getattr(error.orig, "sqlstate", None)
        return error.connection_invalidated or (
            isinstance(error, sa.exc.OperationalError) and (state is None or state.startswith(("08", "57P")))
        )

    def now(self, connection: sa.Connection) -> datetime:
        """The database's clock, which all hosts share; a file has none but the clock of the host that opens it."""
        if self.sqlite:
            return datetime.now(UTC)
        found: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return found

    def upsert(self, table: sa.Table, *, keep: tuple[str, ...] = ()) -> Any:
        """An insert that changes a row that is there already, but for its primary key and the columns in `keep`."""
        from sqlalchemy.dialects import postgresql, sqlite

        key = [column.name for column in table.primary_key]
        insert = (sqlite if self.sqlite else postgresql).insert(table)
        changed = {c.name: insert.excluded[c.name] for c in table.columns if c.name not in (*key, *keep)}
        return insert.on_conflict_do_update(index_elements=key, set_=changed)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of the database and the file system become UserError with one line that says what to do."""
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            text = " ".join(str(cause).split())
            hint = next((hint for word, hint in HINTS.items() if word in text), "")
            raise UserError(f"database {self.name}: {text}" + (f" ({hint})" if hint else "")) from error


def _prepare_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=30000")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()
