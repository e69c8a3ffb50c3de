"""All derivatives of the distance from one population of images, every one painted under a perturbation of its own.

The influence function makes a distance's change a mean over images, so images need not share a perturbation: each pair
of images (same label, same noise) moves every value of the schedule up or down at random, one image of the pair the
other way round, and a regression of the pairs' differences on their signs tells the values apart. Where probes need
two images a value, this needs two in all. Mask ratios are one to a block (a batch has one count), the rest differ from
image to image.

Shapes: P values of the schedule, H = B / 2 pairs in a block, L tokens, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluate import Block, FeatureNetwork, Generator, dithers
from models.random_streams import stream
from models.sample import Canvas, GuidedNetwork, Knobs, advance, guided_logits
from models.schedule import GenerationSchedule, components


@dataclass(frozen=True)
class PerturbedBlock:
    """One block's pairs: features of the images moved by `signs` and of those moved the other way, float32 [H, D];
    signs [H, P], +1 for a value's upper end."""

    forward_HD: Tensor
    backward_HD: Tensor
    signs_HP: Tensor


def signs_of(num_steps: int, block: Block) -> Tensor:
    """float64 [H, P] of +-1. A mask ratio has one sign in a block, and over the blocks of a seed as many up as down."""
    names = components(num_steps)
    half = block.size // 2
    signs = stream(block.seed, "signs", block.index).integers(2, size=(half, len(names))) * 2.0 - 1.0
    for column, (family, step) in enumerate(names):
        if family == "mask_ratios":
            order = stream(block.seed, "ratio signs", step).permutation(block.num_blocks)
            signs[:, column] = 1.0 if order[block.index] % 2 else -1.0
    return torch.from_numpy(signs)


def perturbed_tokens(
    generator: Generator,
    schedule: GenerationSchedule,
    lows: tuple[float, ...],
    highs: tuple[float, ...],
    signs_HP: Tensor,
    block: Block,
) -> Tensor:
    """Codes [H, L] of H images, image h with value p at its upper end where signs[h, p] is +1, else at its lower.

    `block` is the half block: its labels, noise and dithers. Mask counts are dithered.
    """
    config = generator.network.config
    labels_H, noise = generator.labels(block), generator.noise(block)
    offsets = dithers(schedule.num_steps, block)
    upper = (signs_HP > 0).to(labels_H.device)
    ends = torch.tensor([lows, highs], dtype=torch.float32, device=labels_H.device)
    values_HP = torch.where(upper, ends[1], ends[0])
    column = {name: values_HP[:, number] for number, name in enumerate(components(schedule.num_steps))}

    guided = GuidedNetwork(generator.network, labels_H, generator.first_logits)
    canvas = Canvas.empty(len(labels_H), config.num_tokens, config.codebook_size, labels_H.device)
    reused = None
    for step in range(schedule.num_steps):
        base = Knobs.at(schedule, step, offsets[step])
        ratio, choice = column.get(("mask_ratios", step)), column.get(("choice_temperatures", step))
        knobs = Knobs(
            mask_ratio=base.mask_ratio if ratio is None else float(ratio[0]),
            sampling_temperature=column["sampling_temperatures", step][:, None, None],
            choice_temperature=base.choice_temperature if choice is None else choice[:, None],
            guidance_scale=column["guidance_scales", step][:, None, None],
            rule=base.rule,
            dither=base.dither,
        )
        seen = guided.predict(canvas, reused)
        logits = guided_logits(seen.conditional_BNK, seen.unconditional_BNK, knobs.guidance_scale)
        taken = advance(canvas, seen.positions_BN, logits, knobs, noise.draw(step), noise.choice(step))
        canvas, reused = taken.canvas, seen.reused
        if canvas.num_masked == 0:
            break
    return taken.sampled_BL


@torch.inference_mode()
def perturbed_block(
    generator: Generator,
    features: FeatureNetwork,
    schedule: GenerationSchedule,
    lows: tuple[float, ...],
    highs: tuple[float, ...],
    block: Block,
) -> PerturbedBlock:
    """Both images of every pair of a block."""
    half = Block(block.index, block.num_blocks, block.size // 2, block.seed, block.random_labels)
    signs = signs_of(schedule.num_steps, block)

    def scored(signs_HP: Tensor) -> Tensor:
        with generator.precisely():
            tokens = perturbed_tokens(generator, schedule, lows, highs, signs_HP, half)
        return features.features(generator.decode(tokens, features.images)).to(torch.float32)

    return PerturbedBlock(scored(signs), scored(-signs), signs)


def regress(blocks: list[tuple[Tensor, Tensor]]) -> tuple[list[float], list[float]]:
    """What moving each value from its lower to its upper end does to the distance, and the standard errors.

    blocks: (signs [H, P], differences [H]) of each block, a difference being psi(forward) - psi(backward). Ordinary
    least squares; errors robust against pairs of unequal spread (White, 1980, with the factor n / (n - P)). Raises
    ValueError where there are no more pairs than values.
    """
    signs = torch.cat([signs for signs, _ in blocks]).to(torch.float64)
    differences = torch.cat([differences for _, differences in blocks]).to(torch.float64)
    pairs, values = signs.shape
    if pairs <= values:
        raise ValueError(f"{pairs} pairs of images cannot tell {values} values apart")
    # psi(forward) - psi(backward) = sum over values of sign * (psi at the upper end - psi at the lower end)
    inverse = torch.linalg.pinv(signs.T @ signs, hermitian=True)
    changes = inverse @ (signs.T @ differences)
    left = differences - signs @ changes
    spread = inverse @ ((signs * left[:, None] ** 2).T @ signs) @ inverse * (pairs / (pairs - values))
    return changes.tolist(), spread.diagonal().clamp(min=0).sqrt().tolist()
