"""Every executor gives the same bits."""

import functools
import os
import random
import signal
import time
from dataclasses import asdict

import pytest
from studies_for_tests import Calling, die, die_once, fail_times, is_running, refuse, tiny_recipe

from autonat.errors import UserError
from autonat.execution.executor import InProcessExecutor, ProcessExecutor
from autonat.execution.listener import ATTEMPTS, Listener, TaskFailedError
from autonat.execution.ray_executor import RayExecutor
from autonat.execution.tasks import EvaluationTask, TrainTask
from autonat.memo import Memo
from autonat.search.alternation import start_of
from autonat.specs import PopulationSpec, ProbeSpec, fingerprint
from autonat.storage.artifacts import file_sha256
from autonat.storage.store import Store
from models.probes import Probe
from models.schedule import components


def requests():
    lab, pair = start_of(tiny_recipe())
    evaluation = lab.evaluation(pair, 80, 5)
    random_labels = lab.evaluation(pair, 40, 6, random_labels=True)
    probes = tuple(Probe(family, step, 0.6) for family, step in components(pair.schedule.num_steps)[::3])
    probe = ProbeSpec(pair.training, lab.features, pair.schedule, probes, 7, 60, 20)
    lows = tuple(0.9 * value for value in pair.schedule.values())
    highs = tuple(min(1.0, 1.1 * value + 0.01) for value in pair.schedule.values())
    population = PopulationSpec(pair.training, lab.features, pair.schedule, lows, highs, 8, 60, 20)
    return [lab.features, pair.training, evaluation, random_labels, probe, population]


def outcome(executor, folder):
    """Everything a study could see of an executor: results to the last bit, and checkpoints."""
    store = Store.open(str(folder / "results.db"), folder / "artifacts")
    with executor:
        results = Memo(store, executor).fulfil(requests())
    hashes = [file_sha256(store.artifacts.path(fingerprint(spec))) for spec in requests()[:2]]
    recorded = [store.result(spec) for spec in requests()]
    assert [row[0] for row in recorded] == results
    assert [row[1] for row in recorded[:2]] == hashes
    store.close()
    # repr tells every float64 apart, and -0.0 from 0.0.
    return [(type(result).__name__, repr(asdict(result))) for result in results], hashes


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    found = outcome(InProcessExecutor(str(folder / "artifacts")), folder)
    assert [kind for kind, _ in found[0]] == [
        "Features",
        "Trained",
        "Evaluation",
        "Evaluation",
        "Differences",
        "Changes",
    ]
    return found


class Shuffled(InProcessExecutor):
    """Tasks are done and handed over in a random order."""

    def __init__(self, artifacts, seed):
        super().__init__(artifacts)
        self.random, self.moved = random.Random(seed), 0

    def run(self, tasks, listener=None):
        order = self.random.sample(range(len(tasks)), len(tasks))
        self.moved += order != sorted(order)
        done = [(order[place], result, seconds) for place, result, seconds in super().run([tasks[i] for i in order])]
        yield from self.random.sample(done, len(done))


