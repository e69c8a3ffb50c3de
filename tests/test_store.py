"""What a database of either kind does: what is recorded stays, one driver a study, refusals in one line."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest
import sqlalchemy as sa
from databases import ask, own
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from studies_for_tests import is_running, tiny_recipe, wait_for

from autonat.errors import UserError
from autonat.execution.listener import Place
from autonat.execution.task_ledger import Ledger
from autonat.execution.tasks import EvaluationTask, TrainTask
from autonat.search.alternation import start_of
from autonat.specs import Differences, Evaluation, Features, ProbeSpec, Trained, fingerprint
from autonat.storage.ownership import LEASE
from autonat.storage.store import Removed, Store
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
def url(database_url):
    return database_url


@pytest.fixture
def store(url, tmp_path):
    store = Store.open(url, tmp_path / "artifacts")
    yield store
    store.close()


def one_line(caught, *words):
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


# Results


@pytest.mark.parametrize(("spec", "result", "sha256"), RESULTS)
def test_results_come_back_to_the_last_bit(store, url, spec, result, sha256):
    assert store.result(spec) is None
    store.record(spec, result, 1.5, sha256)
    with contextlib.closing(Store.open(url, readonly=True)) as reader_store:
        found, found_sha256 = reader_store.result(spec)
    assert type(found) is type(result)
    assert repr(found) == repr(result)
    assert found_sha256 == sha256


def test_a_recorded_result_is_final(store, url):
    store.record(PAIR.training, Trained(1.0), 1.0, "a" * 64)
    before = ask(url, "SELECT * FROM results")
    store.record(PAIR.training, Trained(2.0), 9.0, "b" * 64)
    assert store.result(PAIR.training) == (Trained(1.0), "b" * 64)
    after = ask(url, "SELECT * FROM results")
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


def test_journal_keeps_what_an_earlier_run_wrote(store, url):
    study = store.claim("s", "{}")
    store.write_journal(study, 0, entries("a", "b"))
    before = ask(url, "SELECT * FROM journal ORDER BY number")
    store.write_journal(study, 0, entries("a", "b"))
    store.write_journal(study, 1, entries("b", "c"))
    rows = ask(url, "SELECT * FROM journal ORDER BY number")
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


def test_claim_is_refused_while_the_owner_lives(store, url, other_process):
    import socket

    store.claim("s", "{}")
    own(url, "s", other_process.pid)
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


def test_a_reused_process_number_is_no_owner(store, url, other_process):
    store.claim("s", "{}")
    own(url, "s", other_process.pid, mark="1")
    assert store.study("s").state == "killed"
    store.claim("s", "{}")
    assert ask(url, "SELECT owner_pid FROM studies") == [(os.getpid(),)]


CLAIMER = """
import sys, time
from autonat.storage.store import Removed, Store
Store.open(sys.argv[1]).claim("s", "{}")
print("claimed", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_killed_driver_is_followed(store, url):
    process = subprocess.Popen([sys.executable, "-c", CLAIMER, url], stdout=subprocess.PIPE, text=True)
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
    assert ask(url, "SELECT owner_pid FROM studies") == [(os.getpid(),)]


LEASE_SECONDS = LEASE.total_seconds()
ELSEWHERE = [("elsewhere", None), (None, "1@another.kernel")]  # another host, and a container with this one's name


@pytest.mark.parametrize(("host", "mark"), ELSEWHERE)
@pytest.mark.parametrize(("age", "alive"), [(0.0, True), (LEASE_SECONDS / 2, True), (2 * LEASE_SECONDS, False)])
def test_an_owner_that_cannot_be_seen_lives_by_its_heartbeat(store, url, host, mark, age, alive):
    store.claim("s", "{}")
    own(url, "s", 1, host=host, mark=mark, age=age)
    if alive:
        with pytest.raises(UserError) as caught:
            store.claim("s", "{}")
        one_line(caught, f"process 1 on {host or socket.gethostname()}", "autonat stop s")
    else:
        assert store.study("s").state == "killed"
        store.claim("s", "{}")
    assert ask(url, "SELECT owner_pid = 1 FROM studies") == [(alive,)]


def test_heartbeats_add_up_and_keep_the_lease(store, url):
    study = store.claim("s", "{}")
    ask(url, "UPDATE studies SET heartbeat_at = '2000-01-01 00:00:00.000000'")
    assert store.heartbeat(study, 1.5) == "go on"
    assert store.heartbeat(study, 2.0) == "go on"
    assert store.study("s").seconds == 3.5
    assert ask(url, "SELECT heartbeat_at > '2020-01-01' FROM studies") == [(True,)]


def test_a_driver_hears_that_it_was_replaced(store, url):
    study = store.claim("s", "{}")
    own(url, "s", 1, host="elsewhere")
    before = ask(url, "SELECT * FROM studies")
    assert store.heartbeat(study, 1.0) == "lost"
    store.release(study, "failed", "too late")
    assert ask(url, "SELECT * FROM studies") == before


def test_a_driver_hears_that_it_is_to_stop(store):
    study = store.claim("s", "{}")
    store.request_stop("s")
    assert store.heartbeat(study, 1.0) == "stop"
    store.release(study, "stopped")
    assert store.study("s").state == "stopped"
    with pytest.raises(UserError) as caught:
        store.request_stop("s")
    one_line(caught, "stopped", "nothing to stop")
    assert store.claim("s", "{}") == study
    assert store.heartbeat(study, 1.0) == "go on"


RACER = """
import sys
from autonat.errors import UserError
from autonat.storage.store import Removed, Store
url, artifacts = sys.argv[1:]
import alembic.command, alembic.script, sqlalchemy.dialects.postgresql, sqlalchemy.dialects.sqlite
print("ready", flush=True)
for line in sys.stdin:
    try:
        store = Store.open(url, artifacts)
        store.claim(line.strip(), "{}")
        print("won", flush=True)
    except UserError as error:
        print(error, flush=True)
"""


def test_of_drivers_that_come_at_once_one_wins(url, tmp_path):
    """The first round also creates the schema."""
    command = [sys.executable, "-c", RACER, url, str(tmp_path / "artifacts")]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(3)
    ]
    try:
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 3
        for number in range(4):
            for racer in racers:
                racer.stdin.write(f"study{number}\n")
            lines = [racer.stdout.readline().strip() for racer in racers]
            (winner,) = [racer for racer, line in zip(racers, lines, strict=True) if line == "won"]
            refusal = f"is being run by process {winner.pid} on {socket.gethostname()}"
            assert sum(refusal in line for line in lines) == 2, lines
    finally:
        for racer in racers:
            racer.stdin.close()
            racer.wait()
            racer.stdout.close()


