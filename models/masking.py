"""Training masks: how many tokens, and which ones.

B images, L tokens an image. Two published counting rules: ENAT keeps at least one token visible and shares one count
over the batch (so that visible and masked tokens fill rectangular tensors); AutoNAT may mask everything and draws a
count for each image.
"""

import numpy as np
import torch

from models.mask_ratio import MaskRatio


def masked_counts(ratios: np.ndarray, num_tokens: int, *, keep_one_visible: bool) -> np.ndarray:
    """Mask ratios to counts: round half to even of L r, at least 1, at most L - 1 (ENAT) or L (AutoNAT). int64."""
    counts = np.rint(np.asarray(ratios, dtype=np.float64) * num_tokens)
    return np.clip(counts, 1, num_tokens - 1 if keep_one_visible else num_tokens).astype(np.int64)


def draw_masked_counts(
    distribution: MaskRatio, size: int, num_tokens: int, generator: np.random.Generator, *, keep_one_visible: bool
) -> np.ndarray:
    """`size` independent counts of masked tokens, int64."""
    ratios = distribution.from_uniform(generator.random(size))
    return masked_counts(ratios, num_tokens, keep_one_visible=keep_one_visible)


def mask_from_uniform(uniform_BL: torch.Tensor, counts_B: torch.Tensor) -> torch.Tensor:
    """Boolean masks [B, L] with `counts_B` uniformly placed True entries a row.

    As both official codes do it, the sorting permutation itself is compared with the count (masked where
    ``argsort(uniform) < count``), which is as uniform as taking the smallest uniforms but another set.
    """
    return torch.argsort(uniform_BL, dim=1) < counts_B.reshape(-1, 1)


def extra_masked_count(num_visible: int, uniform: float) -> int:
    """How many of the visible tokens ENAT masks for the previous pass of its reuse mode: round(visible * u)."""
    return int(np.rint(num_visible * uniform))


def mask_further(masked_BL: torch.Tensor, uniform_BL: torch.Tensor, extra: int) -> torch.Tensor:
    """The mask [B, L] with `extra` visible tokens of every row masked too: those of the smallest uniforms.

    Every row must have at least `extra` visible tokens.
    """
    order_BL = torch.argsort(uniform_BL.masked_fill(masked_BL, float("inf")), dim=1)
    further_BL = masked_BL.clone()
    further_BL.scatter_(1, order_BL[:, :extra], True)
    return further_BL