def test_other_seeds_give_other_results(expected, tmp_path):
    """The comparison of this file sees a difference where there is one."""
    evaluations = [text for kind, text in expected[0] if kind == "Evaluation"]
    assert len(set(evaluations)) == 2
    assert len(set(expected[1])) == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_order_of_blocks_does_not_matter(expected, tmp_path, seed):
    executor = Shuffled(str(tmp_path / "artifacts"), seed)
    assert outcome(executor, tmp_path) == expected
    assert executor.moved


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_local_workers(expected, tmp_path, workers):
    assert outcome(ProcessExecutor(str(tmp_path / "artifacts"), workers), tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ray(expected, tmp_path, workers):
    assert outcome(RayExecutor(str(tmp_path / "artifacts"), workers), tmp_path) == expected


class WorkerKiller(ProcessExecutor):
    """Kills each worker with SIGKILL while it has its first block, or its first training, in hand."""

    def __init__(self, artifacts, num_workers, kinds):
        super().__init__(artifacts, num_workers)
        self.kinds, self.killed = kinds, []

    def _hand(self, worker, index, tasks, listener):
        super()._hand(worker, index, tasks, listener)
        if isinstance(tasks[index], self.kinds) and len(self.killed) < 2:
            os.kill(worker.place.pid, signal.SIGKILL)
            self.killed.append(worker.place.pid)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kind"), [(1, EvaluationTask), (2, TrainTask)])
def test_killed_workers_are_replaced(expected, tmp_path, workers, kind):
    executor = WorkerKiller(str(tmp_path / "artifacts"), workers, kind)
    assert outcome(executor, tmp_path) == expected
    assert len(executor.killed) == 2


class Diary(Listener):
    """Notes what it is told."""

    def __init__(self, stop_after=None):
        self.places, self.errors, self.done, self.stop_after = {}, [], [], stop_after

    def started(self, index, place):
        self.places.setdefault(index, []).append(place)

    def finished(self, index, seconds, peak_memory):
        assert peak_memory > 2**20
        self.done.append(index)

    def failed(self, index, error):
        self.errors.append((index, error))

    def stopping(self):
        return self.stop_after is not None and len(self.done) >= self.stop_after


def bare(kind, folder):
    """An executor whose tasks are functions, which starts at once."""
    if kind == "in process":
        return InProcessExecutor(str(folder), Calling)
    return ProcessExecutor(str(folder), 1 if kind == "one worker" else 2, Calling)


KINDS = pytest.mark.parametrize("kind", ["in process", "one worker", "two workers"])


def test_a_task_that_always_kills_its_worker_ends_the_run(tmp_path):
    diary = Diary()
    with ProcessExecutor(str(tmp_path), 1, Calling) as executor:
        with pytest.raises(TaskFailedError, match="failed 3 times") as caught:
            list(executor.run([die], diary))
        assert executor.places == []
    assert ATTEMPTS == 3
    assert "\n" not in str(caught.value)
    assert diary.errors == [(0, "the worker process died (exit status 1)")] * 3
    pids = {place.pid for place in diary.places[0]}
    assert len(pids) == 3
    assert all(f"process {pid} on" in str(caught.value) for pid in pids)


def test_deaths_of_different_tasks_do_not_add_up(tmp_path):
    tasks = [functools.partial(die_once, str(tmp_path / f"task{number}")) for number in range(ATTEMPTS + 1)]
    with ProcessExecutor(str(tmp_path), 1, Calling) as executor:
        results = sorted(executor.run(tasks))
    assert results == [(number, "survived", 0.0) for number in range(len(tasks))]


@KINDS
def test_a_task_that_fails_is_tried_on_other_workers(kind, tmp_path):
    diary = Diary()
    tasks = [functools.partial(fail_times, str(tmp_path / str(times)), times) for times in (0, 1, 2)]
    with bare(kind, tmp_path) as executor:
        results = {index: result for index, result, _ in executor.run(tasks, diary)}
    assert sorted(results) == sorted(diary.done) == [0, 1, 2]
    for index in range(3):
        names = [place.name for place in diary.places[index]]
        assert len(set(names)) == len(names) == index + 1
        if kind != "in process":
            _, pids = results[index]
            assert pids.split() == [str(place.pid) for place in diary.places[index]]
            assert len(set(pids.split())) == index + 1
    assert [index for index, _ in diary.errors].count(2) == 2
    assert all(error.startswith("RuntimeError: failure ") and "\n" not in error for _, error in diary.errors)


@KINDS
def test_three_failures_end_the_run_and_keep_what_was_finished(kind, tmp_path):
    diary, done = Diary(), []
    tasks = [functools.partial(fail_times, str(tmp_path / str(times)), times) for times in (0, 3)]

    def run(executor):
        for index, _, _ in executor.run(tasks, diary):
            done.append(index)

    with bare(kind, tmp_path) as executor, pytest.raises(TaskFailedError) as caught:
        run(executor)
    assert done == [0]
    assert "RuntimeError: failure 3" in str(caught.value)
    assert "What was finished is kept" in str(caught.value)
    assert len(diary.errors) == 3


@KINDS
def test_what_the_user_must_mend_is_not_tried_again(kind, tmp_path):
    diary = Diary()
    with bare(kind, tmp_path) as executor, pytest.raises(UserError, match=r"^mend this$"):
        list(executor.run([refuse], diary))
    assert diary.errors == [(0, "mend this")]


@KINDS
def test_stopping_ends_after_what_is_in_flight(kind, tmp_path):
    diary = Diary(stop_after=2)
    tasks = [functools.partial(fail_times, str(tmp_path / str(number)), 0) for number in range(6)]
    with bare(kind, tmp_path) as executor:
        done = [index for index, _, _ in executor.run(tasks, diary)]
    assert sorted(done) == sorted(diary.places)
    assert 2 <= len(done) <= 3


def test_leaving_an_executor_stops_its_workers(tmp_path):
    with ProcessExecutor(str(tmp_path), 1, Calling) as executor:
        list(executor.run([functools.partial(tuple, "ab")]))
        (pid,) = (place.pid for place in executor.places)
        assert is_running(pid)
    assert not is_running(pid)


def test_a_run_that_is_left_early_leaves_nothing_in_flight(tmp_path):
    with ProcessExecutor(str(tmp_path), 2, Calling) as executor:
        run = executor.run([os.getpid, functools.partial(time.sleep, 600)])
        first = next(run)
        assert first[0] == 0
        run.close()
        assert len(executor.places) == 1
        assert list(executor.run([functools.partial(tuple, "ab")])) == [(0, ("a", "b"), 0.0)]


def test_a_worker_that_dies_while_idle_costs_no_attempt(tmp_path):
    diary = Diary()
    with ProcessExecutor(str(tmp_path), 1, Calling) as executor:
        list(executor.run([os.getpid]))
        (worker,) = executor._idle
        worker.process.kill()
        worker.process.join(60)  # of all its threads, which a look at its state does not tell
        assert len(list(executor.run([os.getpid], diary))) == 1
    assert diary.errors == []
