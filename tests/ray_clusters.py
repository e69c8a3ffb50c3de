"""Ray clusters of imitated nodes, started by the tests themselves."""

import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Any

from studies_for_tests import children

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Nodes:
    """A head without CPUs, which holds the cluster together, and nodes that come and go, one CPU each."""

    def __init__(self, count: int, **head: Any) -> None:
        # Workers import the functions that tests hand them.
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        os.environ |= QUIET | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        from ray.cluster_utils import Cluster

        self.cluster: Any = Cluster()
        self.cluster.add_node(num_cpus=0, include_dashboard=False, **head)
        self.nodes = [self.add() for _ in range(count)]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, **options: Any) -> Any:
        return self.cluster.add_node(**{"num_cpus": 1, **options})

    def kill(self, number: int) -> None:
        """A node goes with all its processes, at once."""
        self.cluster.remove_node(self.nodes.pop(number), allow_graceful=False)

    def replace_lost(self) -> int:
        """New nodes for those that ended by themselves, as raylets do that a busy machine kept from answering."""
        lost = [
            node for node in self.nodes if any(one.process.poll() is not None for one in node.all_processes["raylet"])
        ]
        for node in lost:
            self.nodes.remove(node)
            with contextlib.suppress(Exception):
                self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.add())
        return len(lost)

    def workers(self, doing: str = "") -> list[int]:
        """Worker processes of this cluster that hold an actor or a trial; they name themselves after what they do."""
        found = []
        for node in self.nodes:
            for raylet in node.all_processes.get("raylet", ()):
                with contextlib.suppress(OSError):
                    found += [pid for pid in children(raylet.process.pid) if _is_at(pid, doing)]
        return found

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.cluster.shutdown()


def _is_at(pid: int, doing: str) -> bool:
    try:
        name = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return name.startswith("ray::") and not name.startswith("ray::IDLE") and doing in name


def kill(pid: int) -> bool:
    """SIGKILL; whether there was such a process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
