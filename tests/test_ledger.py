"""The task ledger: every task's life, in rows that add up, and nothing that stays running."""

import contextlib
import functools
import subprocess
import sys
import threading

import pytest
from databases import ask, own
from hypothesis import given
from hypothesis import strategies as st
from studies_for_tests import Idle, tiny_recipe, wait_for

import autonat.execution.task_ledger
from autonat.errors import StudyStopped, UserError
from autonat.execution.executor import InProcessExecutor
from autonat.execution.listener import Place, TaskFailedError
from autonat.execution.task_ledger import Ledger, as_ranges
from autonat.execution.tasks import EvaluationTask, ProbeTask, ReferenceTask, TrainTask, images_of
from autonat.memo import Memo
from autonat.search.alternation import start_of
from autonat.specs import Evaluation, ProbeSpec, Trained, fingerprint
from autonat.storage.store import Store
from autonat.storage.task_rows import rows_of, summarize, write
from models.probes import Probe

LAB, PAIR = start_of(tiny_recipe())
SPECS = [LAB.evaluation(PAIR, 100, seed) for seed in range(3)]
PROBE_SPEC = ProbeSpec(PAIR.training, LAB.features, PAIR.schedule, (Probe("guidance_scales", 0, 0.5),), 1, 60, 20)
TASKS = [EvaluationTask(spec, block) for spec in SPECS for block in range(5)]


@pytest.fixture
def store(database_url, tmp_path):
    store = Store.open(database_url, tmp_path / "artifacts")
    yield store
    store.close()


def in_memory():
    """A ledger that only collects its rows."""
    ledger = Ledger(None, 1)
    rows: dict[int, dict] = {}

    def flush():
        with ledger.unwritten() as unwritten:
            rows.update({row["id"]: row for row in unwritten})

    ledger.flush = flush
    return ledger, rows


def numbers_of(text):
    """The blocks of a row."""
    parts = [part.split("-") for part in text.split(",")]
    return [number for part in parts for number in range(int(part[0]), int(part[-1]) + 1)]


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_say_which_numbers(numbers):
    assert numbers_of(as_ranges(numbers)) == sorted(numbers)


def test_images_of_the_tasks_add_up_to_the_specs():
    evaluation = sum(images_of(EvaluationTask(SPECS[0], block)) for block in range(5))
    bases = sum(images_of(EvaluationTask(PROBE_SPEC, block, dithered=True)) for block in range(3))
    probes = sum(images_of(ProbeTask(PROBE_SPEC, block, None)) for block in range(3))
    assert (evaluation, bases + probes) == (SPECS[0].images, PROBE_SPEC.images)
    assert images_of(TrainTask(PAIR.training)) == images_of(ReferenceTask(LAB.features)) == 0


@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_course_of_events_adds_up(chance, num_workers):
    """Workers take, finish and fail tasks in any order; every block is done once, and every failure has its row."""
    ledger, rows = in_memory()
    batch = ledger.batch(TASKS)
    places = [Place("host", number, f"w{number}") for number in range(num_workers)]
    waiting, busy, failures, serial = list(range(len(TASKS))), {}, [], num_workers
    while waiting or busy:
        if waiting and len(busy) < num_workers and chance.random() < 0.6:
            index = waiting.pop(chance.randrange(len(waiting)))
            place = next(place for place in places if place not in busy.values())
            busy[index] = place
            batch.started(index, place)
        elif busy:
            index = chance.choice(sorted(busy))
            place = busy.pop(index)
            if chance.random() < 0.2 and len(failures) < 10:
                batch.failed(index, f"error {len(failures)}")
                failures.append(index)
                waiting.append(index)
                places[places.index(place)] = Place("host", serial, f"w{serial}")
                serial += 1
            else:
                batch.finished(index, 0.5, 10)
        if chance.random() < 0.3:
            ledger.flush()
            running = sum(row["state"] == "running" for row in rows.values())
            assert running <= len(busy) <= num_workers
    ledger.flush()
    done = [row for row in rows.values() if row["state"] == "done"]
    failed = [row for row in rows.values() if row["state"] == "failed"]
    assert len(done) + len(failed) == len(rows)
    assert sum(row["images"] for row in done) == sum(spec.images for spec in SPECS)
    assert sum(row["seconds"] for row in done) == 0.5 * len(TASKS)
    for spec in SPECS:
        blocks = [n for row in done if row["fingerprint"] == fingerprint(spec) for n in numbers_of(row["blocks"])]
        assert sorted(blocks) == list(range(spec.num_blocks))
    assert sorted((row["fingerprint"], numbers_of(row["blocks"])) for row in failed) == sorted(
        (fingerprint(TASKS[index].spec), [TASKS[index].block]) for index in failures
    )
    assert sorted(row["error"] for row in failed) == sorted(f"error {number}" for number in range(len(failures)))
    assert all(row["finished_at"] >= row["started_at"] >= row["submitted_at"] for row in rows.values())


