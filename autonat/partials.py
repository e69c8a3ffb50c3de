"""Blocks of evaluations in wide features, on disk until the evaluation is whole.

50,000 images of 2,048 features are 400 MB, and their blocks' covariances 16 GB: neither has to fit into memory. What is
finished also survives a kill in the middle of an evaluation that takes an hour (not where an Inception Score is taken
of the same images, whose logits are not kept: their blocks are painted again).
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autonat.storage.artifacts import Artifacts
from models.whole_files import whole_file


class Partials:
    """Features [B, D] by evaluation (its fingerprint) and block. Files are whole or absent."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._folder_of = artifacts.partials_path

    def _path(self, fingerprint: str, block: int) -> Path:
        return self._folder_of(fingerprint) / f"{block}.npy"

    def known(self, fingerprint: str) -> set[int]:
        """The blocks that are there; one that cannot be read is removed, and so computed again."""
        found = set()
        for path in self._folder_of(fingerprint).glob("[0-9]*.npy"):
            try:
                np.load(path, mmap_mode="r", allow_pickle=False)
                found.add(int(path.stem))
            except (OSError, ValueError, EOFError):
                path.unlink(missing_ok=True)
        return found

    def keep(self, fingerprint: str, block: int, features_BD: Tensor) -> None:
        path = self._path(fingerprint, block)
        for attempt in range(2):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with whole_file(path) as temporary, open(temporary, "wb") as handle:
                    np.save(handle, features_BD.numpy(), allow_pickle=False)
                return
            except FileNotFoundError:  # another driver has recorded this evaluation and removed the folder
                if attempt:
                    raise

    def blocks(self, fingerprint: str, count: int) -> Iterator[Tensor]:
        """All blocks in order, one in memory at a time."""
        for block in range(count):
            yield self.read(fingerprint, block)

    def read(self, fingerprint: str, block: int) -> Tensor:
        return torch.from_numpy(np.load(self._path(fingerprint, block), allow_pickle=False))

    def forget(self, fingerprint: str) -> None:
        shutil.rmtree(self._folder_of(fingerprint), ignore_errors=True)
