"""A training on one or several devices of one machine: a process a device, which this one starts, hears and ends. A
single device needs no other process.

gloo between CPUs, NCCL between GPUs. The processes are started by hand, as multiprocessing allows none to a worker that
is a daemon itself.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from models.checkpoint import build_network
from models.mask_ratio import MaskRatio
from models.networks import NetworkConfig
from models.ranks import ALONE, Ranks
from models.train import TrainingConfig, train

# How long one that failed is held to be the cause, until one that died without a word is heard of.
GRACE_SECONDS = 0.5
# sys.path comes first, as what is to be imported may lie anywhere.
START = (
    "import pickle, sys; from multiprocessing.connection import Connection; connection = Connection(int(sys.argv[1])); "
    "sys.path[:] = pickle.loads(connection.recv_bytes()); from models.ddp import serve; serve(connection)"
)


class DeviceError(ValueError):
    """The machine has fewer devices than a training is to use."""


class RankError(RuntimeError):
    """One of a training's processes failed or died."""


@dataclass(frozen=True, slots=True)
class DeviceTraining:
    """What ``models.train.train`` is to do. load: called in each process, gives tokens [N, L] and labels [N]. device:
    ``cpu`` or ``cuda``."""

    network: NetworkConfig
    config: TrainingConfig
    mask_ratio: MaskRatio
    load: Callable[[], tuple[Tensor, Tensor]]
    device: str
    seed: int
    until_step: int | None = None
    state_path: Path | None = None
    precision: str = "float32"
    compile: bool = False
    progress_every: int = 50


def train_on_devices(
    training: DeviceTraining,
    *,
    start_from: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[Any, float]:
    """``models.train.train`` on the `devices` of its configuration; from several, the EMA comes back on the CPU.

    Raises DeviceError where the machine has fewer, the ValueError of a process that refuses its input, and RankError
    with the rank's error where one fails or dies; no process is left behind.
    """
    size = training.config.devices
    if training.device == "cuda" and torch.cuda.device_count() < size:
        raise DeviceError(f"training.devices is {size}, but there are {torch.cuda.device_count()} CUDA devices here")
    if size == 1:
        return _train(training, torch.device(training.device), ALONE, start_from, progress)
    with TemporaryDirectory(prefix="autonat-ranks-") as folder:
        processes = [_Process(rank, size, Path(folder)) for rank in range(size)]
        try:
            for process in processes:  # the others get rank 0's weights
                process.send(training, start_from if process.rank == 0 else None)
            weights, loss = _listen(processes, progress)
        finally:
            for process in processes:
                process.stop()
    average = build_network(training.network).eval()
    average.load_state_dict(weights)
    return average.requires_grad_(False), loss


class _Process:
    """One rank, as the process that started it sees it."""

    def __init__(self, rank: int, size: int, folder: Path) -> None:
        self.rank, self.size, self._folder = rank, size, folder
        self._log = folder / f"{rank}.log"
        self.connection, theirs = Pipe()
        with theirs, open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def send(self, training: DeviceTraining, start_from: Mapping[str, Tensor] | None) -> None:
        try:
            self.connection.send_bytes(pickle.dumps(sys.path))
            self.connection.send_bytes(
                pickle.dumps((self.rank, self.size, str(self._folder / "meeting"), os.getpid(), training, start_from))
            )
        except OSError:
            pass  # it is dead, which listening tells

    def end(self) -> str:
        """What became of a process that ended without a word."""
        status = self._process.wait()
        text = self._log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(text) if line.strip()), "")
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"the process died ({'killed; out of memory?' if status == -signal.SIGKILL else how}) {last}".strip()

    def stop(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.wait()


def _listen(
    processes: list[_Process], progress: Callable[[int, float], None] | None
) -> tuple[Mapping[str, Tensor], float]:
    """Hear the ranks until all are done; rank 0's weights and loss."""
    waiting = {process.connection: process for process in processes}
    answer: Any = None
    while waiting:
        for connection in wait(list(waiting)):
            assert isinstance(connection, Connection)
            process = waiting[connection]
            kind, content = _heard(process)
            if kind == "progress" and progress is not None:
                progress(*content)
            elif kind == "done":
                answer = content if process.rank == 0 else answer
                del waiting[connection]
            elif kind == "refused":
                raise content
            elif kind in ("failed", "died"):
                raise RankError(_cause(process, kind, content, [each for each in waiting.values() if each != process]))
    weights, loss = answer
    return weights, loss


def _heard(process: _Process) -> tuple[str, Any]:
    try:
        kind, content = pickle.loads(process.connection.recv_bytes())
        return kind, content
    except (EOFError, OSError):
        return "died", process.end()


def _cause(process: _Process, kind: str, content: str, others: list[_Process]) -> str:
    """The first to fail is blamed, unless it only missed one that died."""
    if kind == "failed":
        for connection in wait([other.connection for other in others], GRACE_SECONDS):
            other = next(each for each in others if each.connection is connection)
            other_kind, other_content = _heard(other)
            if other_kind == "died":
                process, content = other, other_content
    return f"rank {process.rank} of {process.size}: {content}"


def serve(connection: Connection) -> None:
    """What a rank's process does: trains its share, and waits after an error to be ended, so that none misses it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    rank, size, meeting, parent, training, start_from = pickle.loads(connection.recv_bytes())
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    message: tuple[str, Any]
    try:
        message = "done", _train_as_rank(rank, size, meeting, training, start_from, connection)
    except ValueError as error:  # what the user must mend
        message = "refused", error
    except Exception as error:
        message = "failed", f"{type(error).__name__}: {' '.join(str(error).split())}"
    connection.send_bytes(pickle.dumps(message))
    if message[0] != "done":
        threading.Event().wait()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _train(
    training: DeviceTraining,
    device: torch.device,
    ranks: Ranks,
    start_from: Mapping[str, Tensor] | None,
    progress: Callable[[int, float], None] | None,
) -> tuple[Any, float]:
    tokens_NL, labels_N = training.load()
    return train(
        training.network,
        training.config,
        training.mask_ratio,
        tokens_NL.to(device),
        labels_N.to(device),
        training.seed,
        start_from=start_from,
        until_step=training.until_step,
        state_path=training.state_path if ranks.rank == 0 else None,
        precision=training.precision,
        compile=training.compile,
        progress=progress,
        progress_every=training.progress_every,
        ranks=ranks,
    )


def _train_as_rank(
    rank: int,
    size: int,
    meeting: str,
    training: DeviceTraining,
    start_from: Mapping[str, Tensor] | None,
    connection: Connection,
) -> tuple[Mapping[str, Tensor], float] | None:
    torch.set_num_threads(1)
    on_gpu = training.device == "cuda"
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:  # all are on this machine, whatever its name resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    if on_gpu:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=torch.distributed.FileStore(meeting, size),
        rank=rank,
        world_size=size,
        device_id=device if on_gpu else None,
    )

    def tell(step: int, loss: float) -> None:
        connection.send_bytes(pickle.dumps(("progress", (step, loss))))

    average, loss = _train(training, device, Ranks(rank, size), start_from, tell if rank == 0 else None)
    torch.distributed.destroy_process_group()
    return ({name: value.cpu() for name, value in average.state_dict().items()}, loss) if rank == 0 else None
