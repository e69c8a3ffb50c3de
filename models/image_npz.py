"""Labelled images in an .npz, as ADM's evaluation batches and many small data sets come. Streamed.

N images, C channels, H x W pixels.
"""

import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.image_crop import prepare_pixels
from models.image_sources import Reader, SourceError, digest


class NpzImages:
    """``images`` or ``arr_0`` uint8 [N, H, W, C], [N, C, H, W] or [N, H, W]; ``labels``, ``label`` or ``arr_1`` [N].

    With sides that leave the order open, channels come last. Neither a large archive nor a compressed one is ever in
    memory as a whole.
    """

    labels_N: np.ndarray | None

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = list(arrays.files)
                labels = next((name for name in ("labels", "label", "arr_1") if name in names), None)
                self.labels_N = None if labels is None else np.asarray(arrays[labels])
            member = next((name for name in ("images", "image", "arr_0") if name in names), None)
            if member is None:
                raise SourceError(f"{path} has no array images or arr_0 (arrays: {', '.join(names)})")
            self._member = f"{member}.npy"
            with zipfile.ZipFile(path) as archive, archive.open(self._member) as stream:
                self._shape, self._start = _header(path, member, stream)
                self._checksum = archive.getinfo(self._member).CRC
        except SourceError:
            raise
        except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise SourceError(f"{path} is not a whole .npz of plain arrays: {' '.join(str(error).split())}") from error
        if self.labels_N is not None:
            self.labels_N = self._checked(self.labels_N)

    def __len__(self) -> int:
        return self._shape[0]

    def identity(self) -> dict[str, Any]:
        labels = b"" if self.labels_N is None else self.labels_N.tobytes()
        return {"shape": list(self._shape), "checksum": self._checksum, "labels": digest(labels)}

    def entries(self, start: int, stop: int) -> Iterator[tuple[str, Reader]]:
        length = int(np.prod(self._shape[1:]))
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as stream:
                stream.seek(self._start + start * length)
                for place in range(start, stop):
                    content = stream.read(length)
                    if len(content) != length:
                        raise SourceError(f"{self.path} ends within image {place}")
                    pixels = np.frombuffer(content, dtype=np.uint8).reshape(self._shape[1:])
                    yield f"{self.path.name}, image {place}", partial(prepare_pixels, _channels_first(pixels))
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise SourceError(f"{self.path} is damaged: {error}") from error

    def _checked(self, labels_N: np.ndarray) -> np.ndarray:
        if labels_N.shape != self._shape[:1] or not np.issubdtype(labels_N.dtype, np.integer):
            raise SourceError(
                f"{self.path} holds {self._shape[0]} images but labels {labels_N.dtype} {labels_N.shape}, "
                "need one whole number an image"
            )
        return labels_N.astype(np.int64)


def _header(path: Path, member: str, stream: Any) -> tuple[tuple[int, ...], int]:
    """The array's shape, and where in the stream its pixels start."""
    old = np.lib.format.read_magic(stream) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype != np.uint8 or len(shape) not in (3, 4) or fortran_order or 0 in shape:
        raise SourceError(f"{path}: {member} is {dtype} {shape}, need uint8 [N, H, W, 3] in C order")
    if len(shape) == 4 and shape[3] not in (1, 3) and shape[1] not in (1, 3):
        raise SourceError(f"{path}: {member} is {shape}, need one or three channels, last or second")
    return shape, stream.tell()


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels[None]
    return pixels.transpose(2, 0, 1) if pixels.shape[2] in (1, 3) else pixels
