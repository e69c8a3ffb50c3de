"""The task ledger: which worker did what, when, how often, and how it ended.

A row is one worker's share of one spec's blocks, or a whole training. Blocks of one spec on one worker differ in
nothing but their number, so a row each would make the ledger grow with the images instead of with the work: at 100,000
recorded results it would outweigh all else in the database. What fails has a row of its own.

Rows are kept in memory and written together: with every recorded result, in its transaction, and otherwise once a
second at most, so the ledger costs a block microseconds. A kill loses less than a second of it.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from autonat.execution.listener import Listener, Place
from autonat.execution.tasks import Task, TrainTask, block_of, images_of, kind_of
from autonat.specs import fingerprint
from autonat.storage.database import Database
from autonat.storage.ownership import Owner
from autonat.storage.task_rows import write

FLUSH_SECONDS = 1.0

# Microseconds at the start and a counter: drivers that start at other moments never meet.
_ids = itertools.count((time.time_ns() // 1000) << 11)


def as_ranges(numbers: Iterable[int]) -> str:
    """Numbers in short: 0, 1, 2, 3, 7 are "0-3,7"."""
    parts = []
    for _, group in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(parts)


@dataclass(slots=True)
class _Share:
    """A row in the making."""

    kind: str
    fingerprint: str
    place: Place
    attempt: int
    submitted_at: datetime
    id: int = field(default_factory=lambda: next(_ids))
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    in_flight: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    blocks: set[int] = field(default_factory=set)
    seconds: float = 0.0
    images: int = 0
    peak_memory: int | None = None
    error: str | None = None

    @property
    def state(self) -> str:
        if self.error is not None:
            return "failed"
        return "running" if self.in_flight else "done"


class Ledger:
    """The rows of one driver's work for one study."""

    def __init__(self, database: Database, study_id: int, stopping: Callable[[], bool] = lambda: False) -> None:
        self._database, self._study_id = database, study_id
        self.stopping = stopping
        self._driver = Owner.this_process().label
        self._dirty: dict[int, _Share] = {}
        self._flushed = time.monotonic()
        # The driver's thread tells what happens, the heartbeat's writes it down where that lasts. Whoever takes rows
        # writes them before another may: an older row must not come after a newer one.
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    def batch(self, tasks: Sequence[Task]) -> "BatchLedger":
        """The listener of one batch of tasks."""
        return BatchLedger(self, tasks)

    def note(self, share: _Share, change: Callable[[], None], *, now: bool = False) -> None:
        """Change a share and have it written soon."""
        with self._lock:
            change()
            self._dirty[share.id] = share
        if now or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet written."""
        with self.unwritten() as rows:
            if rows:
                write(self._database, rows)

    @contextmanager
    def unwritten(self) -> Iterator[list[dict[str, Any]]]:
        """Rows that the caller writes; they count as written once that ends without an exception."""
        with self._writing:
            with self._lock:
                taken, self._dirty = self._dirty, {}
                self._flushed = time.monotonic()
                rows = [self._row(share) for share in taken.values()]
            try:
                yield rows
            except BaseException:
                with self._lock:
                    self._dirty = taken | self._dirty
                raise

    def _row(self, share: _Share) -> dict[str, Any]:
        return {
            "id": share.id,
            "study_id": self._study_id,
            "kind": share.kind,
            "fingerprint": share.fingerprint,
            "blocks": as_ranges(share.blocks) if share.blocks else None,
            "attempt": share.attempt,
            "state": share.state,
            "error": share.error,
            "host": share.place.host,
            "pid": share.place.pid,
            "worker": share.place.name,
            "driver": self._driver,
            "submitted_at": share.submitted_at,
            "started_at": share.started_at,
            "finished_at": share.finished_at,
            "seconds": share.seconds,
            "images": share.images,
            "peak_memory": share.peak_memory,
        }


class BatchLedger(Listener):
    """Keeps the ledger of one batch of tasks."""

    def __init__(self, ledger: Ledger, tasks: Sequence[Task]) -> None:
        self._ledger, self._tasks = ledger, tasks
        self._submitted_at = datetime.now(UTC)
        self._names: dict[int, str] = {}
        self._failures: dict[int, int] = {}
        self._shares: dict[tuple[str, str, Place, int], _Share] = {}
        self._running: dict[int, tuple[_Share, float]] = {}

    def _name(self, task: Task) -> str:
        """The spec's fingerprint; the tasks of a batch share their specs."""
        key = id(task.spec)
        if key not in self._names:
            self._names[key] = fingerprint(task.spec)
        return self._names[key]

    def started(self, index: int, place: Place) -> None:
        task = self._tasks[index]
        kind, name, attempt = kind_of(task), self._name(task), self._failures.get(index, 0) + 1
        key = (kind, name, place, attempt)
        if key not in self._shares:
            self._shares[key] = _Share(kind, name, place, attempt, self._submitted_at)
        share, block = self._shares[key], block_of(task)
        self._running[index] = share, time.monotonic()

        def change() -> None:
            share.in_flight.add(index)
            if block is not None:
                share.blocks.add(block)

        # A training lasts: whoever looks meanwhile is to see it.
        self._ledger.note(share, change, now=isinstance(task, TrainTask))

    def finished(self, index: int, seconds: float, peak_memory: int | None) -> None:
        share, _ = self._running.pop(index)
        images = images_of(self._tasks[index])

        def change() -> None:
            share.in_flight.discard(index)
            share.done.add(index)
            share.finished_at = datetime.now(UTC)
            share.seconds += seconds
            share.images += images
            share.peak_memory = max(share.peak_memory or 0, peak_memory or 0) or None

        self._ledger.note(share, change)

    def failed(self, index: int, error: str) -> None:
        share, began = self._running.pop(index)
        block = block_of(self._tasks[index])
        self._failures[index] = self._failures.get(index, 0) + 1
        # A share with nothing else in it becomes the failure's row; else the failure gets its own.
        alone = not share.done and share.in_flight == {index}
        failure = share
        if not alone:
            failure = _Share(share.kind, share.fingerprint, share.place, share.attempt, share.submitted_at)

            def leave() -> None:
                share.in_flight.discard(index)
                if block is not None:
                    share.blocks.discard(block)

            self._ledger.note(share, leave)
        self._shares = {key: value for key, value in self._shares.items() if value is not failure}

        def change() -> None:
            failure.in_flight = set()
            failure.blocks = set() if block is None else {block}
            failure.seconds = time.monotonic() - began
            failure.finished_at = datetime.now(UTC)
            failure.error = error

        self._ledger.note(failure, change, now=True)

    def stopping(self) -> bool:
        return self._ledger.stopping()
