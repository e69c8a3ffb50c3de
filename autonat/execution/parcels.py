"""Weights on their way between hosts that share no artifact folder: bytes with their hash."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autonat.storage.artifacts import Artifacts, file_sha256
from models.whole_files import whole_file


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file's SHA-256 and its bytes (a uint8 array), or a reference to them."""

    sha256: str
    content: Any


def networks_needed(task: Any) -> list[str]:
    """Fingerprints of the networks trained here that a task loads."""
    from autonat.execution.tasks import Task, TrainTask
    from autonat.specs import FeatureSpec, fingerprint, networks_needed

    if not isinstance(task, Task):
        return []
    if isinstance(task.spec, FeatureSpec):
        return [] if isinstance(task, TrainTask) else [fingerprint(task.spec)]
    return [fingerprint(part) for part in networks_needed(task.spec)]


def network_made(task: Any) -> str | None:
    """The fingerprint of the network that a task trains."""
    from autonat.execution.tasks import TrainTask
    from autonat.specs import fingerprint

    return fingerprint(task.spec) if isinstance(task, TrainTask) else None


def packed(path: Path) -> Parcel:
    """A file's parcel."""
    import numpy as np

    return Parcel(file_sha256(path), np.fromfile(path, dtype=np.uint8))


def unpack(artifacts: Artifacts, name: str, parcel: Parcel) -> None:
    """Put a network's file into a folder, whole or not at all. Raises OSError where it does not arrive as it was."""
    path = artifacts.path(name)
    artifacts.create()
    with whole_file(path) as temporary:
        parcel.content.tofile(temporary)
        if file_sha256(temporary) != parcel.sha256:
            raise OSError(f"{path.name} was damaged on its way here")
