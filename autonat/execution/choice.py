"""Which executor a command uses. Light until one is made."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autonat.errors import UserError

if TYPE_CHECKING:
    from autonat.execution.executor import Executor


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class ExecutorChoice:
    """kind: local or ray. workers: None is one a core (on GPUs without Ray, one), and on a running Ray cluster all that
    there is room for.

    address, gpus_per_worker: of Ray, see ``ray_cluster.RaySettings``; without a number of GPUs a worker gets one where
    the recipe computes on GPUs.
    """

    kind: str = "local"
    workers: int | None = None
    address: str | None = None
    gpus_per_worker: float | None = None

    def local_workers(self, device: str) -> int:
        """Worker processes of this machine. They all use the first GPU, which one keeps busy."""
        if self.workers is not None:
            return self.workers
        return cores() if device == "cpu" else 1

    def executor(self, artifacts: str, device: str = "cpu") -> "Executor":
        """An executor for an artifact folder and a recipe's device. Raises UserError for what does not go together."""
        from autonat.execution.executor import InProcessExecutor, ProcessExecutor

        if self.kind == "ray":
            from autonat.execution.ray_cluster import RaySettings
            from autonat.execution.ray_executor import RayExecutor

            gpus = self.gpus_per_worker
            if gpus is None:
                gpus = 1.0 if device == "cuda" else 0.0
            workers = cores() if self.workers is None and self.address is None else self.workers
            return RayExecutor(artifacts, workers, RaySettings(self.address, gpus))
        if self.kind != "local":
            raise UserError(f"unknown executor {self.kind!r}, expected local or ray")
        if self.address is not None or self.gpus_per_worker is not None:
            raise UserError("--address and --gpus-per-worker go with --executor ray")
        count = self.local_workers(device)
        return ProcessExecutor(artifacts, count) if count else InProcessExecutor(artifacts)
