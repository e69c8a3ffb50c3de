"""Every executor gives the same bits."""

import functools
import operator
import os
import random
import signal
from dataclasses import asdict

import pytest
from studies_for_tests import die, die_once, tiny_recipe

from autonat.config import Descent
from autonat.errors import UserError
from autonat.execution import executor as executor_module
from autonat.execution.executor import ATTEMPTS, InProcessExecutor, ProcessExecutor
from autonat.execution.ray_executor import RayExecutor
from autonat.execution.tasks import EvaluationTask
from autonat.memo import Memo
from autonat.search.alternation import start_of
from autonat.search.descent import central_probes
from autonat.specs import ProbeSpec, fingerprint
from autonat.storage.artifacts import file_sha256
from autonat.storage.store import Store


def requests():
    lab, pair = start_of(tiny_recipe())
    evaluation = lab.evaluation(pair, 80, 5)
    random_labels = lab.evaluation(pair, 40, 6, random_labels=True)
    probe = ProbeSpec(
        pair.training, lab.features, pair.schedule, tuple(central_probes(pair.schedule, Descent())[::3]), 7, 60, 20
    )
    return [lab.features, pair.training, evaluation, random_labels, probe]


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
    assert [kind for kind, _ in found[0]] == ["Features", "Trained", "Evaluation", "Evaluation", "Differences"]
    return found


class Shuffled(InProcessExecutor):
    """Tasks are done and handed over in a random order."""

    def __init__(self, artifacts, seed):
        super().__init__(artifacts)
        self.random, self.moved = random.Random(seed), 0

    def run(self, tasks):
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
    """Kills a worker with SIGKILL after the first evaluated block."""

    killed: int | None = None

    def run(self, tasks):
        for item in super().run(tasks):
            if self.killed is None and isinstance(tasks[item[0]], EvaluationTask):
                (self.killed,) = self._pool._processes
                os.kill(self.killed, signal.SIGKILL)
            yield item
        if tasks and isinstance(tasks[0], EvaluationTask):
            assert self.killed not in self._pool._processes


@pytest.mark.slow
def test_killed_worker_is_replaced(expected, tmp_path):
    executor = WorkerKiller(str(tmp_path / "artifacts"), 1)
    assert outcome(executor, tmp_path) == expected
    assert executor.killed is not None


@pytest.fixture
def bare_workers(monkeypatch):
    """Worker processes that start at once and call what they are given."""
    monkeypatch.setattr(executor_module, "_start_worker", operator.is_)
    monkeypatch.setattr(executor_module, "_perform", operator.call)


def test_a_task_that_always_kills_its_worker_ends_the_run(bare_workers, tmp_path):
    with ProcessExecutor(str(tmp_path), 1) as executor, pytest.raises(UserError, match="died 3 times") as caught:
        list(executor.run([die]))
    assert ATTEMPTS == 3
    assert "\n" not in str(caught.value)


def test_deaths_with_progress_between_them_do_not_add_up(bare_workers, tmp_path):
    tasks = [functools.partial(die_once, str(tmp_path / f"task{number}")) for number in range(ATTEMPTS + 1)]
    with ProcessExecutor(str(tmp_path), 1) as executor:
        results = sorted(executor.run(tasks))
    assert results == [(number, "survived", 0.0) for number in range(len(tasks))]


def test_leaving_an_executor_stops_its_workers(bare_workers, tmp_path):
    with ProcessExecutor(str(tmp_path), 1) as executor:
        list(executor.run([functools.partial(tuple, "ab")]))
        (pid,) = executor._pool._processes
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_exception_in_a_worker_reaches_the_driver(bare_workers, tmp_path):
    with ProcessExecutor(str(tmp_path), 1) as executor, pytest.raises(ValueError, match="invalid literal"):
        list(executor.run([functools.partial(int, "x")]))
