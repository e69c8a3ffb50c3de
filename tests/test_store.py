"""The database: what is recorded stays, one driver a study, and every failure is one line."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from studies_for_tests import is_running, own_by, query, tiny_recipe, wait_for

from autonat.errors import UserError
from autonat.search.alternation import start_of
from autonat.specs import Differences, Evaluation, Features, ProbeSpec, Trained, fingerprint
from autonat.storage.ownership import LEASE
from autonat.storage.store import Store
from autonat.storage.tables import metadata
from models.probes import Probe

LAB, PAIR = start_of(tiny_recipe())
EVALUATION_SPEC = LAB.evaluation(PAIR, 40, 1)
EVALUATION = Evaluation(0.1 + 0.2, 1e-17, 40, "FD", 1, (1 / 3, -0.0))
PROBE_SPEC = ProbeSpec(PAIR.training, LAB.features, PAIR.schedule, (Probe("guidance_scales", 0, 0.5),), 1, 40, 20)
RESULTS = [
    (LAB.features, Features(0.5, 1 / 3, 0.1, 500), "a" * 64),
    (PAIR.training, Trained(2 / 3), "b" * 64),
    (EVALUATION_SPEC, EVALUATION, None),
    (PROBE_SPEC, Differences(1e300, "FD", 40, ((0.1,), (-5e-324,))), None),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.db"


@pytest.fixture
def store(path):
    store = Store.open(str(path))
    yield store
    store.close()


def one_line(caught, *words):
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


# Results


@pytest.mark.parametrize(("spec", "result", "sha256"), RESULTS)
def test_results_come_back_to_the_last_bit(store, path, spec, result, sha256):
    assert store.result(spec) is None
    store.record(spec, result, 1.5, sha256)
    with contextlib.closing(Store.open(str(path), readonly=True)) as reader_store:
        found, found_sha256 = reader_store.result(spec)
    assert type(found) is type(result)
    assert repr(found) == repr(result)
    assert found_sha256 == sha256


def test_a_recorded_result_is_final(store, path):
    store.record(PAIR.training, Trained(1.0), 1.0, "a" * 64)
    before = query(path, "SELECT * FROM results")
    store.record(PAIR.training, Trained(2.0), 9.0, "b" * 64)
    assert store.result(PAIR.training) == (Trained(1.0), "b" * 64)
    after = query(path, "SELECT * FROM results")
    assert [[cell for cell in row if cell not in ("a" * 64, "b" * 64)] for row in after] == [
        [cell for cell in row if cell != "a" * 64] for row in before
    ]


def test_results_are_told_apart_by_their_specs(store):
    store.record(EVALUATION_SPEC, EVALUATION, 1.0)
    assert store.result(LAB.evaluation(PAIR, 40, 2)) is None
    assert store.result(LAB.evaluation(PAIR, 60, 1)) is None


# Journal


def entries(*purposes):
    return [{"phase": "p", "round": 0, "purpose": purpose, "decision": f'{{"x": "{purpose}"}}'} for purpose in purposes]


def test_journal_keeps_what_an_earlier_run_wrote(store, path):
    study = store.claim("s", "{}")
    store.write_journal(study, 0, entries("a", "b"))
    before = query(path, "SELECT * FROM journal ORDER BY number")
    store.write_journal(study, 0, entries("a", "b"))
    store.write_journal(study, 1, entries("b", "c"))
    rows = query(path, "SELECT * FROM journal ORDER BY number")
    assert rows[:2] == before
    assert [entry["purpose"] for entry in store.decisions(study)] == ["a", "b", "c"]
    assert [entry["x"] for entry in store.decisions(study)] == ["a", "b", "c"]


def test_journals_of_two_studies_are_apart(store):
    first, second = store.claim("s", "{}"), store.claim("t", "{}")
    store.write_journal(first, 0, entries("a", "b"))
    store.write_journal(second, 0, entries("c"))
    assert [entry["purpose"] for entry in store.decisions(second)] == ["c"]


# Ownership


@pytest.fixture
def other_process():
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_claim_is_refused_while_the_owner_lives(store, path, other_process):
    import socket

    store.claim("s", "{}")
    own_by(path, "s", other_process.pid)
    with pytest.raises(UserError) as caught:
        store.claim("s", "{}")
    one_line(caught, str(other_process.pid), socket.gethostname())
    with pytest.raises(UserError) as caught:
        store.delete("s")
    one_line(caught, "being run")
    assert store.study("s").state == "running"
    # Killed and not yet waited for by its parent, the process is a zombie: it drives nothing.
    other_process.kill()
    wait_for(lambda: not is_running(other_process.pid), "the process's death")
    assert store.study("s").state == "killed"
    assert store.claim("s", "{}") == store.study("s").id


def test_a_reused_process_number_is_no_owner(store, path, other_process):
    store.claim("s", "{}")
    own_by(path, "s", other_process.pid, mark="1")
    assert store.study("s").state == "killed"
    store.claim("s", "{}")
    assert query(path, "SELECT owner_pid FROM studies") == [(os.getpid(),)]


CLAIMER = """
import sys, time
from autonat.storage.store import Store
Store.open(sys.argv[1]).claim("s", "{}")
print("claimed", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_killed_driver_is_followed(store, path):
    process = subprocess.Popen([sys.executable, "-c", CLAIMER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "claimed\n"
        with pytest.raises(UserError) as caught:
            store.claim("s", "{}")
        one_line(caught, f"process {process.pid} ")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert store.study("s").state == "killed"
    store.claim("s", "{}")
    assert store.study("s").state == "running"
    assert query(path, "SELECT owner_pid FROM studies") == [(os.getpid(),)]


@pytest.mark.parametrize(("age", "alive"), [(timedelta(0), True), (LEASE / 2, True), (2 * LEASE, False)])
def test_an_owner_on_another_host_lives_by_its_heartbeat(store, path, age, alive):
    store.claim("s", "{}")
    own_by(path, "s", 1, host="elsewhere", beat=(datetime.now(UTC) - age).strftime("%Y-%m-%d %H:%M:%S.%f"))
    if alive:
        with pytest.raises(UserError) as caught:
            store.claim("s", "{}")
        one_line(caught, "process 1 on elsewhere")
    else:
        assert store.study("s").state == "killed"
        store.claim("s", "{}")
    assert query(path, "SELECT owner_host = 'elsewhere' FROM studies") == [(int(alive),)]


def test_heartbeats_add_up_and_keep_the_lease(store, path):
    study = store.claim("s", "{}")
    query(path, "UPDATE studies SET heartbeat_at = '2000-01-01 00:00:00.000000'")
    store.heartbeat(study, 1.5)
    store.heartbeat(study, 2.0)
    assert store.study("s").seconds == 3.5
    assert query(path, "SELECT heartbeat_at > '2020' FROM studies") == [(1,)]


def test_another_recipe_needs_another_name(store):
    store.claim("s", "{}")
    with pytest.raises(UserError) as caught:
        store.claim("s", '{"seed":1}')
    one_line(caught, "another recipe")


def test_release_frees_a_study_and_keeps_its_summary(store, path):
    study = store.claim("s", "{}")
    store.release(study, "finished", summary={"schedule": PAIR.schedule, "value": 0.1})
    row = store.study("s")
    assert (row.state, row.summary["value"]) == ("finished", 0.1)
    assert row.summary["schedule"]["mask_ratios"] == list(PAIR.schedule.mask_ratios)
    assert query(path, "SELECT owner_host, owner_pid, owner_mark, heartbeat_at FROM studies") == [(None,) * 4]
    assert store.claim("s", "{}") == study


def test_unknown_study(store):
    store.claim("known", "{}")
    with pytest.raises(UserError) as caught:
        store.study("s")
    one_line(caught, "'s'", "known")


# Deletion


def test_delete_keeps_what_another_study_uses(store):
    first, second = store.claim("s", "{}"), store.claim("t", "{}")
    for spec, result, sha256 in RESULTS:
        store.record(spec, result, 1.0, sha256)
    shared, own = [LAB.features, EVALUATION_SPEC], [PAIR.training, PROBE_SPEC]

    def asked(specs):
        return [{"phase": "p", "round": 0, "purpose": "x", "fingerprint": fingerprint(spec)} for spec in specs]

    store.write_journal(first, 0, asked(shared + own))
    store.write_journal(second, 0, asked(shared))
    for spec in (LAB.features, PAIR.training):
        store.artifacts.path(fingerprint(spec)).write_bytes(b"weights")
    for study in (first, second):
        store.release(study, "finished", summary={})
    assert store.delete("s") == 2
    assert [row.name for row in store.studies()] == ["t"]
    assert [store.result(spec) is not None for spec in (*shared, *own)] == [True, True, False, False]
    assert store.artifacts.path(fingerprint(LAB.features)).exists()
    assert not store.artifacts.path(fingerprint(PAIR.training)).exists()
    assert store.delete("t") == 2
    assert not store.artifacts.path(fingerprint(LAB.features)).exists()


# Schema


def test_migrations_lead_to_the_tables(store):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        other = sa.MetaData()
        sa.Table("more", other, sa.Column("id", sa.Integer, primary_key=True))
        assert compare_metadata(context, other)


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
