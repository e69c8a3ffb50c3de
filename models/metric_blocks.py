"""Metrics that look at single images (IS, KID, precision and recall), block by block like everything else.

B images a block, N in all, D features, C classes of Inception. Blocks hand over the rows that a sample of all images
holds, so 50,000 x 2,048 features are never together; the Inception Score takes every image's logits, as published.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.evaluate import Block, Generator, for_distance, labels_of
from models.features import DigitClassifier
from models.frechet import Statistics
from models.images import ImageSet
from models.metrics import FeatureSample, report_metrics, within_class_influence
from models.schedule import GenerationSchedule

SAMPLE_IMAGES = 10_000
KID_SUBSET_IMAGES = 1000


@dataclass(frozen=True)
class MetricBlock:
    """One block's share: float32 features of the block's sampled images [at most B, D], logits [B, C] or none, and
    where they are asked for what ``evaluate_block`` returns, and the sampled images' labels [at most B]."""

    features_BD: Tensor
    logits_BC: Tensor | None
    for_distance: Statistics | Tensor | None = None
    labels_B: Tensor | None = None


def sampled_numbers(num_images: int, capacity: int = SAMPLE_IMAGES) -> Tensor:
    """Which of `num_images` images a ``FeatureSample`` of this capacity holds, in order: known before any is made."""
    return FeatureSample.of(torch.empty(num_images, 0), 0, capacity).numbers


@torch.inference_mode()
def metric_block(
    generator: Generator,
    features: Any,
    schedule: GenerationSchedule,
    block: Block,
    names: Sequence[str],
    capacity: int = SAMPLE_IMAGES,
    *,
    evaluates: bool = False,
) -> MetricBlock:
    """Generate one block and keep what the metrics of `names` need of it.

    capacity: images in the sample of all blocks' images. evaluates: keep what the distance needs, too. features: a
    feature network; ``isc`` needs one with logits (``models.inception``). Raises ValueError without.
    """
    images = generator.decode(generator.tokens(schedule, block), features.images)
    logits_BC = None
    if "isc" in names:
        if not hasattr(features, "features_and_logits"):
            raise ValueError(f"the Inception Score needs Inception's logits, {features.name} has none")
        features_BD, logits_BC = features.features_and_logits(images)
    else:
        features_BD = features.features(images)
    rows = _sampled_rows(block, capacity)
    sample_BD = features_BD[rows.to(features_BD.device)].cpu()
    labels_B = generator.labels(block)[rows.to(generator.device)].cpu() if "variety" in names else None
    return MetricBlock(sample_BD, logits_BC, for_distance(features_BD) if evaluates else None, labels_B)


def of_kept_features(features_BD: Tensor, num_classes: int, block: Block, capacity: int = SAMPLE_IMAGES) -> MetricBlock:
    """What ``metric_block`` found of a block, from its images' features; without logits."""
    rows = _sampled_rows(block, capacity)
    return MetricBlock(features_BD[rows], None, None, torch.from_numpy(labels_of(num_classes, block))[rows])


def _sampled_rows(block: Block, capacity: int) -> Tensor:
    """Which of a block's images are in the sample of all blocks' images."""
    first = block.index * block.size
    sampled = sampled_numbers(block.num_blocks * block.size, capacity)
    return sampled[(sampled >= first) & (sampled < first + block.size)] - first


def kid_subset_images(names: Sequence[str], num_generated: int, num_real: int) -> int:
    """Images in one of KID's subsets: a thousand, or all where there are fewer; 0 where no KID is asked for."""
    asked = any(name in ("kid", "kid_rbf") for name in names)
    return min(KID_SUBSET_IMAGES, num_generated, num_real) if asked else 0


@torch.inference_mode()
def merged_metrics(names: Sequence[str], blocks: Sequence[MetricBlock], real_MD: Tensor | None) -> dict[str, float]:
    """Values under torch-fidelity's keys. blocks: all of them, in their order. real: features of real images, where
    `names` need them."""
    generated_ND = torch.cat([block.features_BD for block in blocks])
    logits = [block.logits_BC for block in blocks if block.logits_BC is not None]
    labels = [block.labels_B for block in blocks if block.labels_B is not None]
    return report_metrics(
        names,
        generated_ND,
        real_MD,
        torch.cat(logits) if logits else None,
        torch.cat(labels) if labels else None,
        kid_subset_size=kid_subset_images(names, len(generated_ND), 0 if real_MD is None else len(real_MD)),
    )


@torch.inference_mode()
def variety_shares(blocks: Sequence[MetricBlock]) -> tuple[float, ...]:
    """Each block's mean of ``within_class_influence``; nothing where blocks have no labels."""
    labels = [block.labels_B for block in blocks if block.labels_B is not None]
    if not labels:
        return ()
    influences = within_class_influence(torch.cat([block.features_BD for block in blocks]), torch.cat(labels))
    return tuple(float(part.nanmean()) for part in influences.split([len(own) for own in labels]))


@torch.inference_mode()
def real_features(features: DigitClassifier, data: ImageSet) -> Tensor:
    """The training images' features [M, D], what generated ones are compared with."""
    return features.features(torch.from_numpy(data.train_images))
