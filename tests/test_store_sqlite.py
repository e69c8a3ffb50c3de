"""SQLite files: what they may be instead, who else writes them, and what happens when there is no space."""

import contextlib
import os
import shutil
import sqlite3

import pytest
import sqlalchemy as sa
from studies_for_tests import query
from test_store import EVALUATION, LAB, PAIR, one_line

from autonat.errors import UserError
from autonat.storage.store import Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.db"


@pytest.fixture
def store(path):
    store = Store.open(str(path))
    yield store
    store.close()


def test_a_migration_that_is_cut_off_leaves_nothing_behind(path, monkeypatch):
    from alembic import op

    def cut(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(op, "create_index", cut)
        with pytest.raises(KeyboardInterrupt):
            Store.open(str(path))
    store = Store.open(str(path))
    assert store.studies() == []
    store.close()


def test_opening_again_changes_nothing(store, path):
    store.claim("s", "{}")
    again = Store.open(str(path))
    assert [row.name for row in again.studies()] == ["s"]
    again.close()


# Files that are not what they should be


MODES = pytest.mark.parametrize("readonly", [False, True])


@MODES
def test_a_file_that_is_no_database(path, readonly):
    path.write_bytes(b"these are not the bytes of a database " * 100)
    before = path.read_bytes()
    with pytest.raises(UserError) as caught:
        Store.open(str(path), readonly=readonly)
    one_line(caught, "not a database", "--db")
    assert path.read_bytes() == before


@MODES
def test_a_database_of_a_newer_version(path, readonly):
    Store.open(str(path)).close()
    query(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UserError) as caught:
        Store.open(str(path), readonly=readonly)
    one_line(caught, "newer", "9999")


@MODES
def test_a_database_of_something_else_is_not_touched(path, readonly):
    query(path, "CREATE TABLE precious (x)")
    before = path.read_bytes()
    with pytest.raises(UserError) as caught:
        Store.open(str(path), readonly=readonly)
    one_line(caught, "--db")
    assert path.read_bytes() == before
    assert query(path, "SELECT name FROM sqlite_master") == [("precious",)]


def test_a_truncated_database(store, path, tmp_path):
    for number in range(50):
        store.claim(f"s{number}", "x" * 3000)
    store.close()
    cut = tmp_path / "cut.db"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(UserError) as caught:
        Store.open(str(cut)).studies()
    one_line(caught, str(cut))


@MODES
def test_a_folder_in_place_of_the_file(path, readonly):
    path.mkdir()
    with pytest.raises(UserError) as caught:
        Store.open(str(path), readonly=readonly)
    one_line(caught, "unable to open")


def test_a_missing_file(path, tmp_path):
    with pytest.raises(UserError) as caught:
        Store.open(str(path), readonly=True)
    one_line(caught, str(path))
    assert not path.exists()
    with pytest.raises(UserError) as caught:
        Store.open(str(tmp_path / "none" / "results.db"))
    one_line(caught, "no folder")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "a://b c::d/e[", "nonsense://host/x"])
def test_an_address_that_is_none(url):
    with pytest.raises(UserError) as caught:
        Store.open(url)
    one_line(caught)


@contextlib.contextmanager
def every_connection(pragma):
    """All SQLite connections that are made meanwhile begin with this."""

    def begin(connection, _record):
        connection.execute(pragma)

    sa.event.listen(sa.Engine, "connect", begin)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "connect", begin)


def test_a_database_that_cannot_be_written(path):
    """With SQLite's own switch, which gives the same error and binds root as well."""
    Store.open(str(path)).close()
    with every_connection("PRAGMA query_only=ON"):
        with pytest.raises(UserError) as caught:
            Store.open(str(path))
        one_line(caught, "readonly", "writable")
        reader = Store.open(str(path), readonly=True)
        assert reader.studies() == []
        with pytest.raises(UserError) as caught:
            reader.claim("s", "{}")
        one_line(caught, "readonly")
        reader.close()


def test_a_file_without_write_permission(path):
    Store.open(str(path)).close()
    path.chmod(0o444)
    if os.access(path, os.W_OK):
        pytest.skip("permissions do not bind this user")
    with pytest.raises(UserError) as caught:
        Store.open(str(path))
    one_line(caught, "writable")


def test_full_disk(path):
    Store.open(str(path)).close()
    (pages,) = query(path, "PRAGMA page_count")[0]
    with every_connection(f"PRAGMA max_page_count={pages + 4}"):
        store = Store.open(str(path))
        recorded = []

        def fill():
            for seed in range(100):
                spec = LAB.evaluation(PAIR, 40, seed)
                store.record(spec, EVALUATION, 1.0)
                recorded.append(spec)

        with pytest.raises(UserError) as caught:
            fill()
        one_line(caught, "full", "free some space")
        store.close()
    assert 0 < len(recorded) < 100
    store = Store.open(str(path))  # there is space again: all is there, and work goes on
    assert all(store.result(spec) for spec in recorded)
    store.record(LAB.evaluation(PAIR, 40, 99), EVALUATION, 1.0)
    store.close()


def test_full_disk_while_the_database_is_made(path):
    with every_connection("PRAGMA max_page_count=3"):
        with pytest.raises(UserError) as caught:
            Store.open(str(path))
        one_line(caught, "full")
    Store.open(str(path)).close()


def test_a_locked_database(store, path):
    def impatient(connection, _record, _proxy):
        connection.execute("PRAGMA busy_timeout=1")

    sa.event.listen(store.engine, "checkout", impatient)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError) as caught:
            store.claim("s", "{}")
    one_line(caught, "locked", "try again")
    store.claim("s", "{}")


def test_readers_and_a_writer_do_not_wait_for_each_other(store, path):
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with contextlib.closing(Store.open(str(path), readonly=True)) as reader:
            assert reader.studies() == []


def test_a_moved_database_takes_its_folder_along(store, path, tmp_path):
    """Artifacts lie beside the file under its own name, so that both move together."""
    store.artifacts.path("x").write_bytes(b"weights")
    store.close()
    other = tmp_path / "elsewhere"
    other.mkdir()
    shutil.move(path, other / path.name)
    shutil.move(tmp_path / "results-artifacts", other / "results-artifacts")
    moved = Store.open(str(other / path.name))
    assert moved.artifacts.path("x").read_bytes() == b"weights"
    moved.close()
