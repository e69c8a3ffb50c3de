"""How a study ends: what is recorded of it, and what its caller gets."""

import contextlib
import signal
import subprocess
import sys
import time
from os import getppid

import pytest
from studies_for_tests import own_by, query, tiny_recipe, wait_for, write_recipe

from autonat.errors import UserError
from autonat.execution.simulated import SimulatedLandscape
from autonat.execution.tasks import EvaluationTask
from autonat.memo import Memo
from autonat.orchestrator import run_study
from autonat.progress import ProgressReporter, _Ticker
from autonat.search.alternation import start_of
from autonat.storage.store import Store

RECIPE = tiny_recipe()
ENDING = "SELECT state, error, owner_host, owner_pid, owner_mark FROM studies"


class Landscape(SimulatedLandscape):
    """Something happens at the second batch of requests."""

    def __init__(self, store, happens):
        super().__init__(RECIPE.schedule.build())
        self.store, self.happens, self.batches = store, happens, 0

    def begin(self, study_id, stopping):
        self.stopping = stopping

    def fulfil(self, requests):
        self.batches += 1
        if self.batches == 2:
            self.happens()
        results = super().fulfil(requests)
        for spec, result in zip(requests, results, strict=True):
            self.store.record(spec, result, 0.0)  # the journal refers to it
        return results


@pytest.fixture
def store(tmp_path):
    store = Store.open(str(tmp_path / "study.db"))
    yield store
    store.close()


@pytest.fixture
def handlers():
    """Signals do nothing outside of studies, which leave it so."""

    def nothing(*_):
        pass

    before = {number: signal.signal(number, nothing) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    after = [signal.signal(number, handler) for number, handler in before.items()]
    assert after == [nothing, nothing]


def test_an_error_is_recorded_in_one_line(store, tmp_path):
    class Broken:
        def run(self, tasks, listener):
            raise RuntimeError("a\nb")

    with pytest.raises(RuntimeError, match="a\nb"):
        run_study(RECIPE, store, Memo(store, Broken()))
    assert query(tmp_path / "study.db", ENDING) == [("failed", "a b", None, None, None)]


def test_a_study_that_another_driver_took_over_is_left_alone(store, tmp_path):
    rows = []

    def taken_over():
        own_by(tmp_path / "study.db", "tiny", getppid())
        rows.extend(query(tmp_path / "study.db", "SELECT * FROM studies"))
        with pytest.raises(UserError):  # which the next event raises again
            wait_for(landscape.stopping, "the heartbeat")

    landscape = Landscape(store, taken_over)
    with pytest.raises(UserError, match="another driver took the study over"):
        run_study(RECIPE, store, landscape)
    assert landscape.batches == 2
    assert len(rows) == 1
    assert query(tmp_path / "study.db", "SELECT * FROM studies") == rows


ENDS = [(signal.SIGINT, KeyboardInterrupt, ()), (signal.SIGTERM, SystemExit, (143,))]


@pytest.mark.parametrize("then", ["it passes on", "it is swallowed", "something else is raised"])
@pytest.mark.parametrize(("number", "kind", "arguments"), ENDS)
def test_a_signal_interrupts_a_study_whatever_becomes_of_it(handlers, store, tmp_path, number, kind, arguments, then):
    """SQLAlchemy's clean-up asserts what does not hold after an interruption in its midst."""

    def happens():
        with contextlib.suppress(KeyboardInterrupt) if then == "it is swallowed" else contextlib.nullcontext():
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                assert then != "something else is raised"
                raise

    landscape = Landscape(store, happens)
    with pytest.raises(kind) as caught:
        run_study(RECIPE, store, landscape)
    assert caught.value.args == arguments
    assert landscape.batches == 2
    assert query(tmp_path / "study.db", ENDING) == [("interrupted", None, None, None, None)]


def test_a_study_whose_reader_is_gone_is_interrupted(tmp_path):
    command = f"{sys.executable} -m autonat run {write_recipe(tmp_path)} --db {tmp_path / 'study.db'} --workers 0"
    done = subprocess.run(
        ["/bin/bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (1, "", 1)
    assert query(tmp_path / "study.db", ENDING) == [("interrupted", None, None, None, None)]


def test_a_reader_who_leaves_during_a_long_batch_interrupts_it_too(monkeypatch):
    """It is another thread that says how far the batch is."""

    class Silent:
        is_terminal = False

        def print(self, *_, **__):
            raise SystemExit(1)  # as rich does

    monkeypatch.setattr("autonat.progress.SPEAK_SECONDS", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored in the background
    laboratory, pair = start_of(RECIPE)
    tasks = [EvaluationTask(laboratory.evaluation(pair, 40, 1), 0)]
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), _Ticker(ProgressReporter(Silent(), None), tasks):
        time.sleep(60)
    signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 30
