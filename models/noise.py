"""Decoding noise drawn on an accelerator. On the CPU ``models.sample.StreamNoise`` draws it.

A canvas of 256 tokens and 1,024 codes needs a quarter of a million numbers an image and step: drawn on the host they
would take longer than the network's passes.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DeviceNoise:
    """Standard Gumbel noise from the device's own counter-based generator, keyed by seed, purpose, block and step.

    The same numbers in any order on one kind of device; others than the CPU's.
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
