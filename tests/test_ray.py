"""The Ray executor on imitated nodes: the same bits, and nothing lost but what was in flight."""

import functools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray_clusters import Nodes, kill
from studies_for_tests import Calling, die, die_once, fail_times, is_running, refuse, tiny_recipe, wait_for
from test_executors import Diary, outcome

from autonat.errors import UserError
from autonat.execution.executor import InProcessExecutor
from autonat.execution.listener import TaskFailedError
from autonat.execution.ray_cluster import RaySettings
from autonat.execution.ray_executor import RayExecutor
from autonat.execution.tasks import TrainTask
from autonat.search.alternation import start_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes():
    cluster = Nodes(2)
    yield cluster
    cluster.close()


def bare(nodes, folder, num_workers=None):
    """An executor on the imitated nodes whose tasks are functions."""
    return RayExecutor(str(folder), num_workers, RaySettings(nodes.address), Calling)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    return outcome(InProcessExecutor(str(folder / "artifacts")), folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bits_on_a_cluster(expected, nodes, tmp_path, workers):
    executor = RayExecutor(str(tmp_path / "artifacts"), workers, RaySettings(nodes.address))
    assert outcome(executor, tmp_path) == expected


def test_same_bits_where_no_folder_is_shared(expected, nodes, tmp_path, monkeypatch):
    """The driver's folder has a name that means nothing in another process, so weights have to travel."""
    (tmp_path / "here").mkdir()
    handle = os.open(tmp_path / "here", os.O_RDONLY)
    private = Path(f"/proc/self/fd/{handle}")
    monkeypatch.setenv("AUTONAT_CACHE", str(tmp_path / "driver-cache"))
    executor = RayExecutor(str(private), 2, RaySettings(nodes.address))
    monkeypatch.setattr(Path, "resolve", lambda self, strict=False: self)  # or it would find the name others know
    try:
        assert outcome_in(executor, tmp_path) == expected
    finally:
        os.close(handle)


def outcome_in(executor, folder):
    from dataclasses import asdict

    from test_executors import requests

    from autonat.memo import Memo
    from autonat.specs import fingerprint
    from autonat.storage.artifacts import file_sha256
    from autonat.storage.store import Store

    store = Store.open(str(folder / "results.db"), folder / "here")
    with executor:
        results = Memo(store, executor).fulfil(requests())
        arrived = [seat for seat in executor._seats if seat.has_arrived]
        assert arrived
        assert not any(seat.shares_folder for seat in arrived)
    hashes = [file_sha256(store.artifacts.path(fingerprint(spec))) for spec in requests()[:2]]
    store.close()
    return [(type(result).__name__, repr(asdict(result))) for result in results], hashes


def test_a_task_that_fails_is_tried_on_other_workers(nodes, tmp_path):
    diary = Diary()
    tasks = [functools.partial(fail_times, str(tmp_path / str(times)), times) for times in (0, 1, 2)]
    with bare(nodes, tmp_path) as executor:
        results = {index: result for index, result, _ in executor.run(tasks, diary)}
    assert sorted(results) == sorted(diary.done) == [0, 1, 2]
    for index in range(3):
        names = [place.name for place in diary.places[index]]
        assert len(set(names)) == len(names) == index + 1
        assert results[index][1].split() == [str(place.pid) for place in diary.places[index]]
    assert sorted(index for index, _ in diary.errors) == [1, 2, 2]
    assert all(error.startswith("RuntimeError: failure ") and "\n" not in error for _, error in diary.errors)


def test_workers_that_die_cost_their_own_tasks_alone(nodes, tmp_path):
    diary = Diary()
    tasks = [functools.partial(die_once, str(tmp_path / f"task{number}")) for number in range(3)]
    tasks += [functools.partial(str, number) for number in range(30)]
    with bare(nodes, tmp_path) as executor:
        results = {index: result for index, result, _ in executor.run(tasks, diary)}
    assert results == dict(enumerate(["survived"] * 3 + [str(number) for number in range(30)]))
    assert sorted(index for index, _ in diary.errors) == [0, 1, 2]
    assert all("died" in error and "\n" not in error for _, error in diary.errors)


def test_three_deaths_end_the_run_and_keep_what_was_finished(nodes, tmp_path):
    diary, done = Diary(), []

    def run(executor):
        for index, _, _ in executor.run([os.getpid, die], diary):
            done.append(index)

    with bare(nodes, tmp_path, 1) as executor, pytest.raises(TaskFailedError, match="failed 3 times") as caught:
        run(executor)
    assert done == [0]
    assert "\n" not in str(caught.value)
    assert len({place.pid for place in diary.places[1]}) == 3


def test_what_the_user_must_mend_is_not_tried_again(nodes, tmp_path):
    diary = Diary()
    with bare(nodes, tmp_path) as executor, pytest.raises(UserError, match=r"^mend this$"):
        list(executor.run([refuse], diary))
    assert diary.errors == [(0, "mend this")]


def test_stopping_ends_after_what_is_in_flight(nodes, tmp_path):
    diary = Diary(stop_after=2)
    tasks = [functools.partial(time.sleep, 0.2) for _ in range(12)]
    with bare(nodes, tmp_path) as executor:
        done = [index for index, _, _ in executor.run(tasks, diary)]
    assert sorted(done) == sorted(diary.places)
    assert 2 <= len(done) <= 6


def test_a_run_that_is_left_early_leaves_nothing_in_flight(nodes, tmp_path):
    with bare(nodes, tmp_path) as executor:
        run = executor.run([os.getpid, functools.partial(time.sleep, 600)])
        assert next(run)[0] == 0
        run.close()
        assert list(executor.run([functools.partial(tuple, "ab")])) == [(0, ("a", "b"), 0.0)]


def test_a_worker_that_dies_while_idle_costs_no_attempt(nodes, tmp_path):
    diary = Diary()
    with bare(nodes, tmp_path, 1) as executor:
        ((_, pid, _),) = executor.run([os.getpid])
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_running(pid), "the worker's death")
        assert len(list(executor.run([os.getpid], diary))) == 1
    assert diary.errors == []


