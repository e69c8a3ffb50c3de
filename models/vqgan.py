"""The VQGAN of MaskGIT and MAGE: images to a grid of codes and back (Esser et al., 2021; Chang et al., 2022).

B images, C channels, D width of a code, K codes, h x w the grid of codes, H x W pixels.

Equal to the PyTorch port that AutoNAT, ENAT and MUSE use (``vqgan_jax_strongaug.ckpt``), with its key names. Against
the better known CompVis network it has no convolution around the codebook, no attention anywhere, no bias in the
convolutions of its residual blocks and in the encoder's first one, average pooling without parameters on the way down,
and a shortcut that acts on a block's RESULT where the width changes. Images live in [0, 1].
"""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

GROUPS = 32  # of every group normalisation


@dataclass(frozen=True, slots=True)
class VQGANConfig:
    """Sizes of a VQGAN; the defaults are those of the published f16 tokenizer with 1,024 codes.

    ``multipliers`` give the width of each level as multiples of ``channels``; each level but the last halves the image.
    """

    kind: Literal["vqgan"] = "vqgan"
    codebook_size: int = 1024
    code_width: int = 256
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks_per_level: int = 2
    image_channels: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        sizes = (self.codebook_size, self.code_width, self.channels, self.blocks_per_level, self.image_channels)
        if min(sizes) < 1 or not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"every size of a VQGAN must be at least 1: {self}")
        if any(self.channels * multiplier % GROUPS for multiplier in self.multipliers):
            raise ValueError(f"the widths of a VQGAN must be multiples of {GROUPS}, got {self.widths}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a token: 16 in the published tokenizer."""
        return 2 ** (len(self.multipliers) - 1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"multipliers": list(self.multipliers)}

    @staticmethod
    def of(tensors: dict[str, torch.Tensor]) -> "VQGANConfig":
        """The sizes of a state dict. Raises ValueError where its tensors are not those of such a network."""
        if any(key.startswith(("quant_conv.", "post_quant_conv.")) for key in tensors):
            raise ValueError("it holds CompVis' variant of a VQGAN (quant_conv), not MaskGIT's")
        try:
            codebook_size, code_width = tensors["quantize.embedding.weight"].shape
            channels, image_channels = tensors["encoder.conv_in.weight"].shape[:2]
            found = [re.fullmatch(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", key) for key in tensors]
            places = [(int(match[1]), int(match[2])) for match in found if match]
            levels, blocks = (max(numbers) + 1 for numbers in zip(*places, strict=True))
            widths = [tensors[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
        except (KeyError, ValueError) as error:
            raise ValueError(f"it does not hold the tensors of a VQGAN ({error})") from error
        if any(width % channels for width in widths):
            raise ValueError(f"the widths {widths} of its levels are not multiples of {channels}")
        multipliers = tuple(width // channels for width in widths)
        return VQGANConfig("vqgan", codebook_size, code_width, channels, multipliers, blocks, image_channels)


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions; where the width changes, a 1x1 convolution of the result takes the input's place."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width_in, eps=1e-6)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, width_out, eps=1e-6)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(width_out, width_out, 1, bias=False) if width_in != width_out else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result = self.conv1(F.silu(self.norm1(images)))
        result = self.conv2(F.silu(self.norm2(result)))
        return result + (images if self.nin_shortcut is None else self.nin_shortcut(result))


class _Level(nn.Module):
    """The residual blocks of one resolution and, on the way up, what doubles the image after them."""

    def __init__(self, blocks: int, width_in: int, width_out: int, doubles: bool = False) -> None:
        super().__init__()
        self.block = nn.ModuleList(_ResidualBlock(width_out if i else width_in, width_out) for i in range(blocks))
        self.upsample = _Doubling(width_out) if doubles else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for block in self.block:
            images = block(images)
        return images if self.upsample is None else self.upsample(images)


class _Doubling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(images, scale_factor=2.0, mode="nearest"))


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = _ResidualBlock(width, width)
        self.block_2 = _ResidualBlock(width, width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.block_1(images))


class _Encoder(nn.Module):
    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.image_channels, config.channels, 3, padding=1, bias=False)
        entering = (config.channels, *widths[:-1])
        self.down = nn.ModuleList(
            _Level(config.blocks_per_level, before, width) for before, width in zip(entering, widths, strict=True)
        )
        self.mid = _Middle(widths[-1])
        self.norm_out = nn.GroupNorm(GROUPS, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config.code_width, 1)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        features = self.conv_in(images_BCHW)
        for number, level in enumerate(self.down):
            if number:
                features = F.avg_pool2d(features, 2)
            features = level(features)
        features = self.mid(features)
        return self.conv_out(F.silu(self.norm_out(features)))


class _Decoder(nn.Module):
    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.code_width, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1])
        entering = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(
            _Level(config.blocks_per_level, before, width, doubles=number > 0)
            for number, (before, width) in enumerate(zip(entering, widths, strict=True))
        )
        self.norm_out = nn.GroupNorm(GROUPS, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], config.image_channels, 3, padding=1)

    def forward(self, codes_BDhw: torch.Tensor) -> torch.Tensor:
        features = self.mid(self.conv_in(codes_BDhw))
        for level in reversed(self.up):
            features = level(features)
        return self.conv_out(F.silu(self.norm_out(features)))


class _Codebook(nn.Module):
    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.code_width)

    def nearest(self, features_BDhw: torch.Tensor) -> torch.Tensor:
        """The number of the nearest code at each place, int64 [B, h, w]; the lowest number among equals."""
        features_NV = features_BDhw.movedim(1, -1).flatten(0, 2)
        codes_KV = self.embedding.weight
        squared_NK = features_NV.square().sum(1, keepdim=True) + codes_KV.square().sum(1)
        distance_NK = torch.addmm(squared_NK, features_NV, codes_KV.T, alpha=-2)
        return distance_NK.argmin(1).view(features_BDhw.shape[0], *features_BDhw.shape[2:])


