"""What an executor tells of its tasks while it performs them."""

import os
import socket
from dataclasses import dataclass
from typing import Any

from autonat.errors import UserError

# A task that failed this often, each time on another worker, is not tried again.
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A worker: a process on a host. `name` tells the workers of one executor apart, also one after another."""

    host: str
    pid: int
    name: str

    @staticmethod
    def here(name: str) -> "Place":
        return Place(socket.gethostname(), os.getpid(), name)


class Listener:
    """Told of each task's life by its number in the batch; this one ignores it all and never stops the work."""

    def started(self, index: int, place: Place) -> None:
        """A worker has begun a task."""

    def finished(self, index: int, seconds: float, peak_memory: int | None) -> None:
        """A task is done; `peak_memory` is the worker's highest use meanwhile, in bytes."""

    def failed(self, index: int, error: str) -> None:
        """A task ended without a result: an exception, or its worker died."""

    def stopping(self) -> bool:
        """Whether no more tasks are to be handed out."""
        return False


SILENT = Listener()


class TaskFailedError(UserError):
    """A task failed as often as tasks may."""


class Attempts:
    """Counts the failures of a batch's tasks; the last one allowed ends the run."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._failures: dict[int, list[Place]] = {}

    def failed(self, index: int, task: Any, place: Place, error: str) -> None:
        """Raises TaskFailedError with the task, the workers and the last error when it was the last attempt."""
        error = " ".join(error.split())
        self._listener.failed(index, error)
        places = self._failures.setdefault(index, [])
        places.append(place)
        if len(places) >= ATTEMPTS:
            from autonat.execution.tasks import label_of

            where = ", ".join(f"{place.name} (process {place.pid} on {place.host})" for place in places)
            raise TaskFailedError(
                f"{label_of(task)} failed {len(places)} times, on {where}: {error}. What was finished is kept, so the "
                "same command goes on from there"
            )