class Watch(Diary):
    """Counts what is in flight, as far as the executor tells."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def started(self, index, place):
        super().started(index, place)
        self.now += 1
        self.most = max(self.most, self.now)

    def finished(self, index, seconds, peak_memory):
        super().finished(index, seconds, peak_memory)
        self.now -= 1


def test_a_slow_worker_does_not_hold_the_others_up(nodes, tmp_path):
    watch = Watch()
    tasks = [functools.partial(time.sleep, 3.0), *[functools.partial(time.sleep, 0.05) for _ in range(30)]]
    with bare(nodes, tmp_path) as executor:
        list(executor.run([os.getpid, os.getpid]))
        order = [index for index, _, _ in executor.run(tasks, watch)]
    assert order[-1] == 0
    assert len(workers_of(watch)) == 2
    assert watch.most == 2


def workers_of(diary):
    return {place.pid for places in diary.places.values() for place in places}


def test_nodes_that_join_are_used_and_nodes_that_leave_cost_their_tasks_alone(tmp_path):
    nodes = Nodes(1)
    diary = Diary()
    try:
        with bare(nodes, tmp_path) as executor:
            run = executor.run([functools.partial(time.sleep, 0.5) for _ in range(40)], diary)
            done = [next(run)[0]]
            assert len(executor.places) == 1
            nodes.nodes.append(nodes.add())
            for index, _, _ in run:
                done.append(index)
                if len(workers_of(diary)) == 2:
                    nodes.kill(0)
                    break
            assert len(workers_of(diary)) == 2
            done += [index for index, _, _ in run]
    finally:
        nodes.close()
    assert sorted(done) == list(range(40))
    assert len(diary.errors) == 1
    assert "died" in diary.errors[0][1]


@dataclass(frozen=True)
class Constant:
    """Stands in for the derivative that all probe tasks of a measurement share."""

    influence: Any
    number: int


class Holder:
    """Says which object a task's constant is."""

    def __init__(self, artifacts):
        pass

    def perform(self, task):
        return (task.number, id(task.influence), len(task.influence)), 0.0


