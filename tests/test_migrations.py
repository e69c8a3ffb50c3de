"""Databases of older versions are brought up to date without loss."""

import shutil
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from databases import ask
from studies_for_tests import run_ok

from autonat.errors import UserError
from autonat.storage.database import Database
from autonat.storage.ownership import in_utc
from autonat.storage.schema import alembic_config, revisions
from autonat.storage.store import Store

# A finished study of the first version, with all kinds of results; its artifacts are not here.
OLD = Path(__file__).parent / "data" / "schema_0001.sqlite"
KEYS = {"studies": ["id"], "results": ["fingerprint"], "journal": ["study_id", "number"]}


def content(url, columns=None):
    """All rows by table, in order; of the given columns only, where they are given."""
    engine = sa.create_engine(url)
    found = {}
    with engine.connect() as connection:
        for name, key in KEYS.items():
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            kept = list(columns[name]) if columns else [column.name for column in table.columns]
            wanted = sa.select(*(table.c[column] for column in kept)).order_by(*(table.c[column] for column in key))
            rows = connection.execute(wanted).mappings()
            found[name] = [{column: _in_utc(row[column]) for column in kept} for row in rows]
    engine.dispose()
    return found


def _in_utc(value):
    return in_utc(value) if isinstance(value, datetime) else value


@pytest.fixture
def old(database_url, tmp_path):
    """The URL of a database of the first version, of either kind."""
    if database_url.startswith("sqlite"):
        shutil.copy(OLD, tmp_path / "results.db")
        return database_url
    from alembic import command

    database = Database(database_url)

    def fill(connection):
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for name, rows in content(f"sqlite:///{OLD}").items():
            connection.execute(sa.insert(sa.Table(name, sa.MetaData(), autoload_with=connection)), rows)

    database.run(fill)
    database.engine.dispose()
    return database_url


def test_an_old_database_is_upgraded_without_loss(old, tmp_path):
    before = content(old)
    columns = {name: rows[0].keys() for name, rows in before.items()}
    assert [len(rows) for rows in before.values()] == [1, 18, 23]
    with pytest.raises(UserError, match="older schema 0001"):
        Store.open(old, readonly=True)
    assert content(old) == before
    store = Store.open(old, tmp_path / "artifacts")
    assert ask(old, "SELECT version_num FROM alembic_version") == [(revisions()[-1],)]
    assert content(old, columns) == before
    row = store.study("tiny")
    assert (row.state, row.summary["trainings"]) == ("finished", 3)
    assert len(store.decisions(row.id)) == 3
    # It goes on like any other: the driver's new columns have their defaults.
    study = store.claim("tiny", row.recipe)
    assert store.heartbeat(study, 0.0) == "go on"
    store.request_stop("tiny")
    assert store.heartbeat(study, 0.0) == "stop"
    store.release(study, "finished")
    assert "finished" in run_ok("show", "tiny", "--db", old, "--tasks")
    assert store.delete("tiny").results == 18
    store.close()


def test_the_old_database_is_small():
    assert OLD.stat().st_size < 100_000
