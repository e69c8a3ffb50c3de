"""CIFAR-10's official binary archive (cifar-10-binary.tar.gz) as the .npz files that every reader here takes.

N images, 32x32 pixels. A record is a byte of class and three planes of 1,024 bytes: red, green, blue, row by row.
"""

import tarfile
import zlib
from pathlib import Path

import numpy as np

from models.whole_files import whole_file

SIZE = 32
CLASSES = 10
RECORD_BYTES = 1 + 3 * SIZE * SIZE
PARTS = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}


class ArchiveError(ValueError):
    """An archive that is not CIFAR-10's; the message names it."""


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Write train.npz and test.npz (images uint8 [N, 32, 32, 3], labels int64 [N]) into a folder, which is made.

    Nothing of the archive is written under a name of its own. Raises ArchiveError where it is not what it should be.
    """
    if not archive.is_file():
        raise ArchiveError(f"{archive}: no such file")
    found: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                name = Path(member.name).name
                stream = members.extractfile(member) if member.isfile() and name.endswith(".bin") else None
                if stream is not None:
                    found[name] = np.frombuffer(stream.read(), dtype=np.uint8)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{archive} is not a whole archive: {' '.join(str(error).split())}") from error
    parts = {part: [_records(archive, name, found) for name in names] for part, names in PARTS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    return [_written(folder / f"{part}.npz", np.concatenate(records)) for part, records in parts.items()]


def _records(archive: Path, name: str, found: dict[str, np.ndarray]) -> np.ndarray:
    """A file's records, uint8 [N, 3073]."""
    if name not in found:
        raise ArchiveError(f"{archive} has no {name}: the binary version, cifar-10-binary.tar.gz, is meant")
    content = found[name]
    if not len(content) or len(content) % RECORD_BYTES:
        raise ArchiveError(f"{archive}: {name} has {len(content)} bytes, not whole records of {RECORD_BYTES}")
    records = content.reshape(-1, RECORD_BYTES)
    if records[:, 0].max() >= CLASSES:
        raise ArchiveError(f"{archive}: {name} has class {records[:, 0].max()}, CIFAR-10 ends at {CLASSES - 1}")
    return records


def _written(path: Path, records: np.ndarray) -> Path:
    images = records[:, 1:].reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
    with whole_file(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, images=np.ascontiguousarray(images), labels=records[:, 0].astype(np.int64))
    return path