def test_another_recipe_needs_another_name(store):
    store.claim("s", "{}")
    with pytest.raises(UserError) as caught:
        store.claim("s", '{"seed":1}')
    one_line(caught, "another recipe")


def test_release_frees_a_study_and_keeps_its_summary(store, url):
    study = store.claim("s", "{}")
    store.release(study, "finished", summary={"schedule": PAIR.schedule, "value": 0.1})
    row = store.study("s")
    assert (row.state, row.summary["value"]) == ("finished", 0.1)
    assert row.summary["schedule"]["mask_ratios"] == list(PAIR.schedule.mask_ratios)
    assert ask(url, "SELECT owner_host, owner_pid, owner_mark, heartbeat_at FROM studies") == [(None,) * 4]
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
    assert store.delete("s") == Removed(2, 0)
    assert [row.name for row in store.studies()] == ["t"]
    assert [store.result(spec) is not None for spec in (*shared, *own)] == [True, True, False, False]
    assert store.artifacts.path(fingerprint(LAB.features)).exists()
    assert not store.artifacts.path(fingerprint(PAIR.training)).exists()
    assert store.delete("t") == Removed(2, 0)
    assert not store.artifacts.path(fingerprint(LAB.features)).exists()


def requests_of(*specs):
    return [{"phase": "p", "round": 0, "purpose": "x", "fingerprint": fingerprint(spec)} for spec in specs]