class VQGAN(nn.Module):
    """Encoder, codebook and decoder; weights are uninitialised until a state dict is loaded."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quantize = _Codebook(config)

    def encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1], float [B, C, H, W], to codes int64 [B, h, w].

        Raises ValueError for images of another number of channels or whose sides the downsampling does not divide.
        """
        return self.quantize.nearest(self.features(images_BCHW))

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """What the codebook is compared with: the encoder's output [B, D, h, w]."""
        channels, factor = self.config.image_channels, self.config.downsampling
        shape = tuple(images_BCHW.shape)
        if (
            len(shape) != 4
            or shape[1] != channels
            or not shape[2]
            or not shape[3]
            or shape[2] % factor
            or shape[3] % factor
        ):
            raise ValueError(f"need images [B, {channels}, H, W] with sides divisible by {factor}, got {shape}")
        return self.encoder(images_BCHW)

    def look_up(self, codes_Bhw: torch.Tensor) -> torch.Tensor:
        """Code vectors [B, D, h, w] of codes int64 [B, h, w]. Raises ValueError for codes outside the codebook."""
        check_codes(codes_Bhw, self.config.codebook_size)
        return self.quantize.embedding(codes_Bhw).movedim(-1, 1)

    def decode(self, codes_Bhw: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W], about [0, 1] but not clamped. Raises ValueError for codes outside the codebook."""
        return self.decoder(self.look_up(codes_Bhw).contiguous())

    def quantisation_loss(self, features_BDhw: torch.Tensor, beta: float = 0.25) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes' vectors [B, D, h, w], the gradient passed straight through, and the loss that trains both sides.

        van den Oord et al. (2017), eq. 3, with ``beta`` on the codebook's term instead of the commitment's, as the
        official code has it (it calls that legacy).
        """
        codes_BDhw = self.look_up(self.quantize.nearest(features_BDhw))
        loss = F.mse_loss(features_BDhw, codes_BDhw.detach()) + beta * F.mse_loss(codes_BDhw, features_BDhw.detach())
        return features_BDhw + (codes_BDhw - features_BDhw).detach(), loss


def check_codes(codes: torch.Tensor, codebook_size: int) -> None:
    """Raises ValueError unless all codes are whole numbers from 0 to codebook_size - 1."""
    if codes.is_floating_point() or codes.is_complex():
        raise ValueError(f"codes must be whole numbers, got {codes.dtype}")
    if codes.numel():
        low, high = (int(bound) for bound in torch.aminmax(codes))
        if low < 0 or high >= codebook_size:
            wrong = low if low < 0 else high
            raise ValueError(f"token {wrong} is outside the codebook of {codebook_size} codes")
