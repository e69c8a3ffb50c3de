"""Tokenizers: images to a grid of codes and back.

B images, L = h w tokens in row order, K codes.
"""

from typing import Protocol

import torch

from models.images import DIGITS_LEVELS


class Tokenizer(Protocol):
    """What the rest of the product needs of a tokenizer; a VQGAN fits as well as a table of grey levels."""

    codebook_size: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the token grid."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, C, H, W] to codes int64 [B, L]."""

    def decode(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Codes int64 [B, L] to uint8 [B, C, H, W]."""


class GreyLevelTokenizer:
    """Every pixel is a token and its grey level the code: lossless for scikit-learn's digits (17 levels)."""

    codebook_size = DIGITS_LEVELS

    def __init__(self, height: int = 8, width: int = 8) -> None:
        self.grid = (height, width)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        levels = torch.round(images.to(torch.float64) * ((DIGITS_LEVELS - 1) / 255))
        return levels.long().flatten(1)

    def decode(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        grey = torch.round(tokens_BL.to(torch.float64) * (255 / (DIGITS_LEVELS - 1)))
        return grey.to(torch.uint8).reshape(-1, 1, *self.grid)


def tokenizer_for(data: str) -> Tokenizer:
    """The tokenizer of a data set. Raises ValueError for a data set that has none."""
    if data == "digits":
        return GreyLevelTokenizer()
    raise ValueError(f"no tokenizer for data set {data!r}")
