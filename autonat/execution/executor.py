"""The executor protocol and its two local implementations."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol

from autonat.errors import UserError
from autonat.execution.listener import SILENT, Attempts, Listener, Place
from autonat.execution.memory import peak_bytes, reset_peak

if TYPE_CHECKING:  # tasks import torch, which a worker process does when it is ready to
    from autonat.execution.tasks import Task

Done = tuple[int, Any, float]


class Executor(Protocol):
    """Performs tasks somewhere. A context manager; leaving it stops the workers."""

    def run(self, tasks: Sequence["Task"], listener: Listener = SILENT) -> Iterator[Done]:
        """(index, result, seconds) of every task, as they finish, in any order; `listener` hears of each one's life.

        A task that fails is tried again on another worker, ``ATTEMPTS`` times in all: then TaskFailedError. A UserError
        of a task is passed on at once. Where the listener is stopping, ends after the tasks in flight.
        """

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *_: object) -> None: ...


def new_worker(artifacts: str) -> Any:
    """What performs tasks; torch is imported with it."""
    from autonat.execution.worker import Worker

    return Worker(artifacts)


def measured(worker: Any, task: "Task") -> tuple[Any, float, int]:
    """(result, seconds, peak memory in bytes) of one task."""
    reset_peak()
    result, seconds = worker.perform(task)
    return result, seconds, peak_bytes()


def one_line(error: BaseException) -> str:
    """An unexpected error and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


class InProcessExecutor:
    """One task after another in the driver's own process. A task that failed is tried again by a new worker object."""

    def __init__(self, artifacts: str, make_worker: Callable[[str], Any] = new_worker) -> None:
        self._artifacts, self._make_worker = artifacts, make_worker
        self._worker: Any = None
        self._count = 0

    def _begin(self) -> None:
        if self._worker is None:
            self._count += 1
            self._worker = self._make_worker(self._artifacts)

    def run(self, tasks: Sequence["Task"], listener: Listener = SILENT) -> Iterator[Done]:
        attempts = Attempts(listener)
        for index, task in enumerate(tasks):
            while not listener.stopping():
                self._begin()
                place = Place.here(f"driver-{self._count}")
                listener.started(index, place)
                try:
                    result, seconds, peak = measured(self._worker, task)
                except Exception as error:
                    self._worker = None
                    if isinstance(error, UserError):
                        listener.failed(index, str(error))
                        raise
                    attempts.failed(index, task, place, one_line(error))
                    continue
                listener.finished(index, seconds, peak)
                yield index, result, seconds
                break

    def __enter__(self) -> "InProcessExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker = None


def _serve(connection: Connection, make_worker: Callable[[str], Any], artifacts: str, driver: int) -> None:
    """A worker process: receives tasks and sends (result, seconds, peak memory), or the exception and its text."""
    # Ctrl-C is the driver's to handle; a driver that is killed takes its workers along.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    worker = None
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionError):  # the driver is gone
            return
        answer: tuple[bool, Any]
        try:
            worker = worker or make_worker(artifacts)
            answer = True, measured(worker, task)
        except UserError as error:
            answer = False, error
        except Exception as error:
            answer = False, one_line(error)
        try:
            connection.send(answer)
        except ConnectionError:
            return


def _end_of(status: int | None) -> str:
    if status == -signal.SIGKILL:
        return "killed; out of memory?"
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"


class _Process:
    """A worker process as the driver sees it."""

    def __init__(self, name: str, make_worker: Callable[[str], Any], artifacts: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, make_worker, artifacts, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, name=name, daemon=True)
        self.process.start()
        theirs.close()
        self.place = Place.here(name)
        self.place = Place(self.place.host, self.process.pid or 0, name)

    def stop(self, patience_seconds: float = 0.0) -> int | None:
        """Kill it unless it ends by itself within its time; its exit status, negative for a signal."""
        self.connection.close()
        self.process.join(patience_seconds)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        return self.process.exitcode


class ProcessExecutor:
    """Worker processes on this machine, one task at a time each.

    A worker that dies or fails is replaced, and its task is tried again by another one; what the others have in flight
    is left alone.
    """

    def __init__(self, artifacts: str, num_workers: int, make_worker: Callable[[str], Any] = new_worker) -> None:
        self._artifacts, self._num_workers, self._make_worker = artifacts, num_workers, make_worker
        self._idle: list[_Process] = []
        self._busy: dict[Any, tuple[_Process, int]] = {}
        self._count = 0

    @property
    def places(self) -> list[Place]:
        """The worker processes that there are."""
        return [worker.place for worker in (*self._idle, *(worker for worker, _ in self._busy.values()))]

    def _free_worker(self) -> _Process | None:
        """An idle worker, or a new one where there is room for it."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                return worker
            worker.stop()
        if len(self._busy) < self._num_workers:
            self._count += 1
            return _Process(f"local-{self._count}", self._make_worker, self._artifacts)
        return None

    def run(self, tasks: Sequence["Task"], listener: Listener = SILENT) -> Iterator[Done]:
        waiting = deque(range(len(tasks)))
        attempts = Attempts(listener)
        try:
            while waiting or self._busy:
                while waiting and not listener.stopping() and (worker := self._free_worker()) is not None:
                    self._hand(worker, waiting.popleft(), tasks, listener)
                if not self._busy:
                    return  # stopping
                for connection in wait(list(self._busy)):
                    worker, index = self._busy[connection]
                    try:
                        fine, answer = worker.connection.recv()
                    except (EOFError, OSError):
                        fine, answer = False, None
                    del self._busy[connection]
                    if fine:
                        result, seconds, peak = answer
                        self._idle.append(worker)
                        listener.finished(index, seconds, peak)
                        yield index, result, seconds
                        continue
                    status = worker.stop(0.0 if answer else 5.0)
                    if isinstance(answer, UserError):
                        listener.failed(index, str(answer))
                        raise answer
                    error = answer or f"the worker process died ({_end_of(status)})"
                    attempts.failed(index, tasks[index], worker.place, error)
                    waiting.appendleft(index)
        finally:
            # Left early: what is in flight is of no use to anybody.
            for worker, _ in self._busy.values():
                worker.stop()
            self._busy.clear()

    def _hand(self, worker: _Process, index: int, tasks: Sequence["Task"], listener: Listener) -> None:
        self._busy[worker.connection] = (worker, index)
        listener.started(index, worker.place)
        try:
            worker.connection.send(tasks[index])
        except OSError:
            pass  # it died while idle, which the next wait tells

    def __enter__(self) -> "ProcessExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._idle:
            worker.stop()
        self._idle.clear()
