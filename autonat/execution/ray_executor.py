"""Tasks on Ray actors. The only file that imports Ray."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from autonat.errors import UserError
from autonat.execution.executor import Done, measured, new_worker, one_line
from autonat.execution.listener import SILENT, Attempts, Listener, Place
from autonat.execution.tasks import Task

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}


class _Actor:
    """What runs in an actor."""

    def __init__(self, artifacts: str) -> None:
        self._worker = new_worker(artifacts)

    def place(self) -> Place:
        return Place.here("")

    def perform(self, task: Task) -> tuple[Any, float, int]:
        return measured(self._worker, task)


class RayExecutor:
    """Actors of one CPU each on a local Ray instance, started on first use and stopped at the end.

    An actor that dies or fails is replaced by a new one and its task tried again.
    """

    def __init__(self, artifacts: str, num_workers: int) -> None:
        self._artifacts, self._num_workers = artifacts, max(1, num_workers)
        self._idle: list[tuple[Any, Place]] = []
        self._started = False
        self._count = 0

    def _start(self) -> None:
        os.environ |= QUIET
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is not installed: pip install 'ray[tune]', or leave --executor ray out") from error
        import logging

        ray.init(
            num_cpus=self._num_workers,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
        self._started = True
        self._idle = self._new_actors(self._num_workers)

    def _new_actors(self, number: int) -> list[tuple[Any, Place]]:
        import ray

        actor_class: Any = ray.remote(num_cpus=1)(_Actor)
        artifacts = self._artifacts if "://" in self._artifacts else os.path.abspath(self._artifacts)
        actors = [actor_class.remote(artifacts) for _ in range(number)]
        found = []
        for actor, place in zip(actors, ray.get([actor.place.remote() for actor in actors]), strict=True):
            self._count += 1
            found.append((actor, Place(place.host, place.pid, f"ray-{self._count}")))
        return found

    def run(self, tasks: Sequence[Task], listener: Listener = SILENT) -> Iterator[Done]:
        if not self._started:
            self._start()
        import ray
        from ray.exceptions import RayError, RayTaskError

        waiting = list(range(len(tasks)))[::-1]
        running: dict[Any, tuple[int, Any, Place]] = {}
        attempts = Attempts(listener)
        while waiting or running:
            while waiting and self._idle and not listener.stopping():
                index = waiting.pop()
                actor, place = self._idle.pop()
                running[actor.perform.remote(tasks[index])] = (index, actor, place)
                listener.started(index, place)
            if not running:
                return  # stopping
            (done,), _ = ray.wait(list(running), num_returns=1)
            index, actor, place = running.pop(done)
            try:
                result, seconds, peak = ray.get(done)
            except RayError as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                if isinstance(cause, UserError):
                    listener.failed(index, str(cause))
                    raise cause from None
                attempts.failed(index, tasks[index], place, one_line(cause))
                ray.kill(actor)
                self._idle += self._new_actors(1)
                waiting.append(index)
                continue
            self._idle.append((actor, place))
            listener.finished(index, seconds, peak)
            yield index, result, seconds

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            import ray

            self._idle, self._started = [], False
            ray.shutdown()
