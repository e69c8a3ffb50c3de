"""Quantisers: feature vectors to codes and back, for the autoencoder of models/vq_autoencoder.py.

N vectors, D width of a vector, K codes.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VectorQuantizer(nn.Module):
    """A learned codebook: a vector becomes the nearest code (van den Oord et al., 2017).

    The codebook follows the vectors by exponential moving averages (appendix A.1 there) and gets no gradient. A code
    whose average use falls below ``dead_below`` of an even share is put where one of the batch's vectors is. All codes
    are dead in the beginning, so the first batch places the codebook.
    """

    codebook_KD: Tensor
    counts_K: Tensor
    sums_KD: Tensor

    def __init__(self, codebook_size: int, width: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.register_buffer("codebook_KD", torch.zeros(codebook_size, width))
        self.register_buffer("counts_K", torch.zeros(codebook_size))
        self.register_buffer("sums_KD", torch.zeros(codebook_size, width))

    def nearest(self, vectors_ND: Tensor) -> Tensor:
        """The number of the nearest code, int64 [N]; the lowest number among equals."""
        # The vector's own square is the same for all codes.
        half_squares_K = 0.5 * self.codebook_KD.square().sum(1)
        return torch.addmm(half_squares_K, vectors_ND, self.codebook_KD.T, alpha=-1).argmin(1)

    def look_up(self, codes_N: Tensor) -> Tensor:
        """Code vectors [N, D] of codes int64 [N]."""
        return F.embedding(codes_N, self.codebook_KD)

    def forward(self, vectors_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Code vectors [N, D], the gradient passed straight through, and the commitment loss (eq. 3, third term)."""
        codes_ND = self.look_up(self.nearest(vectors_ND))
        return vectors_ND + (codes_ND - vectors_ND).detach(), F.mse_loss(vectors_ND, codes_ND)

    @torch.no_grad()
    def follow(self, vectors_ND: Tensor, decay: float) -> None:
        """Move the codebook: counts and sums of the vectors nearest to each code, averaged over batches."""
        # A product with one-hot rows, as sums by index come in no fixed order on a GPU.
        chosen_NK = F.one_hot(self.nearest(vectors_ND), self.codebook_size).to(vectors_ND.dtype)
        self.counts_K.lerp_(chosen_NK.sum(0), 1 - decay)
        self.sums_KD.lerp_(chosen_NK.T @ vectors_ND, 1 - decay)
        self.codebook_KD.copy_(self.sums_KD / self.counts_K.clamp(min=1e-12)[:, None])

    @torch.no_grad()
    def revive(self, vectors_ND: Tensor, order_N: Tensor, dead_below: float) -> None:
        """Put dead codes at vectors of a batch, each at one of its own: order_N is a random order of the vectors."""
        share = len(vectors_ND) / self.codebook_size
        dead_K = self.counts_K <= dead_below * share
        picked_KD = vectors_ND[order_N[torch.arange(self.codebook_size, device=order_N.device) % len(order_N)]]
        self.codebook_KD.copy_(torch.where(dead_K[:, None], picked_KD, self.codebook_KD))
        self.counts_K.masked_fill_(dead_K, share)
        self.sums_KD.copy_(torch.where(dead_K[:, None], picked_KD * share, self.sums_KD))


class FiniteScalarQuantizer(nn.Module):
    """A fixed grid: each of a few numbers is squashed and rounded to one of its levels (Mentzer et al., 2024, sec. 3).

    Code k has the digits of k in the mixed radix ``levels``, the first the fastest. There is nothing to learn.
    """

    levels_D: Tensor
    places_D: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.codebook_size = math.prod(levels)
        places = [math.prod(levels[:number]) for number in range(len(levels))]
        self.register_buffer("levels_D", torch.tensor(levels), persistent=False)
        self.register_buffer("places_D", torch.tensor(places), persistent=False)

    def nearest(self, vectors_ND: Tensor) -> Tensor:
        """Codes int64 [N]."""
        return (self._digits(vectors_ND).round().long() * self.places_D).sum(1)

    def look_up(self, codes_N: Tensor) -> Tensor:
        """Grid points [N, D], float32 in [-1, 1], of codes int64 [N]."""
        return self._scaled((codes_N[:, None] // self.places_D % self.levels_D).float())

    def forward(self, vectors_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Grid points [N, D], the gradient passed straight through the rounding, and no loss."""
        digits_ND = self._digits(vectors_ND)
        rounded_ND = digits_ND + (digits_ND.round() - digits_ND).detach()
        return self._scaled(rounded_ND), vectors_ND.new_zeros(())

    def _digits(self, vectors_ND: Tensor) -> Tensor:
        """Between the first level's lower edge and the last one's upper edge, so that all levels are alike."""
        half_D = 0.5 * self.levels_D - 1e-3
        return torch.tanh(vectors_ND) * half_D + 0.5 * (self.levels_D - 1)

    def _scaled(self, digits_ND: Tensor) -> Tensor:
        return digits_ND / (0.5 * (self.levels_D - 1)) - 1
