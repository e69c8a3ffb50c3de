"""Position embeddings that begin with what neighbours on a grid have in common."""

import math

import torch
from torch import Tensor


def check_grid(num_tokens: int, width: int) -> None:
    """Raises ValueError where tokens do not lie on a square grid or the width does not divide into four parts."""
    if width % 4 or math.isqrt(num_tokens) ** 2 != num_tokens:
        raise ValueError("sinusoidal positions need a square grid and a width that is a multiple of 4")


def sinusoidal_grid(num_tokens: int, width: int) -> Tensor:
    """[L, D]: sines and cosines of row and column, a quarter of the width each.

    Waves from four cells to nearly four grids, the nearer the wider the network; a narrow one on a large grid (width 8,
    side 64) has cells that begin alike.
    """
    side, quarter = math.isqrt(num_tokens), width // 4
    frequencies = math.pi / 2 * side ** -(torch.arange(quarter) / quarter)
    angles = torch.arange(side)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(num_tokens, width)
