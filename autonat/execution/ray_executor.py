"""Tasks on Ray actors. The only file that imports Ray."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from autonat.errors import UserError
from autonat.execution.executor import ATTEMPTS
from autonat.execution.tasks import Task

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}


class RayExecutor:
    """Actors of one CPU each on a local Ray instance, started on first use and stopped at the end.

    An actor that dies is restarted by Ray and its task tried again.
    """

    def __init__(self, artifacts: str, num_workers: int) -> None:
        self._artifacts, self._num_workers = artifacts, max(1, num_workers)
        self._actors: list[Any] = []

    def _start(self) -> None:
        os.environ |= QUIET
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is not installed: pip install 'ray[tune]', or leave --executor ray out") from error
        import logging

        from autonat.execution.worker import Worker

        ray.init(
            num_cpus=self._num_workers,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=ATTEMPTS - 1)(Worker)
        self._actors = [actor.remote(os.path.abspath(self._artifacts)) for _ in range(self._num_workers)]

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any, float]]:
        if not self._actors:
            self._start()
        import ray
        from ray.exceptions import RayActorError

        waiting = list(enumerate(tasks))[::-1]
        idle = list(self._actors)
        running: dict[Any, tuple[int, Any]] = {}
        while waiting or running:
            while waiting and idle:
                index, task = waiting.pop()
                actor = idle.pop()
                running[actor.perform.remote(task)] = (index, actor)
            (done,), _ = ray.wait(list(running), num_returns=1)
            index, actor = running.pop(done)
            idle.append(actor)
            try:
                result, seconds = ray.get(done)
            except RayActorError as error:
                raise UserError(
                    f"a Ray worker died {ATTEMPTS} times on one task; what was finished is kept, so the same command "
                    "goes on from there"
                ) from error
            yield index, result, seconds

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        if self._actors:
            import ray

            self._actors = []
            ray.shutdown()
