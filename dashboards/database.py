"""A connection that can only read, for pages that are open while a study runs."""

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from autonat.errors import UserError
from autonat.storage.database import Database, parsed_url, without_password
from autonat.storage.tables import settings


def open_readonly(url: str) -> sa.Engine:
    """An engine on which every write fails, at the database itself. `url`: an SQLite file or an SQLAlchemy URL.

    Raises UserError for an address that cannot be read, a file that is missing or is no database, and a database
    without studies.
    """
    if "://" not in url:
        url = f"sqlite:///{url}"
    shown = without_password(url)
    parsed = parsed_url(url)
    try:
        if parsed.get_backend_name() == "sqlite":
            engine = _sqlite(Path(parsed.database or ""))
        else:
            engine = sa.create_engine(parsed, pool_pre_ping=True)
            _postgres_reads_only(engine)
    except (SQLAlchemyError, ImportError) as error:
        raise UserError(f"cannot use database {shown!r}: {' '.join(str(error).split())}") from error
    try:
        with engine.connect() as connection:
            tables = set(sa.inspect(connection).get_table_names())
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise UserError(f"database {shown}: {' '.join(str(cause).split())}: name another with --db") from error
    if not {"studies", "journal", "results"} <= tables:
        raise UserError(f"database {shown} holds no autonat studies: name another with --db")
    return engine


class OpenDatabase(Database):
    """An engine that is open already as the store's functions take it, which read the ledger and tell the time."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.name = engine.url.render_as_string(hide_password=True)
        self.sqlite = engine.dialect.name == "sqlite"
        self.file = Path(str(engine.url.database)) if self.sqlite else None
        self.patience_seconds = 0.0


def artifact_folder(engine: sa.Engine) -> Path:
    """Where the artifacts of a database lie on this host: the folder it names, else beside an SQLite file."""
    with engine.connect() as connection:
        if sa.inspect(connection).has_table(settings.name):
            named = connection.scalar(sa.select(settings.c.value).where(settings.c.name == "artifacts"))
            if named:
                return Path(str(named).removeprefix("file://"))
    if engine.dialect.name == "sqlite":
        file = Path(str(engine.url.database))
        return file.with_name(f"{file.stem}-artifacts")
    return Path("autonat-artifacts")


def _sqlite(file: Path) -> sa.Engine:
    if not file.is_file():
        raise UserError(f"no database at {file}: run a study first, or name one with --db")
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(file.resolve())))

    @sa.event.listens_for(engine, "connect")
    def _reads_only(connection: object, _record: object) -> None:
        # Not mode=ro: that cannot open a write-ahead log whose helper files are gone.
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA query_only=ON")
        cursor.execute("PRAGMA busy_timeout=5000")
        cursor.close()

    return engine


def _postgres_reads_only(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "begin")
    def _reads_only(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
