"""A Ray cluster to work on: a running one, or a local instance for the length of a run."""

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from autonat.errors import UserError

# No statistics sent, no tables, no log files of Tune's own, no advice about accelerators.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
# Set to 1 for Ray's own dashboard beside a local instance; a running cluster has one or not.
DASHBOARD_VARIABLE = "AUTONAT_RAY_DASHBOARD"
CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RaySettings:
    """Where the cluster is and what a worker takes of it beside one CPU.

    address: ``auto`` (the running cluster that Ray finds, or RAY_ADDRESS), ``HOST:PORT``, or ``ray://HOST:PORT`` from
    outside the cluster; None starts a local instance. gpus_per_worker: a fraction lets workers share a GPU. Raises
    UserError for a number of GPUs that Ray cannot give.
    """

    address: str | None = None
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        gpus = self.gpus_per_worker
        if not math.isfinite(gpus) or gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise UserError(f"GPUs a worker: {gpus:g} must be a fraction of one, or a whole number")

    @property
    def gpus_per_training(self) -> int:
        """A training has its GPUs to itself."""
        return math.ceil(self.gpus_per_worker)

    @property
    def is_client(self) -> bool:
        return self.address is not None and self.address.startswith("ray://")


def connect(settings: RaySettings, num_workers: int | None) -> None:
    """Join the cluster, or start a local instance with a CPU for each worker. Raises UserError where there is none."""
    os.environ |= QUIET
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'ray[tune]', or leave --executor ray out") from error
    import ray._private.utils as ray_utils
    import ray._private.worker as ray_worker

    # The driver prints what Ray says of dead workers, whatever `log_to_driver` is; the ledger says it already.
    ray_worker.print_to_stdstream = lambda *_, **__: None  # type: ignore[assignment]
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with_dashboard = settings.address is None and os.environ.get(DASHBOARD_VARIABLE) == "1"
    if with_dashboard and find_spec("aiohttp_cors") is None:
        raise UserError(f"{DASHBOARD_VARIABLE}=1 needs Ray's own dashboard: pip install 'ray[default]'")
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        # SIGTERM is run_study's to handle; Ray's own handler would end the process with status 15.
        with _sigterm_kept(), _replaced(ray_utils, "set_sigterm_handler", lambda handler: None):
            if settings.address is not None:
                ray.init(address=_answering(settings.address), **quiet)
            else:
                _start_local(settings, num_workers, include_dashboard=with_dashboard, **quiet)
    except Exception as error:  # Ray raises bare ones too, where its processes do not start in time
        reason = " ".join(str(error).split()) or type(error).__name__
        if settings.address is None:
            raise UserError(f"Ray does not start on this machine: {reason}") from error
        if isinstance(error, RuntimeError) and not os.environ.get("RAY_AUTH_MODE"):
            reason += " (a cluster with a token needs RAY_AUTH_MODE=token here too)"
        raise UserError(f"cannot use the Ray cluster at {settings.address}: {reason}") from error
    if settings.is_client:
        from ray.util.client import ray as client

        client.worker.log_client.disable_logs()


def _start_local(settings: RaySettings, num_workers: int | None, **options: Any) -> None:
    """An instance whose servers listen on loopback only."""
    import ray
    import ray._private.ray_constants as ray_constants

    # Ray takes this machine's address in the network for 127.0.0.1, unless it thinks that it cannot form clusters here.
    with _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False):
        ray.init(
            address="local",
            num_cpus=num_workers,
            num_gpus=None if settings.gpus_per_worker else 0,
            _node_ip_address="127.0.0.1",
            **options,
        )


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """A module of Ray's with something else under a name meanwhile."""
    before = getattr(module, name, None)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """SIGTERM does afterwards what it did before. Ray's C++ half takes it too, to print a stack on the terminal."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _answering(address: str) -> str:
    """The address, once somebody listens there: Ray itself tries for minutes, aloud. Raises OSError, ValueError."""
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address, find_gcs_addresses

        # Ray would take the latest, which may be another study's local instance.
        if not os.environ.get("RAY_ADDRESS") and len(several := find_gcs_addresses()) > 1:
            raise ValueError(f"this host has several, {', '.join(sorted(several))}: give one, or set RAY_ADDRESS")
        found = canonicalize_bootstrap_address("auto")
        if found is None:
            raise ConnectionError("no cluster is running on this host (`ray start`), and RAY_ADDRESS is not set")
        address = found
    parts = urlsplit(address if "://" in address else f"//{address}")
    if not parts.hostname or not parts.port:
        raise ValueError("write it as auto, HOST:PORT or ray://HOST:PORT")
    socket.create_connection((parts.hostname, parts.port), CONNECT_SECONDS).close()
    return address


def disconnect() -> None:
    """Leave the cluster: workers end; a local instance ends with them."""
    import ray

    ray.shutdown()


def room(settings: RaySettings) -> int:
    """How many workers the nodes that are there now have room for, whatever else they do."""
    import ray

    return sum(_room_of(node["Resources"], settings.gpus_per_worker) for node in ray.nodes() if node["Alive"])


def has_node(resources: dict[str, float]) -> bool:
    """Whether there is a node that has all of this, whatever else it does."""
    import ray

    return any(
        all(node["Resources"].get(name, 0.0) >= amount for name, amount in resources.items())
        for node in ray.nodes()
        if node["Alive"]
    )


def _room_of(resources: dict[str, float], gpus_per_worker: float) -> int:
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if not gpus_per_worker:
        return cpus
    # A fraction is of one GPU: what is left of each is of no use to another worker.
    fits = gpus * int(1 / gpus_per_worker) if gpus_per_worker <= 1 else gpus // int(gpus_per_worker)
    return min(cpus, fits)


def log_folder() -> str:
    """Where the Ray of this process's node writes its logs, "" where it does not tell."""
    import ray._private.worker as ray_worker

    node = getattr(ray_worker, "_global_node", None)
    return "" if node is None else str(node.get_logs_dir_path())
