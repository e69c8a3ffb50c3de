"""From a checkpoint and a schedule to images, features and statistics, block by block.

A block of samples, of fixed size, is the unit of computation: its labels and noise depend on the seed and its number
alone, so blocks may be computed anywhere and in any order. B images a block, L tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.features import DigitClassifier
from models.frechet import Reference, Statistics, standard_error
from models.images import ImageSet
from models.random_streams import stream
from models.sample import StreamNoise, first_step_logits, sample
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


class Generator:
    """A network with everything around it that turns a schedule into images."""

    def __init__(self, network: Any, tokenizer: Tokenizer) -> None:
        if tokenizer.codebook_size != network.config.codebook_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.codebook_size} codes, the network {network.config.codebook_size}"
            )
        self.network, self.tokenizer = network, tokenizer
        self.first_logits = first_step_logits(network)

    def labels(self, block: Block) -> Tensor:
        """int64 [B]. Balanced: sample i has class i modulo C. Random, as published: drawn uniformly."""
        num_classes = self.network.config.num_classes
        if block.random_labels:
            return torch.from_numpy(stream(block.seed, "labels", block.index).integers(num_classes, size=block.size))
        first = block.index * block.size
        return torch.arange(first, first + block.size) % num_classes

    def noise(self, block: Block) -> StreamNoise:
        config = self.network.config
        return StreamNoise(block.seed, block.index, (block.size, config.num_tokens, config.codebook_size))

    def tokens(self, schedule: GenerationSchedule, block: Block, *, dithered: bool = False) -> Tensor:
        """Codes int64 [B, L]."""
        return sample(
            self.network,
            schedule,
            self.labels(block),
            self.noise(block),
            first_logits=self.first_logits,
            dithers=dithers(schedule.num_steps, block) if dithered else None,
        )

    def images(self, schedule: GenerationSchedule, block: Block, *, dithered: bool = False) -> Tensor:
        """uint8 [B, C, H, W]."""
        return self.tokenizer.decode(self.tokens(schedule, block, dithered=dithered))


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
    generator: Generator, features: DigitClassifier, schedule: GenerationSchedule, block: Block, *, dithered: bool
) -> Statistics:
    """Feature statistics of one block's images."""
    return Statistics.of(features.features(generator.images(schedule, block, dithered=dithered)))


@torch.inference_mode()
def reference_of(features: DigitClassifier, data: ImageSet) -> Reference:
    """The training images' mean and covariance, what generated images are compared with."""
    return Reference.of(Statistics.of(features.features(torch.from_numpy(data.train_images))))


@torch.inference_mode()
def real_distance(features: DigitClassifier, data: ImageSet, parts: int = 20) -> tuple[float, float]:
    """The floor: the distance of the real test images to the training images, and its standard error over `parts`.

    A few hundred real images read high: the covariance of a small sample is off by more than that of a large one.
    """
    images = features.features(torch.from_numpy(data.test_images))
    statistics, reference = Statistics.of(images), reference_of(features, data)
    influence = reference.influence(statistics)
    shares = [float(influence.of_features(part).mean()) for part in images.tensor_split(parts)]
    return reference.distance(statistics.mean, statistics.covariance), standard_error(shares)
