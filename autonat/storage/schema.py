"""The schema's version: drivers create and migrate, readers only look."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from autonat.errors import UserError
from autonat.storage.database import Database
from autonat.storage.tables import studies

MIGRATIONS = Path(__file__).parent / "migrations"


def revisions() -> list[str]:
    """All versions, oldest first. The files say it, so that a reader need not import Alembic."""
    return sorted(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _newer(database: Database, version: str, what: str) -> UserError:
    return UserError(
        f"database {database.name} was written by a newer autonat (schema {version}): update autonat to {what} it"
    )


def check_version(database: Database) -> None:
    """Raises UserError where the database is not of this version."""
    version = database.run(_version)
    if version is None:
        raise UserError(f"database {database.name} holds no autonat studies: name another with --db")
    if version not in revisions():
        raise _newer(database, version, "read")
    if version != revisions()[-1]:
        raise UserError(f"database {database.name} has the older schema {version}: `autonat run` brings it up to date")


def migrate(database: Database) -> None:
    """Create the schema or bring it up to date; of several drivers that start at once one does.

    Raises UserError for a database of something else, of a newer version, or one that cannot be written.
    """

    def look(connection: sa.Connection) -> str | None:
        version = _version(connection)
        if version is None and sa.inspect(connection).get_table_names():
            raise UserError(f"database {database.name} belongs to something else: give another with --db")
        if version is not None and version not in revisions():
            raise _newer(database, version, "use")
        return version

    def upgrade(connection: sa.Connection) -> None:
        if look(connection) != revisions()[-1]:
            from alembic import command

            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    version = database.run(look)
    if database.sqlite:
        # Now, as the file is known to be ours; a read-only one keeps the mode it has, what follows says so.
        with suppress(SQLAlchemyError), database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    if version != revisions()[-1]:
        # In the transaction of the lock: a kill leaves the old schema whole.
        database.run(upgrade, locked=True)
    else:
        # Find a read-only file now and not after the first training.
        database.run(lambda c: c.execute(sa.update(studies).where(studies.c.id == -1).values(state="none")))


def alembic_config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config