def test_a_large_constant_is_read_once_by_a_worker(nodes, tmp_path, monkeypatch):
    import ray

    puts = []
    monkeypatch.setattr(ray, "put", lambda value, put=ray.put: puts.append(len(value)) or put(value))
    monkeypatch.setattr("autonat.execution.ray_executor.ProbeTask", Constant)
    constant = bytes(5_000_000)
    with RayExecutor(str(tmp_path), 1, RaySettings(nodes.address), Holder) as executor:
        results = [result for _, result, _ in executor.run([Constant(constant, number) for number in range(20)])]
    assert puts == [5_000_000]
    assert [number for number, _, _ in results] == list(range(20))
    assert {(place, size) for _, place, size in results} == {(results[0][1], 5_000_000)}


class DiesWhenDone:
    """A training's process dies once the driver has its answer, before Ray Tune hears that the trial is done."""

    def __init__(self, artifacts):
        self.log = Path(artifacts) / "trainings"

    def perform(self, task):
        from ray import tune

        with self.log.open("a") as handle:
            handle.write("trained\n")
        tune.report = lambda metrics: os._exit(1)
        return "trained", 0.0


def test_a_training_whose_process_dies_after_its_answer_is_not_repeated(nodes, tmp_path):
    diary = Diary()
    task = TrainTask(start_of(tiny_recipe())[1].training)
    with RayExecutor(str(tmp_path), 1, RaySettings(nodes.address), DiesWhenDone) as executor:
        assert list(executor.run([task], diary)) == [(0, "trained", 0.0)]
    assert (tmp_path / "trainings").read_text() == "trained\n"
    assert diary.errors == []


def test_a_cluster_without_room_is_one_line(nodes, tmp_path):
    executor = RayExecutor(str(tmp_path), 1, RaySettings(nodes.address, gpus_per_worker=0.5))
    with executor, pytest.raises(UserError, match=r"no node with a CPU and 0\.5 GPU"):
        list(executor.run([os.getpid]))


def test_the_terminal_stays_quiet(nodes, tmp_path):
    """Workers that print, fail and die leave nothing on the driver's terminal."""
    code = f"""
import functools, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from studies_for_tests import Calling, die_once, fail_times
from autonat.execution.ray_cluster import RaySettings
from autonat.execution.ray_executor import RayExecutor
tasks = [functools.partial(die_once, {str(tmp_path / "a")!r}), functools.partial(print, "chatter"),
         functools.partial(fail_times, {str(tmp_path / "b")!r}, 1)]
with RayExecutor({str(tmp_path)!r}, 2, RaySettings({nodes.address!r}), Calling) as executor:
    print(len(list(executor.run(tasks))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_killing_a_driver_ends_its_workers(nodes, tmp_path):
    code = f"""
import functools, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from studies_for_tests import Calling
from autonat.execution.ray_cluster import RaySettings
from autonat.execution.ray_executor import RayExecutor
with RayExecutor({str(tmp_path)!r}, 2, RaySettings({nodes.address!r}), Calling) as executor:
    list(executor.run([functools.partial(time.sleep, 600)] * 2))
"""
    driver = subprocess.Popen([sys.executable, "-c", code])
    try:
        pids = wait_for(lambda: len(nodes.workers("perform")) == 2 and nodes.workers("perform"), "two tasks")
    finally:
        kill(driver.pid)
        driver.wait()
    wait_for(lambda: not any(map(is_running, pids)), "the workers to go")