def test_rows_are_few(store):
    """A row a worker and spec, not a row a block."""
    study = store.claim("s", "{}")
    ledger = Ledger(store.database, study)
    batch = ledger.batch(TASKS)
    for index in range(len(TASKS)):
        batch.started(index, Place("host", 1 + index % 2, f"w{index % 2}"))
        batch.finished(index, 1.0, 2**20 * index)
    ledger.flush()
    rows = rows_of(store.database, study)
    assert len(rows) == 6
    assert {row.blocks for row in rows} == {"0,2,4", "1,3"}
    (summary,) = summarize(store.database, study)
    assert (summary.kind, summary.done, summary.images, summary.seconds) == ("evaluation", 6, 300, 15.0)
    assert summary.peak_memory == 14 * 2**20
    assert [row.id for row in rows_of(store.database, study, 2)] == [row.id for row in rows[-2:]]


def test_a_training_is_seen_while_it_runs(store):
    study = store.claim("s", "{}")
    ledger = Ledger(store.database, study)
    ledger.batch([TrainTask(PAIR.training)]).started(0, Place("host", 1, "w"))
    assert [(row.state, row.kind, row.finished_at) for row in rows_of(store.database, study)] == [
        ("running", "training", None)
    ]


def test_an_older_row_never_comes_after_a_newer_one(store, monkeypatch):
    """The heartbeat has taken rows and waits for the database while the driver records a result with newer ones."""
    study = store.claim("s", "{}")
    ledger = Ledger(store.database, study)
    batch = ledger.batch([EvaluationTask(SPECS[0], 0)])
    batch.started(0, Place("host", 1, "w"))
    waiting, go = threading.Event(), threading.Event()

    def slowly(database, rows):
        waiting.set()
        assert go.wait(10)
        write(database, rows)

    monkeypatch.setattr(autonat.execution.task_ledger, "write", slowly)
    heart = threading.Thread(target=ledger.flush)
    heart.start()
    assert waiting.wait(10)
    batch.finished(0, 1.0, None)

    def record():
        with ledger.unwritten() as rows:
            store.record(SPECS[0], Evaluation(1.0, 0.1, 100, "FD", 1, (1.0,)), 1.0, None, rows)

    driver = threading.Thread(target=record)
    driver.start()
    driver.join(0.2)
    go.set()
    heart.join(10)
    driver.join(10)
    assert [row.state for row in rows_of(store.database, study)] == ["done"]