def test_delete_removes_what_was_begun(store):
    """A killed study's unfinished training and blocks; what another study has begun as well stays."""
    own, shared = (fingerprint(PAIR.training), fingerprint(EVALUATION_SPEC))
    for study, specs in (("s", (PAIR.training, EVALUATION_SPEC)), ("t", (EVALUATION_SPEC,))):
        ledger = Ledger(store.database, store.claim(study, "{}"))
        for spec in specs:
            task = TrainTask(spec) if spec == PAIR.training else EvaluationTask(spec, 0)
            ledger.batch([task]).started(0, Place("host", 1, "w"))
        ledger.flush()
        store.release(store.study(study).id, "killed")
    state, progress = store.artifacts.state_path(own), store.artifacts.progress_path(own)
    blocks = store.artifacts.partials_path(shared)
    for path in (state, progress, blocks / "0.npy"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert store.delete("s") == Removed(0, 0)
    assert not state.exists()
    assert not progress.exists()
    assert blocks.exists()
    store.delete("t")
    assert not blocks.exists()


def test_delete_leaves_what_a_running_study_may_have_looked_up(store, url, other_process):
    """The other study has found a shared result and not yet written that down."""
    first, second = store.claim("s", "{}"), store.claim("t", "{}")
    store.record(EVALUATION_SPEC, EVALUATION, 1.0)
    store.write_journal(first, 0, requests_of(EVALUATION_SPEC))
    store.release(first, "finished")
    own(url, "t", other_process.pid)
    assert store.delete("s") == Removed(0, 1)
    store.write_journal(second, 0, requests_of(EVALUATION_SPEC))
    with pytest.raises(UserError) as caught:
        store.gc()
    one_line(caught, "'t'", "being run")
    ask(url, "UPDATE studies SET state = 'finished', owner_pid = NULL")
    assert store.gc() == 0
    assert store.delete("t") == Removed(1, 0)


def test_gc_removes_what_no_study_uses(store):
    study = store.claim("s", "{}")
    for spec, result, sha256 in RESULTS:
        store.record(spec, result, 1.0, sha256)
    store.artifacts.path(fingerprint(LAB.features)).write_bytes(b"weights")
    store.write_journal(study, 0, requests_of(EVALUATION_SPEC))
    store.release(study, "finished")
    assert store.gc() == 3
    assert store.result(EVALUATION_SPEC) is not None
    assert not store.artifacts.path(fingerprint(LAB.features)).exists()


def test_many_results_at_once(store):
    specs = [LAB.evaluation(PAIR, 40, seed) for seed in range(1200)]
    for spec in specs[::100]:
        store.record(spec, EVALUATION, 1.0)
    found = store.results([fingerprint(spec) for spec in specs])
    assert found == {fingerprint(spec): (EVALUATION, None) for spec in specs[::100]}


PLAIN = st.characters(codec="utf-8", exclude_characters="\0")  # no database of the two keeps a zero byte


@given(st.text(PLAIN), st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_and_number_comes_back(store, text, number):
    study = store.claim("s", "{}")
    store.release(study, "failed", text, {"number": number, "text": text})
    row = store.study("s")
    assert (row.error, repr(row.summary["number"]), row.summary["text"]) == (text, repr(number), text)


def test_where_the_artifacts_are_is_remembered(store, url, tmp_path):
    with contextlib.closing(Store.open(url, readonly=True)) as reader:
        assert reader.artifacts.address == str(tmp_path / "artifacts")
    Store.open(url, tmp_path / "moved").close()
    with contextlib.closing(Store.open(url)) as again:
        assert again.artifacts.address == str(tmp_path / "moved")


def test_passwords_are_not_shown():
    for url in ("postgresql+psycopg://me:secret@127.0.0.1:1/x", "mysql://me:secret@127.0.0.1:1/x"):
        with pytest.raises(UserError) as caught:
            Store.open(url)
        one_line(caught)
        assert "secret" not in str(caught.value)


# Schema


def test_migrations_lead_to_the_tables(store):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        other = sa.MetaData()
        sa.Table("more", other, sa.Column("id", sa.Integer, primary_key=True))
        assert compare_metadata(context, other)
