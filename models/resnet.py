"""A small residual network (He et al., 2016) for small colour images: the features of FD(cifar10-resnet), never FID.

B images of S x S pixels, C channels, D features.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = 3


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """Sizes. The three stages have `width`, 2 `width` and 4 `width` channels, the last one is the features' D.

    blocks: residual blocks a stage. fine_stem: the first stage at full resolution, as published for CIFAR; four times
    the operations of beginning at half of it. image_size: pixels a side, a multiple of 8.
    """

    width: int = 32
    blocks: int = 1
    fine_stem: bool = False
    num_classes: int = 10
    image_size: int = 32

    def __post_init__(self) -> None:
        for name in ("width", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {self.num_classes}")
        if self.image_size < 8 or self.image_size % 8:
            raise ValueError(f"image_size must be a multiple of 8, got {self.image_size}")

    @property
    def dimensions(self) -> int:
        """D, the features of an image."""
        return self.width * 2 ** (STAGES - 1)


class Convolution(nn.Module):
    """A convolution and its batch normalisation, or, `folded`, the one convolution that both are after training."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, folded: bool) -> None:
        super().__init__()
        padding = (kernel - stride + 1) // 2
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=folded)
        self.norm = nn.Identity() if folded else nn.BatchNorm2d(outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.convolution(images))


class ResidualBlock(nn.Module):
    """relu(x + convolutions(x)); where sizes change, x goes through a convolution of its own."""

    def __init__(self, inputs: int, outputs: int, stride: int, folded: bool) -> None:
        super().__init__()
        self.first = Convolution(inputs, outputs, 3, stride, folded)
        self.second = Convolution(outputs, outputs, 3, 1, folded)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else Convolution(inputs, outputs, stride, stride, folded)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.shortcut(images) + self.second(F.relu(self.first(images))), inplace=True)


class ResNet(nn.Module):
    """The network; `folded` is the form in which it is saved and measures: no batch normalisation, nothing random."""

    def __init__(self, config: ResNetConfig, *, folded: bool = True) -> None:
        super().__init__()
        self.config = config
        width = config.width
        kernel, stride = (3, 1) if config.fine_stem else (4, 2)
        self.stem = Convolution(3, width, kernel, stride, folded)
        blocks: list[nn.Module] = []
        for stage in range(STAGES):
            outputs = width * 2**stage
            for block in range(config.blocks):
                inputs = outputs // 2 if block == 0 and stage > 0 else outputs
                blocks.append(ResidualBlock(inputs, outputs, 2 if inputs < outputs else 1, folded))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(config.dimensions, config.num_classes)
        # The training images' mean and spread by channel, in bytes.
        self.pixel_mean: Tensor
        self.pixel_spread: Tensor
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 127.5))
        self.register_buffer("pixel_spread", torch.full((3, 1, 1), 64.0))
        # Brings the real images' covariance to trace D, so that distances have a readable size.
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] as the convolutions take them, float32."""
        return (images.to(torch.float32) - self.pixel_mean) / self.pixel_spread

    def pooled(self, normalised: Tensor) -> Tensor:
        """The penultimate activations [B, D]: means over the last stage's places."""
        return self.blocks(F.relu(self.stem(normalised))).mean(dim=(2, 3))

    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] to float32 [B, D]."""
        return self.pooled(self.normalised(images)) * self.scale

    def forward(self, normalised: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images."""
        return self.head(self.pooled(normalised))


def initialise(network: ResNet, generator: torch.Generator) -> ResNet:
    """Random weights (He et al., 2015) from one generator."""
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight, generator=generator)
                if part.bias is not None:
                    part.bias.zero_()
    return network


def folded(network: ResNet) -> ResNet:
    """The trained network with every batch normalisation in its convolution, on the CPU in evaluation mode."""
    network = network.cpu().eval()
    result = ResNet(network.config)
    tensors = {name: value for name, value in network.state_dict().items() if name in result.state_dict()}
    for name, part in network.named_modules():
        if isinstance(part, Convolution) and isinstance(part.norm, nn.BatchNorm2d):
            fused = nn.utils.fuse_conv_bn_eval(part.convolution, part.norm)
            assert fused.bias is not None
            tensors |= {f"{name}.convolution.weight": fused.weight, f"{name}.convolution.bias": fused.bias}
    result.load_state_dict(tensors)
    return result.eval()
