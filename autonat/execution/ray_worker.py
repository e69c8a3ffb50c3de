"""A worker as a Ray process holds it."""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from autonat.errors import UserError
from autonat.execution.executor import measured, one_line
from autonat.execution.listener import Place
from autonat.execution.parcels import Parcel, network_made, packed, unpack
from autonat.execution.ray_cluster import log_folder
from autonat.storage.artifacts import Artifacts, cache_folder, file_sha256

if TYPE_CHECKING:  # tasks import torch, which a worker does with its first one
    from autonat.execution.tasks import Task

# Large constants of tasks that a worker keeps: those of the measurement at hand and of the one before.
KEPT_CONSTANTS = 2


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a worker says of itself. shares_folder: weights need not travel to it or from it."""

    place: Place
    shares_folder: bool
    logs: str


@dataclass(frozen=True, slots=True)
class Answer:
    """How a task ended. refused: by what the user must mend, so that it is of no use to try it again."""

    outcome: Literal["done", "failed", "refused"]
    result: Any = None
    seconds: float = 0.0
    peak_memory: int = 0
    error: str = ""
    made: Mapping[str, Parcel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Site:
    """What a worker is made with. artifacts: the driver's; note: a file beside them that only their sharers see."""

    artifacts: str
    note: str
    make_worker: Callable[[str], Any]


class RayWorker:
    """Performs tasks one after another, and gets and gives weights where it does not share the driver's folder.

    Its own folder is then in this host's cache, which all its workers share; what lies there is named by fingerprint
    and checked by hash.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._shares_folder = "://" in site.artifacts or os.path.exists(site.note)
        folder = site.artifacts if self._shares_folder else str(cache_folder(f"ray {site.artifacts}"))
        self._artifacts = Artifacts(folder)
        self._worker: Any = None
        self._constants: OrderedDict[str, Any] = OrderedDict()
        self._unpacked: set[tuple[str, str]] = set()

    def greet(self) -> Greeting:
        return Greeting(Place.here(""), self._shares_folder, log_folder())

    def perform(self, task: "Task", parcels: Mapping[str, Parcel] | None = None) -> Answer:
        """Never raises: an exception is an answer, and what ends the process is Ray's to tell."""
        try:
            self._unpack(parcels or {})
            if self._worker is None:
                self._artifacts.create()
                self._worker = self._site.make_worker(self._artifacts.address)
            result, seconds, peak = measured(self._worker, self._whole(task))
            return Answer("done", result, seconds, peak, made=self._made(task))
        except UserError as error:
            return Answer("refused", error=str(error))
        except Exception as error:
            return Answer("failed", error=one_line(error))

    def _unpack(self, parcels: Mapping[str, Parcel]) -> None:
        """Have the networks that the task needs; each comes once to a host."""
        for name, parcel in parcels.items():
            if (name, parcel.sha256) in self._unpacked:
                continue
            path = self._artifacts.path(name)
            if not path.exists() or file_sha256(path) != parcel.sha256:
                import ray

                unpack(self._artifacts, name, replace(parcel, content=ray.get(parcel.content)))
            self._unpacked.add((name, parcel.sha256))

    def _whole(self, task: Any) -> Any:
        """The task with its large constant, which travels once to a node and is read once by a worker."""
        if not hasattr(task, "influence"):
            return task
        import ray

        reference = task.influence
        if not isinstance(reference, ray.ObjectRef):
            return task
        name = reference.hex()
        if name not in self._constants:
            self._constants[name] = ray.get(reference)
            while len(self._constants) > KEPT_CONSTANTS:
                self._constants.popitem(last=False)
        return replace(task, influence=self._constants[name])

    def _made(self, task: "Task") -> dict[str, Parcel]:
        """The weights that a training wrote, where the driver cannot see them; nor can it remove its state here."""
        name = None if self._shares_folder else network_made(task)
        if name is None:
            return {}
        parcel = packed(self._artifacts.path(name))
        self._artifacts.discard(self._artifacts.state_path(name))
        return {name: parcel}
