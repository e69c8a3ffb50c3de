"""From a checkpoint and a schedule to images, features and statistics, block by block.

A block of samples, of fixed size, is the unit of computation: its labels and noise depend on the seed and its number
alone, so blocks may be computed anywhere and in any order. B images a block, L tokens.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from models.compiled import compiled
from models.features import DigitClassifier
from models.frechet import Reference, Statistics, distance_of_features
from models.images import ImageSet
from models.noise import Noise, noise_on
from models.random_streams import stream
from models.sample import FirstStepLogits, sample
from models.schedule import GenerationSchedule
from models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Block:
    """Samples [index * size, (index + 1) * size) of `num_blocks` blocks drawn with one seed."""

    index: int
    num_blocks: int
    size: int
    seed: int
    random_labels: bool = False


# From so many features on, a block's images are fewer numbers than their covariance.
WIDE_FEATURES = 512
# The first step's table of logits is worth its memory up to here; beyond, classes are computed like any other step.
LARGEST_TABLE_BYTES = {"cpu": 2**27, "cuda": 2**31}


class FeatureNetwork(Protocol):
    """Whatever turns images into features [B, D]; `images` says how it wants them: uint8, or float in [0, 1]."""

    @property
    def images(self) -> str: ...

    def features(self, images: Tensor) -> Tensor: ...


def labels_of(num_classes: int, block: Block) -> np.ndarray:
    """int64 [B]. Balanced: sample i has class i modulo C. Random, as published: drawn uniformly.

    Where a block is smaller than the number of classes (or captions), their order is shuffled by the seed, so that
    blocks are alike: neighbouring classes are.
    """
    if block.random_labels:
        return stream(block.seed, "labels", block.index).integers(num_classes, size=block.size)
    first = block.index * block.size
    labels = np.arange(first, first + block.size) % num_classes
    if num_classes > block.size:
        labels = stream(block.seed, "label order").permutation(num_classes)[labels]
    return labels


class Generator:
    """A network with everything around it that turns a schedule into images.

    precision: ``float32``, or ``bfloat16`` for the network's products (torch.autocast); logits are float32 in both.
    compile: the network through torch.compile (``models.compiled``).
    """

    def __init__(self, network: Any, tokenizer: Tokenizer, precision: str = "float32", compile: bool = False) -> None:
        if tokenizer.codebook_size != network.config.codebook_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.codebook_size} codes, the network {network.config.codebook_size}"
            )
        self.network, self.tokenizer, self.precision = compiled(network) if compile else network, tokenizer, precision
        self.device = next(network.parameters()).device
        self.first_logits = FirstStepLogits(self.network, LARGEST_TABLE_BYTES.get(self.device.type, 0))

    def precisely(self) -> Any:
        """A context in which the network runs at this generator's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def labels(self, block: Block) -> Tensor:
        """int64 [B], see ``labels_of``."""
        return torch.from_numpy(labels_of(self.network.config.num_classes, block)).to(self.device)

    def noise(self, block: Block) -> Noise:
        config = self.network.config
        return noise_on(self.device, block.seed, block.index, (block.size, config.num_tokens, config.codebook_size))

    def tokens(self, schedule: GenerationSchedule, block: Block, *, dithered: bool = False) -> Tensor:
        """Codes int64 [B, L]."""
        with self.precisely():
            return sample(
                self.network,
                schedule,
                self.labels(block),
                self.noise(block),
                first_logits=self.first_logits,
                dithers=dithers(schedule.num_steps, block) if dithered else None,
            )

    def decode(self, tokens_BL: Tensor, images: str = "uint8") -> Tensor:
        """Images [B, C, H, W]: ``uint8``, or ``float`` in [0, 1] for a metric that wants them unrounded."""
        return self.tokenizer.decode(tokens_BL) if images == "uint8" else self.tokenizer.decode_float(tokens_BL)

    def images(self, schedule: GenerationSchedule, block: Block, *, dithered: bool = False) -> Tensor:
        """uint8 [B, C, H, W]."""
        return self.decode(self.tokens(schedule, block, dithered=dithered))


def dithers(num_steps: int, block: Block) -> tuple[float, ...]:
    """Offsets in [0, 1) to L r(t) before the floor, stratified over the blocks of a seed and shuffled at each step.

    floor(L r) is a staircase on which small differences vanish; over the blocks the dithered count has mean L r.
    """
    offsets = []
    for step in range(num_steps):
        order = np.argsort(stream(block.seed, "dither", step).random(block.num_blocks), kind="stable")
        offsets.append((float(order[block.index]) + 0.5) / block.num_blocks)
    return tuple(offsets)


@torch.inference_mode()
def evaluate_block(
    generator: Generator, features: FeatureNetwork, schedule: GenerationSchedule, block: Block, *, dithered: bool
) -> Statistics | Tensor:
    """Feature statistics of one block's images; of wide features the features [B, D] themselves, which are smaller."""
    tokens_BL = generator.tokens(schedule, block, dithered=dithered)
    return for_distance(features.features(generator.decode(tokens_BL, features.images)))


def for_distance(features_BD: Tensor) -> Statistics | Tensor:
    """What the distance needs of a block."""
    return Statistics.of(features_BD) if features_BD.shape[1] < WIDE_FEATURES else features_BD


@torch.inference_mode()
def reference_of(features: DigitClassifier, data: ImageSet) -> Reference:
    """The training images' mean and covariance, what generated images are compared with."""
    return Reference.of(Statistics.of(features.features(torch.from_numpy(data.train_images))))


@torch.inference_mode()
def real_distance(features: DigitClassifier, data: ImageSet, parts: int = 20) -> tuple[float, float]:
    """The floor: the distance of the real test images to the training images, and its standard error over `parts`.

    A few hundred real images read high: the covariance of a small sample is off by more than that of a large one.
    """
    test_ND = features.features(torch.from_numpy(data.test_images))
    return distance_of_features(reference_of(features, data), test_ND, parts)
