"""Who drives a study: one live process at a time."""

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

# A driver whose process cannot be looked at from here counts as dead when its heartbeat is older than this, by the
# database's clock; it beats far more often, which is also how soon it hears of a stop.
LEASE = timedelta(seconds=60)
HEARTBEAT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A process on a host.

    mark: the process's start time, where the system tells it, sees through a reused pid; after an @ the running kernel
    and the process namespace, as containers and machines may share a host name.
    """

    host: str
    pid: int
    mark: str

    @staticmethod
    def this_process() -> "Owner":
        return Owner(socket.gethostname(), os.getpid(), mark_of(os.getpid()))

    @property
    def label(self) -> str:
        return f"{self.host} {self.pid} {self.mark}"

    @staticmethod
    def from_label(label: str) -> "Owner":
        host, pid, mark = label.split(" ")
        return Owner(host, int(pid), mark)

    @property
    def is_here(self) -> bool:
        """Whether this process could see the owner's. Owners from before there was an @ are told by their host."""
        place = self.mark.partition("@")[2]
        return self.host == socket.gethostname() and place in ("", _place())

    def is_alive(self, heartbeat_at: datetime | None, now: datetime) -> bool:
        """By the process itself where it can be seen from here, else by its last heartbeat. `now`: the database's."""
        if self.is_here:
            return _exists(self.pid) and start_time(self.pid) == self.mark.partition("@")[0]
        if heartbeat_at is None:
            return False
        return now - in_utc(heartbeat_at) < LEASE


def owner_of(row: Any) -> Owner | None:
    """The owner in a row of `studies`."""
    return None if row.owner_pid is None else Owner(row.owner_host, row.owner_pid, row.owner_mark)


def is_driven(row: Any, now: datetime) -> bool:
    """Whether a row of `studies` has a living driver. `now`: the database's clock."""
    owner = owner_of(row)
    return owner is not None and owner.is_alive(row.heartbeat_at, now)


def in_utc(moment: datetime) -> datetime:
    """SQLite forgets the time zone, which is always UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def mark_of(pid: int) -> str:
    """The mark of a process of this host."""
    return f"{start_time(pid)}@{_place()}"


@cache
def _place() -> str:
    """The running kernel and the process namespace, "" where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as handle:
            boot = handle.read().strip()[:8]
        return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def start_time(pid: int) -> str:
    """The kernel's start time of a process, "" where it cannot be told. A zombie has none: it drives nothing."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as handle:
            fields = handle.read().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "zombie" if fields[0] == "Z" else fields[19]
