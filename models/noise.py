"""The noise of parallel decoding: standard Gumbel numbers with an address, so that blocks may be painted in any order.

Shapes: B images, L tokens, K codes.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.random_streams import gumbel, stream


class Noise(Protocol):
    """Standard Gumbel noise by step; None stands for none at all (argmax decoding)."""

    def draw(self, step: int) -> Tensor | None:
        """[B, L, K], added to the tempered logits when tokens are drawn."""

    def choice(self, step: int) -> Tensor | None:
        """[B, L], added to the confidence times the choice temperature."""


@dataclass(frozen=True)
class StreamNoise:
    """Noise from counter-based streams: block number, step and seed fix every number (``models.random_streams``)."""

    seed: int
    block: int
    shape_BLK: tuple[int, int, int]

    def draw(self, step: int) -> Tensor:
        return torch.from_numpy(gumbel(stream(self.seed, "draw", self.block, step), self.shape_BLK))

    def choice(self, step: int) -> Tensor:
        return torch.from_numpy(gumbel(stream(self.seed, "choice", self.block, step), self.shape_BLK[:2]))


@dataclass(frozen=True)
class DeviceNoise:
    """Noise from the device's own counter-based generator, keyed by seed, purpose, block and step.

    A canvas of 256 tokens and 1,024 codes needs a quarter of a million numbers an image and step: drawn on the host
    they would take longer than the network's passes. The same numbers in any order on one kind of device; others than
    ``StreamNoise`` draws.
    """

    seed: int
    block: int
    shape_BLK: tuple[int, int, int]
    device: torch.device | str

    def _gumbel(self, purpose: str, step: int, shape: tuple[int, ...]) -> Tensor:
        digest = hashlib.sha256(repr((int(self.seed), purpose, self.block, step)).encode()).digest()
        generator = torch.Generator(self.device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        noise = torch.empty(shape, device=self.device).exponential_(generator=generator)
        return noise.clamp_min_(1e-30).log_().neg_()

    def draw(self, step: int) -> Tensor:
        return self._gumbel("draw", step, self.shape_BLK)

    def choice(self, step: int) -> Tensor:
        return self._gumbel("choice", step, self.shape_BLK[:2])


def noise_on(device: torch.device | str, seed: int, block: int, shape_BLK: tuple[int, int, int]) -> Noise:
    """The noise that belongs to a device."""
    if torch.device(device).type == "cpu":
        return StreamNoise(seed, block, shape_BLK)
    return DeviceNoise(seed, block, shape_BLK, device)
