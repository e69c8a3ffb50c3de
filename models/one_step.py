"""Real images finished in a single pass: some tokens are masked, the network draws them all at once.

What is left of a many-step schedule here is the network alone, at a mask ratio of one's choice: no token that it drew
itself is ever looked at. B images a block, L tokens, K codes, N images in the data.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models.evaluate import WIDE_FEATURES, Block, FeatureNetwork, Generator
from models.frechet import Statistics
from models.masking import mask_from_uniform, masked_counts
from models.random_streams import stream
from models.sample import Canvas, GuidedNetwork, Knobs, advance


def images_of_block(num_images: int, block: Block) -> np.ndarray:
    """Which of N images a block takes, int64 [B]: the data in an order of the seed, over and over."""
    order = stream(block.seed, "real images").permutation(num_images)
    return order[np.arange(block.index * block.size, (block.index + 1) * block.size) % num_images]


def masked_count(mask_ratio: float, num_tokens: int) -> int:
    """How many tokens a ratio in [0, 1) masks: as in ENAT's training, at least one and never all; of ratio 0, none."""
    if not mask_ratio:
        return 0
    return int(masked_counts(np.array([mask_ratio]), num_tokens, keep_one_visible=True)[0])


@torch.inference_mode()
def one_step_tokens(
    generator: Generator,
    real_BL: Tensor,
    labels_B: Tensor,
    mask_ratio: float,
    sampling_temperature: float,
    block: Block,
) -> Tensor:
    """Codes int64 [B, L]: `real_BL` with a share of its tokens, uniformly placed, drawn anew in one pass.

    No guidance: what is asked is how well the network knows the masked tokens. Masks and noise depend on the block
    alone, so networks are compared on the same ones.
    """
    num_masked = masked_count(mask_ratio, real_BL.shape[1])
    if not num_masked:
        return real_BL
    uniform_BL = torch.from_numpy(stream(block.seed, "one-step masks", block.index).random(tuple(real_BL.shape)))
    masked_BL = mask_from_uniform(uniform_BL, torch.full((len(real_BL),), num_masked)).to(real_BL.device)
    canvas = Canvas(real_BL, masked_BL, num_masked)
    with generator.precisely():
        seen = GuidedNetwork(generator.network, labels_B).predict(canvas, unconditional=False)
        knobs = Knobs(0.0, sampling_temperature, 0.0, 0.0, "enat")
        draw_noise = generator.noise(block).draw(0)
        return advance(canvas, seen.positions_BN, seen.conditional_BNK, knobs, draw_noise, None).sampled_BL


@torch.inference_mode()
def one_step_block(
    generator: Generator,
    features: FeatureNetwork,
    data: Callable[[], tuple[Tensor, Tensor]],
    mask_ratio: float,
    sampling_temperature: float,
    block: Block,
) -> Statistics | Tensor:
    """As ``models.evaluate.evaluate_block``, of real images finished in one pass.

    data: gives codes [N, L] and classes [N] of the real images.
    """
    tokens_NL, labels_N = data()
    chosen = torch.from_numpy(images_of_block(len(tokens_NL), block))
    real_BL = tokens_NL[chosen].long().to(generator.device)
    labels_B = labels_N[chosen].to(generator.device)
    tokens_BL = one_step_tokens(generator, real_BL, labels_B, mask_ratio, sampling_temperature, block)
    features_BD = features.features(generator.decode(tokens_BL, features.images))
    return Statistics.of(features_BD) if features_BD.shape[1] < WIDE_FEATURES else features_BD
