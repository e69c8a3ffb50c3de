"""A small autoencoder of small images whose middle is a grid of codes: the tokenizer that people train themselves.

B images, C channels, D width of a code's vector, h x w the grid of codes, H x W pixels.

Against the VQGAN (models/vqgan.py) it folds patches of pixels into channels before anything else, so that nearly all
work is done on small grids: it is meant to be trained on 32x32 images in minutes of one CPU core.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import CheckpointError, load_tensors, save_tensors
from models.quantizers import FiniteScalarQuantizer, VectorQuantizer
from models.vqgan import check_codes

GROUP_WIDTH = 16  # channels that are normalised together


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """Sizes of the autoencoder.

    image_size: pixels a side of the images it is for. patch: pixels a side that become channels first. widths: channels
    of each level, the finest first; each level but the last halves the grid. encoder_blocks, decoder_blocks: residual
    blocks of each level. quantizer: `vq` has `codebook_size` learned codes of `code_width` numbers, `fsq` a fixed grid
    of `levels`, whose product is then the codebook's size and whose number is the width.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["vq_autoencoder"] = "vq_autoencoder"
    image_size: int = 32
    image_channels: int = 3
    patch: int = 2
    widths: tuple[int, ...] = (64, 128)
    encoder_blocks: tuple[int, ...] = (1, 1)
    decoder_blocks: tuple[int, ...] = (1, 2)
    quantizer: Literal["vq", "fsq"] = "vq"
    codebook_size: int = 512
    code_width: int = 16
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("widths", "encoder_blocks", "decoder_blocks", "levels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("image_size", "image_channels", "patch", "code_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.widths or any(width < 1 or width % GROUP_WIDTH for width in self.widths):
            raise ValueError(f"widths must be multiples of {GROUP_WIDTH}, one a level, got {list(self.widths)}")
        for name in ("encoder_blocks", "decoder_blocks"):
            blocks = getattr(self, name)
            if len(blocks) != len(self.widths) or min(blocks) < 0:
                raise ValueError(f"{name} needs one number from 0 on for each of {len(self.widths)} widths")
        if self.image_size % self.downsampling:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {self.downsampling} pixels a code")
        if self.quantizer not in ("vq", "fsq"):
            raise ValueError(f"quantizer must be 'vq' or 'fsq', got {self.quantizer!r}")
        if self.quantizer == "vq" and self.levels:
            raise ValueError("levels belong to quantizer fsq")
        if self.quantizer == "fsq":
            if not self.levels or min(self.levels) < 2:
                raise ValueError(f"quantizer fsq needs levels of at least 2 each, got {list(self.levels)}")
            if math.prod(self.levels) != self.codebook_size or len(self.levels) != self.code_width:
                raise ValueError(
                    f"levels {list(self.levels)} are {math.prod(self.levels)} codes of width {len(self.levels)}, "
                    f"codebook_size says {self.codebook_size} and code_width {self.code_width}"
                )
        if self.codebook_size < 2:
            raise ValueError(f"codebook_size must be at least 2, got {self.codebook_size}")

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a code."""
        return self.patch * 2 ** (len(self.widths) - 1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(width // GROUP_WIDTH, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(width // GROUP_WIDTH, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # begins as the identity
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(features)))
        return features + self.conv2(F.silu(self.norm2(hidden)))


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [_ResidualBlock(width) for _ in range(count)]


def _end(width: int, channels: int, kernel: int) -> list[nn.Module]:
    return [
        nn.GroupNorm(width // GROUP_WIDTH, width),
        nn.SiLU(),
        nn.Conv2d(width, channels, kernel, padding=kernel // 2),
    ]


def _encoder(config: AutoencoderConfig) -> nn.Sequential:
    widths = config.widths
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(config.patch),
        nn.Conv2d(config.image_channels * config.patch**2, widths[0], 3, padding=1),
    ]
    for level, (width, count) in enumerate(zip(widths, config.encoder_blocks, strict=True)):
        if level:
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * widths[level - 1], width, 1)]
        layers += _blocks(width, count)
    return nn.Sequential(*layers, *_end(widths[-1], config.code_width, 1))


def _decoder(config: AutoencoderConfig) -> nn.Sequential:
    widths = config.widths
    layers: list[nn.Module] = [nn.Conv2d(config.code_width, widths[-1], 3, padding=1)]
    for level in reversed(range(len(widths))):
        layers += _blocks(widths[level], config.decoder_blocks[level])
        if level:
            layers += [nn.Conv2d(widths[level], 4 * widths[level - 1], 1), nn.PixelShuffle(2)]
    layers += _end(widths[0], config.image_channels * config.patch**2, 3)
    return nn.Sequential(*layers, nn.PixelShuffle(config.patch))


class VQAutoencoder(nn.Module):
    """Encoder, quantiser and decoder. Images are float in [0, 1], as a VQGAN has them."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _encoder(config), _decoder(config)
        self.quantizer: VectorQuantizer | FiniteScalarQuantizer
        if config.quantizer == "vq":
            self.quantizer = VectorQuantizer(config.codebook_size, config.code_width)
        else:
            self.quantizer = FiniteScalarQuantizer(config.levels)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """What is quantised: float [B h w, D], places in row order. Raises ValueError for images that do not fit."""
        channels, factor, shape = self.config.image_channels, self.config.downsampling, tuple(images_BCHW.shape)
        if len(shape) != 4 or shape[1] != channels or any(side < 1 or side % factor for side in shape[2:]):
            raise ValueError(f"need images [B, {channels}, H, W] with sides divisible by {factor}, got {shape}")
        centred = (2 * images_BCHW - 1).contiguous(memory_format=torch.channels_last)
        return self.encoder(centred).movedim(1, -1).flatten(0, 2)

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Images in [0, 1], float [B, C, H, W], to codes int64 [B, h, w]. Raises ValueError where they do not fit."""
        rows, columns = (side // self.config.downsampling for side in images_BCHW.shape[-2:])
        return self.quantizer.nearest(self.features(images_BCHW)).view(-1, rows, columns)

    def decode(self, codes_Bhw: Tensor) -> Tensor:
        """Images [B, C, H, W], about [0, 1] but not clamped. Raises ValueError for codes outside the codebook."""
        check_codes(codes_Bhw, self.config.codebook_size)
        return self.paint(self.quantizer.look_up(codes_Bhw.flatten()), codes_Bhw.shape[1:])

    def paint(self, vectors_ND: Tensor, grid: torch.Size | tuple[int, int]) -> Tensor:
        """Images [B, C, H, W] of the vectors of a grid's places, N = B h w, in row order."""
        # Seen as [B, D, h, w] these lie as channels_last has them.
        vectors_BDhw = vectors_ND.view(-1, *grid, self.config.code_width).movedim(-1, 1)
        return 0.5 * self.decoder(vectors_BDhw) + 0.5


def save_vq_autoencoder(path: Path, network: VQAutoencoder, facts: dict[str, Any] | None = None) -> None:
    """Write weights and sizes; ``facts`` is plain JSON that says where they come from."""
    save_tensors(path, network.state_dict(), {"network": network.config.to_dict(), "tokenizer": facts or {}})


def load_vq_autoencoder(path: Path) -> VQAutoencoder:
    """The network of a file, in evaluation mode, frozen. Raises CheckpointError where it is not one."""
    tensors, metadata = load_tensors(path)
    try:
        network = VQAutoencoder(AutoencoderConfig(**metadata["network"]))
        network.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not hold an autoencoder of this project: {reason}") from error
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
