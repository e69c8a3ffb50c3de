"""Labelled images from where people keep them: a folder, Parquet files, an .npz. They are read one after the other.

N images, C channels (3, or 1 where grey), H x W pixels.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from models.image_crop import UnreadableImageError, decode_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class SourceError(ValueError):
    """A source that cannot be read at all; the message names it."""


class SourceImage(NamedTuple):
    """One image: its place in the source, its name there, uint8 [C, H, W], and its class (0 without labels)."""

    place: int
    name: str
    image_CHW: np.ndarray
    label: int


class Unreadable(NamedTuple):
    """An entry that is no image: its place, its name and why."""

    place: int
    name: str
    reason: str


# Reads one entry: given the wanted size and whether grey, uint8 [C, H, W]. Raises UnreadableImageError.
Reader = Callable[[int | None, bool], np.ndarray]


class ImageSource(Protocol):
    """What reads entries in order. ``labels_N`` is None where the source has no labels."""

    path: Path
    labels_N: np.ndarray | None

    def __len__(self) -> int: ...

    def identity(self) -> dict[str, Any]:
        """What tells this source from another, without reading every image: names, sizes, labels. Plain JSON."""

    def entries(self, start: int, stop: int) -> Iterator[tuple[str, Reader]]:
        """Names and readers of the entries from ``start`` up to ``stop``."""


def open_source(path: Path | str, label_column: str | None = None) -> ImageSource:
    """The source at a path: a folder of images (one folder a class) or of .parquet files, a .parquet file, an .npz.

    Raises SourceError, which names the file, where it is none of these or is damaged.
    """
    from models.image_npz import NpzImages
    from models.image_parquet import ParquetImages

    path = Path(path)
    if path.is_dir():
        parts = sorted(path.glob("*.parquet"))
        return ParquetImages(path, parts, label_column) if parts else FolderImages(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist")
    if path.suffix == ".npz":
        return NpzImages(path)
    if path.suffix == ".parquet":
        return ParquetImages(path, [path], label_column)
    raise SourceError(f"{path} is neither a folder of images, a .parquet file nor an .npz")


def images(
    source: ImageSource,
    size: int | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    grey: bool = False,
    threads: int = 0,
    on_unreadable: Callable[[Unreadable], None] | None = None,
) -> Iterator[SourceImage]:
    """The images of a source in order, decoded lazily: at most a few a thread are in memory.

    ``size``: ADM's centre crop to so many pixels (models/image_crop.py); None leaves images as they are. ``threads``
    decode ahead; the order stays. An entry that is no image goes to ``on_unreadable`` and is left out; without that it
    raises SourceError.
    """
    stop = len(source) if stop is None else min(stop, len(source))

    def read(name: str, reader: Reader) -> np.ndarray | UnreadableImageError:
        try:
            return reader(size, grey)
        except UnreadableImageError as error:
            return error

    found = source.entries(start, stop)
    for place, (name, result) in enumerate(_in_order(read, found, threads), start):
        if isinstance(result, np.ndarray):
            yield SourceImage(place, name, result, 0 if source.labels_N is None else int(source.labels_N[place]))
        elif on_unreadable is None:
            raise SourceError(f"{name} is not readable: {result}") from result
        else:
            on_unreadable(Unreadable(place, name, str(result)))


def _in_order(
    read: Callable[[str, Reader], Any], found: Iterator[tuple[str, Reader]], threads: int
) -> Iterator[tuple[str, Any]]:
    if threads < 1:
        yield from ((name, read(name, reader)) for name, reader in found)
        return
    waiting: deque[tuple[str, Future[Any]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                for name, reader in islice(found, 4 * threads - len(waiting)):
                    waiting.append((name, pool.submit(read, name, reader)))
                if not waiting:
                    return
                name, future = waiting.popleft()
                yield name, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def digest(content: str | bytes) -> str:
    """SHA-256, for a source's identity."""
    return hashlib.sha256(content.encode(errors="surrogateescape") if isinstance(content, str) else content).hexdigest()


class FolderImages:
    """One folder a class, numbered by sorted name; images of a class sorted by path. Without folders: one class."""

    labels_N: np.ndarray | None

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            children = sorted(entry.name for entry in os.scandir(path) if not entry.name.startswith("."))
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error
        loose = [name for name in children if _is_image_name(name) and (path / name).is_file()]
        classes = [group for name in children if (path / name).is_dir() and (group := _below(path, name))]
        if loose and classes:
            raise SourceError(f"{path} holds images beside its folders of classes, for instance {loose[0]}")
        if not loose and not classes:
            raise SourceError(f"{path} holds no images ({' '.join(SUFFIXES)}), .parquet files or folders of images")
        groups = classes or [loose]
        self._names = [name for group in groups for name in group]
        self.labels_N = np.repeat(np.arange(len(groups)), [len(group) for group in groups])

    def __len__(self) -> int:
        return len(self._names)

    def identity(self) -> dict[str, Any]:
        return {"names": digest("\n".join(self._names))}

    def entries(self, start: int, stop: int) -> Iterator[tuple[str, Reader]]:
        for name in self._names[start:stop]:
            yield name, partial(_decode_file, self.path / name)


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _below(path: Path, folder: str) -> list[str]:
    """Images anywhere below a folder, as names relative to the source."""
    found = (
        os.path.join(at, name) for at, _, names in os.walk(path / folder) for name in names if _is_image_name(name)
    )
    return sorted(os.path.relpath(file, path) for file in found)


def _decode_file(file: Path, size: int | None, grey: bool) -> np.ndarray:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    return decode_image(content, size, grey)
