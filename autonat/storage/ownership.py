"""Who drives a study: one live process at a time."""

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# A driver on another host counts as dead when its heartbeat is older than this; it beats six times as often.
LEASE = timedelta(seconds=60)
HEARTBEAT_SECONDS = LEASE.total_seconds() / 6


@dataclass(frozen=True, slots=True)
class Owner:
    """A process on a host. The mark (its start time, where the system tells it) sees through a reused pid."""

    host: str
    pid: int
    mark: str

    @staticmethod
    def this_process() -> "Owner":
        return Owner(socket.gethostname(), os.getpid(), _start_mark(os.getpid()))

    def is_alive(self, heartbeat_at: datetime | None, now: datetime) -> bool:
        if self.host == socket.gethostname():
            return _exists(self.pid) and _start_mark(self.pid) == self.mark
        if heartbeat_at is None:
            return False
        if heartbeat_at.tzinfo is None:
            heartbeat_at = heartbeat_at.replace(tzinfo=UTC)
        return now - heartbeat_at < LEASE


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_mark(pid: int) -> str:
    """The kernel's start time of a process, "" where it cannot be told. A zombie has none: it drives nothing."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as handle:
            fields = handle.read().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "zombie" if fields[0] == "Z" else fields[19]