def test_rows_that_were_not_written_are_written_later(store, monkeypatch):
    study = store.claim("s", "{}")
    ledger = Ledger(store.database, study)
    batch = ledger.batch([EvaluationTask(SPECS[0], block) for block in range(2)])
    for block in range(2):
        batch.started(block, Place("host", 1, f"w{block}"))

    def away(database, rows):
        raise UserError("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(autonat.execution.task_ledger, "write", away)
        with pytest.raises(UserError):
            ledger.flush()
    batch.finished(0, 1.0, None)
    ledger.flush()
    assert sorted(row.state for row in rows_of(store.database, study)) == ["done", "running"]


def test_rows_come_with_the_result(store):
    study = store.claim("s", "{}")
    ledger = Ledger(store.database, study)
    batch = ledger.batch([EvaluationTask(SPECS[0], 0)])
    batch.started(0, Place("host", 1, "w"))
    batch.finished(0, 1.0, None)
    assert rows_of(store.database, study) == []
    evaluation = Evaluation(1.0, 0.1, 100, "FD", 1, (1.0,))
    with ledger.unwritten() as rows:
        store.record(SPECS[0], evaluation, 1.0, None, rows)
    assert [row.state for row in rows_of(store.database, study)] == ["done"]
    ledger.flush()
    assert len(rows_of(store.database, study)) == 1


class FailsOnce(Idle):
    """Fails at the first training that any of these workers is given; trains nothing else either."""

    failed = False

    def perform(self, task):
        if isinstance(task, TrainTask) and not FailsOnce.failed:
            FailsOnce.failed = True
            raise RuntimeError("out of\nmemory")
        return (Trained(1.0), None), 0.25


class Fails(Idle):
    def perform(self, task):
        raise RuntimeError("broken")


def memo_for(store, worker, stopping=lambda: False):
    study = store.claim("s", "{}")
    memo = Memo(store, InProcessExecutor(str(store.artifacts.folder), worker))
    memo.begin(study, stopping)
    return memo, study


def test_a_failure_and_its_second_attempt_are_both_written_down(store, monkeypatch):
    monkeypatch.setattr(FailsOnce, "failed", False)
    memo, study = memo_for(store, FailsOnce)
    assert memo.fulfil([PAIR.training]) == [Trained(1.0)]
    rows = rows_of(store.database, study)
    assert [(row.state, row.attempt, row.worker) for row in rows] == [
        ("failed", 1, "driver-1"),
        ("done", 2, "driver-2"),
    ]
    assert rows[0].error.startswith("RuntimeError: out of memory")
    assert rows[1].error is None


def test_what_ends_a_study_is_written_down(store):
    memo, study = memo_for(store, Fails)
    with pytest.raises(TaskFailedError, match="broken"):
        memo.fulfil([PAIR.training])
    store.release(study, "failed", "broken")
    assert [(row.state, row.attempt) for row in rows_of(store.database, study)] == [("failed", n) for n in (1, 2, 3)]


def test_stopping_begins_nothing_more(store):
    stop = []

    class StopsLater(Idle):
        def perform(self, task):
            stop.append(task)
            return (Trained(1.0), None), 0.25

    memo, study = memo_for(store, StopsLater, stopping=lambda: bool(stop))
    other = tiny_recipe(seed=1)
    specs = [PAIR.training, start_of(other)[1].training]
    with pytest.raises(StudyStopped):
        memo.fulfil(specs)
    assert store.result(specs[0]) is not None
    assert store.result(specs[1]) is None
    assert [row.state for row in rows_of(store.database, study)] == ["done"]


def test_an_interruption_leaves_nothing_running(store):
    study = store.claim("s", "{}")
    ledger = Ledger(store.database, study)
    ledger.batch([TrainTask(PAIR.training)]).started(0, Place("host", 1, "w"))
    store.release(study, "interrupted")
    assert [row.state for row in rows_of(store.database, study)] == ["lost"]


DRIVER = """
import sys, time
from autonat.execution.listener import Place
from autonat.execution.task_ledger import Ledger
from autonat.execution.tasks import TrainTask
from autonat.storage.store import Store
from test_ledger import PAIR
store = Store.open(sys.argv[1])
study = store.claim("s", "{}")
Ledger(store.database, study).batch([TrainTask(PAIR.training)]).started(0, Place.here("w"))
print("started", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_tasks_of_a_killed_driver_are_lost(store, database_url, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", __file__.rsplit("/", 1)[0])
    process = subprocess.Popen([sys.executable, "-c", DRIVER, database_url], stdout=subprocess.PIPE, text=True)
    states = functools.partial(ask, database_url, "SELECT state FROM tasks")
    try:
        assert process.stdout.readline() == "started\n"
        study = store.study("s")
        assert [row.state for row in rows_of(store.database, study.id)] == ["running"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    wait_for(lambda: store.study("s").state == "killed", "the driver's death")
    # A reader sees it at once; the next driver writes it down.
    assert [row.state for row in rows_of(store.database, study.id)] == ["lost"]
    assert summarize(store.database, study.id)[0].lost == 1
    assert states() == [("running",)]
    store.claim("s", "{}")
    assert states() == [("lost",)]
    assert ask(database_url, "SELECT finished_at IS NULL FROM tasks") == [(False,)]


@pytest.mark.parametrize(("age", "state"), [(0.0, "running"), (3600.0, "lost")])
def test_tasks_of_a_driver_elsewhere_live_by_its_heartbeat(store, database_url, age, state):
    study = store.claim("s", "{}")
    ledger = Ledger(store.database, study)
    ledger.batch([TrainTask(PAIR.training)]).started(0, Place("host", 1, "w"))
    own(database_url, "s", 7, host="elsewhere", mark="9@there", age=age)
    ask(database_url, "UPDATE tasks SET driver = 'elsewhere 7 9@there'")
    assert [row.state for row in rows_of(store.database, study)] == [state]
    if state == "running":
        with pytest.raises(UserError, match="elsewhere"):
            store.claim("s", "{}")
    else:
        store.claim("s", "{}")
    assert ask(database_url, "SELECT state FROM tasks") == [(state,)]


def test_what_a_study_had_computed_goes_with_it(store):
    """`autonat evaluate` asks on a study's behalf without its journal."""
    study = store.claim("s", "{}")
    ledger = Ledger(store.database, study)
    batch = ledger.batch([EvaluationTask(SPECS[0], 0)])
    batch.started(0, Place("host", 1, "w"))
    batch.finished(0, 1.0, None)
    with ledger.unwritten() as rows:
        store.record(SPECS[0], Evaluation(1.0, 0.1, 100, "FD", 1, (1.0,)), 1.0, None, rows)
    store.release(study, "finished")
    assert [name for name, _, _ in store.recorded_specs(study)] == [fingerprint(SPECS[0])]
    assert store.gc() == 0
    assert store.delete("s").results == 1
    with contextlib.closing(store):
        assert store.result(SPECS[0]) is None
