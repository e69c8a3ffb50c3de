"""Tokenizers: images to a grid of codes and back.

B images, L = h w tokens in row order, K codes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from models.images import DIGITS_LEVELS

if TYPE_CHECKING:
    from models.vq_autoencoder import VQAutoencoder
    from models.vqgan import VQGAN


class Tokenizer(Protocol):
    """What the rest of the product needs of a tokenizer; a network fits as well as a table of grey levels."""

    codebook_size: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the images' pixels."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the token grid."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, C, H, W] to codes int64 [B, L]."""

    def decode(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Codes int64 [B, L] to uint8 [B, C, H, W]."""

    def decode_float(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Codes int64 [B, L] to float32 [B, C, H, W] in [0, 1], for metrics that want images unrounded."""


class GreyLevelTokenizer:
    """Every pixel is a token and its grey level the code: lossless for scikit-learn's digits (17 levels)."""

    codebook_size = DIGITS_LEVELS

    def __init__(self, height: int = 8, width: int = 8) -> None:
        self.size = self.grid = (height, width)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        levels = torch.round(images.to(torch.float64) * ((DIGITS_LEVELS - 1) / 255))
        return levels.long().flatten(1)

    def decode(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        grey = torch.round(tokens_BL.to(torch.float64) * (255 / (DIGITS_LEVELS - 1)))
        return grey.to(torch.uint8).reshape(-1, 1, *self.grid)

    def decode_float(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        return (tokens_BL.to(torch.float32) / (DIGITS_LEVELS - 1)).reshape(-1, 1, *self.grid)


class NetworkTokenizer:
    """MaskGIT's VQGAN, or an autoencoder of ours, for images of one size, on one device.

    Images go through the network a few at a time (about ``pixels_at_once`` pixels), so that memory does not grow with
    the batch: 2**19 pixels are eight images of 256x256, about 1.5 GB at the VQGAN's published size. Tokens and images
    come back on the device they were given on.
    """

    def __init__(
        self,
        network: "VQGAN | VQAutoencoder",
        height: int = 256,
        width: int = 256,
        device: torch.device | str = "cpu",
        pixels_at_once: int = 2**19,
    ) -> None:
        factor = network.config.downsampling
        if min(height, width) < 1 or height % factor or width % factor:
            raise ValueError(f"this tokenizer needs image sides that are multiples of {factor}, got {height}x{width}")
        self.network: Any = network.eval().requires_grad_(False).to(device)
        self.codebook_size = network.config.codebook_size
        self.grid = (height // factor, width // factor)
        self.size = (height, width)
        self._device = torch.device(device)
        self._images_at_once = max(1, pixels_at_once // (height * width))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, C, H, W] to codes int64 [B, L]. Raises ValueError for another type or size."""
        expected = (self.network.config.image_channels, *self.size)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"need uint8 images [B, {', '.join(map(str, expected))}], got {images.dtype} {images.shape}"
            )
        tokens_BL = torch.empty(len(images), self.grid[0] * self.grid[1], dtype=torch.int64, device=images.device)
        for part in self._parts(len(images)):
            scaled = images[part].to(self._device, self._dtype) / 255
            with torch.no_grad():
                tokens_BL[part] = self.network.encode(scaled).flatten(1).to(images.device)
        return tokens_BL

    def decode(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Codes int64 [B, L] to uint8 [B, C, H, W], halves rounded up. Raises ValueError for what is not a code."""
        images = self._empty(tokens_BL, torch.uint8)
        for part in self._parts(len(tokens_BL)):
            images[part] = (self._decoded(tokens_BL[part]) * 255 + 0.5).to(torch.uint8).to(images.device)
        return images

    def decode_float(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Codes int64 [B, L] to float32 [B, C, H, W] in [0, 1], for protocols that do not round to bytes."""
        images = self._empty(tokens_BL, torch.float32)
        for part in self._parts(len(tokens_BL)):
            images[part] = self._decoded(tokens_BL[part]).to(images.device, torch.float32)
        return images

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def _parts(self, count: int) -> list[slice]:
        return [slice(start, start + self._images_at_once) for start in range(0, count, self._images_at_once)]

    def _empty(self, tokens_BL: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        rows, columns = self.grid
        if tokens_BL.dim() != 2 or tokens_BL.shape[1] != rows * columns:
            raise ValueError(f"need tokens [B, {rows * columns}], got {tuple(tokens_BL.shape)}")
        shape = (len(tokens_BL), self.network.config.image_channels, *self.size)
        return torch.empty(shape, dtype=dtype, device=tokens_BL.device)

    def _decoded(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        codes_Bhw = tokens_BL.to(self._device).view(-1, *self.grid)
        with torch.no_grad():
            return self.network.decode(codes_Bhw).clamp(0, 1)


def load_tokenizer_network(path: Path) -> "VQGAN | VQAutoencoder":
    """A tokenizer's network from a file: `autonat train-tokenizer`'s says so in its header, any other must be a VQGAN.

    Raises CheckpointError, which names the file, for one that holds neither.
    """
    from models.checkpoint import CheckpointError, load_metadata
    from models.vq_autoencoder import load_vq_autoencoder
    from models.vqgan_checkpoint import load_vqgan

    if path.suffix == ".safetensors":
        metadata = load_metadata(path)
        network = metadata.get("network")
        kind = network.get("kind") if isinstance(network, dict) else None
        if kind == "vq_autoencoder":
            return load_vq_autoencoder(path)
        if metadata and kind != "vqgan":  # of this project, and something else
            raise CheckpointError(f"{path} holds no tokenizer" + (f" but a network of kind {kind}" if kind else ""))
    return load_vqgan(path)


def load_tokenizer(path: Path, size: int | None = None, device: torch.device | str = "cpu") -> NetworkTokenizer:
    """The tokenizer of a file, for square images of ``size`` pixels (default: what it was trained on, a VQGAN 256).

    Raises CheckpointError for a file that is not one and ValueError for a size that does not fit it.
    """
    network = load_tokenizer_network(path)
    pixels = size or int(getattr(network.config, "image_size", 256))
    return NetworkTokenizer(network, pixels, pixels, device)


def open_tokenizer(name: str, size: int | None = None, device: torch.device | str = "cpu") -> Tokenizer:
    """``digits`` (``size`` 8 unless given), or the path of a network's file (see load_tokenizer).

    Raises CheckpointError for a file that is not one and ValueError for a size that does not fit it.
    """
    if name == "digits":
        return GreyLevelTokenizer(size or 8, size or 8)
    return load_tokenizer(Path(name), size, device)
