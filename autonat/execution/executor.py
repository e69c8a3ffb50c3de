"""The executor protocol and its two local implementations."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from autonat.errors import UserError
from autonat.execution.tasks import Task

# A task whose worker dies this often is not tried again.
ATTEMPTS = 3


class Executor(Protocol):
    """Performs tasks somewhere. A context manager; leaving it stops the workers."""

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any, float]]:
        """(index, result, seconds) of every task, as they finish, in any order."""

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *_: object) -> None: ...


class InProcessExecutor:
    """One task after another in the driver's own process."""

    def __init__(self, artifacts: str) -> None:
        self._artifacts = artifacts
        self._worker: Any = None

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any, float]]:
        if self._worker is None:
            from autonat.execution.worker import Worker

            self._worker = Worker(self._artifacts)
        for index, task in enumerate(tasks):
            yield (index, *self._worker.perform(task))

    def __enter__(self) -> "InProcessExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker = None


_worker: Any = None


def _start_worker(artifacts: str, driver: int) -> None:
    """Runs once in each worker process."""
    global _worker
    import signal

    # Ctrl-C is the driver's to handle; a driver that is killed takes its workers along.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    from autonat.execution.worker import Worker

    _worker = Worker(artifacts)


def _perform(task: Task) -> tuple[Any, float]:
    return _worker.perform(task)


class ProcessExecutor:
    """Worker processes on this machine.

    A worker that dies is replaced and its task tried again, three times at most.
    """

    def __init__(self, artifacts: str, num_workers: int) -> None:
        self._artifacts, self._num_workers = artifacts, num_workers
        self._pool: ProcessPoolExecutor | None = None

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(self._artifacts, os.getpid()),
            )
        return self._pool

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any, float]]:
        remaining = dict(enumerate(tasks))
        deaths = 0
        while remaining:
            futures: dict[Future, int] = {}
            try:
                for index, task in remaining.items():
                    futures[self._started().submit(_perform, task)] = index
                pending = set(futures)
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    # What is finished first: a worker's death fails all others, finished or not yet begun.
                    for future in sorted(done, key=lambda future: future.exception() is not None):
                        result, seconds = future.result()
                        del remaining[futures[future]]
                        deaths = 0
                        yield futures[future], result, seconds
            except BrokenProcessPool as error:
                deaths += 1
                self._stop()
                if deaths >= ATTEMPTS:
                    raise UserError(
                        f"worker processes died {deaths} times in a row (out of memory?); what was finished is kept, "
                        "so the same command goes on from there"
                    ) from error

    def _stop(self) -> None:
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            for process in processes:
                process.join()
            self._pool = None

    def __enter__(self) -> "ProcessExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
