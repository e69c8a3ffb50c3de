"""All derivatives of the distance from one population of images, every one painted under a perturbation of its own.

The influence function makes a distance's change a mean over images, so images need not share a perturbation: each pair
of images (same label, same noise) moves every value of the schedule up or down at random, one image of the pair the
other way round, and a regression of the pairs' differences on their signs tells the values apart. Where probes need
two images a value, this needs two in all. Mask ratios are one to a block or a part of it (a batch has one count), the
rest differ from image to image.

Shapes: P values of the schedule, H pairs in a block (half its images) or in a part of one, L tokens, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from models.evaluate import Block, FeatureNetwork, Generator, dithers
from models.random_streams import stream
from models.sample import Canvas, GuidedNetwork, Knobs, advance, guided_logits
from models.schedule import GenerationSchedule, components

# Columns of signs that are drawn for a mask ratio, to take the one least like the others'.
DRAWS = 32


@dataclass(frozen=True)
class PerturbedBlock:
    """One block's pairs: features of the images moved by `signs` and of those moved the other way, float32 [H, D];
    signs [H, P], +1 for a value's upper end; the rows are those of so many parts of one size (``parts_of``)."""

    forward_HD: Tensor
    backward_HD: Tensor
    signs_HP: Tensor
    parts: int


def parts_of(num_steps: int, block: Block) -> list[Block]:
    """A block's pairs in parts that have mask ratios of their own, as a batch has one count: `size` is a part's pairs.

    One part, unless there are few blocks of a seed for so many ratios: then as many as make them at least two more than
    twice the ratios, which can be told apart then, with something left over that tells the error.
    """
    pairs, ratios = block.size // 2, num_steps - 1
    divisors = [number for number in range(1, pairs + 1) if pairs % number == 0]
    parts = next((number for number in divisors if number * block.num_blocks >= 2 * ratios + 2), pairs)
    return [
        Block(block.index * parts + part, block.num_blocks * parts, pairs // parts, block.seed, block.random_labels)
        for part in range(parts)
    ]


@lru_cache(maxsize=64)
def _ratio_signs(num_ratios: int, num_parts: int, seed: int) -> np.ndarray:
    """float64 [parts, ratios] of +-1, in every column as many up as down. Each column is, of a few drawn at random, the
    one least like those before it: what is confounded cannot be told apart afterwards."""
    random = stream(seed, "ratio signs")
    columns = np.empty((0, num_parts))
    for _ in range(num_ratios):
        drawn = np.where(random.permuted(np.tile(np.arange(num_parts), (DRAWS, 1)), axis=1) % 2, 1.0, -1.0)
        likeness = np.abs(drawn @ columns.T).max(axis=1, initial=0.0)
        columns = np.vstack([columns, drawn[likeness.argmin()]])
    return columns.T


def signs_of(num_steps: int, part: Block) -> Tensor:
    """float64 [H, P] of +-1 for a part of ``parts_of``. A mask ratio has one sign in a part, the rest one in a pair."""
    names = components(num_steps)
    signs = stream(part.seed, "signs", part.index).integers(2, size=(part.size, len(names))) * 2.0 - 1.0
    signs[:, ratio_columns(num_steps)] = _ratio_signs(num_steps - 1, part.num_blocks, part.seed)[part.index]
    return torch.from_numpy(signs)


def ratio_columns(num_steps: int) -> list[bool]:
    """Which of the schedule's values are mask ratios."""
    return [family == "mask_ratios" for family, _ in components(num_steps)]


def perturbed_tokens(
    generator: Generator,
    schedule: GenerationSchedule,
    lows: tuple[float, ...],
    highs: tuple[float, ...],
    signs_HP: Tensor,
    block: Block,
) -> Tensor:
    """Codes [H, L] of H images, image h with value p at its upper end where signs[h, p] is +1, else at its lower.

    `block` is a part of one: its labels, noise and dithers. Mask counts are dithered.
    """
    config = generator.network.config
    labels_H, noise = generator.labels(block), generator.noise(block)
    offsets = dithers(schedule.num_steps, block)
    upper = (signs_HP > 0).to(labels_H.device)
    ends = torch.tensor([lows, highs], dtype=torch.float32, device=labels_H.device)
    values_HP = torch.where(upper, ends[1], ends[0])
    names = components(schedule.num_steps)
    column = {name: values_HP[:, number] for number, name in enumerate(names)}
    # All images share a step's mask ratio: a number, which nobody waits for.
    common = np.where(signs_HP[0].cpu().numpy() > 0, np.array(highs, np.float32), np.array(lows, np.float32))
    ratios = {step: float(common[number]) for number, (family, step) in enumerate(names) if family == "mask_ratios"}

    guided = GuidedNetwork(generator.network, labels_H, generator.first_logits)
    canvas = Canvas.empty(len(labels_H), config.num_tokens, config.codebook_size, labels_H.device)
    reused = None
    for step in range(schedule.num_steps):
        base = Knobs.at(schedule, step, offsets[step])
        choice = column.get(("choice_temperatures", step))
        knobs = Knobs(
            mask_ratio=ratios.get(step, base.mask_ratio),
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
    found = []
    for part in parts_of(schedule.num_steps, block):
        signs = signs_of(schedule.num_steps, part)
        both = []
        for side in (1.0, -1.0):
            with generator.precisely():
                tokens = perturbed_tokens(generator, schedule, lows, highs, side * signs, part)
            both.append(features.features(generator.decode(tokens, features.images)).to(torch.float32))
        found.append((*both, signs))
    forward, backward, signs_HP = (torch.cat(each) for each in zip(*found, strict=True))
    return PerturbedBlock(forward, backward, signs_HP, len(found))


def regress(
    parts: Sequence[tuple[Tensor, Tensor]], shared: Sequence[bool] | None = None
) -> tuple[list[float], list[float]]:
    """What moving each value from its lower to its upper end does to the distance, and the standard errors.

    parts: (signs [H, P], differences [H]) of each part, a difference being psi(forward) - psi(backward). shared: P
    times whether a value has one sign in all of a part (none has unless said). Ordinary least squares; errors robust
    against pairs of unequal spread (White, 1980, with the factor n / (n - P)). Of shared values parts count and not
    pairs, for what the pairs of a part have in common (Liang & Zeger, 1986; the further factor is R / (R - shared) for
    R parts). Raises ValueError where there are no more pairs than values, or no more parts than shared ones.
    """
    signs = torch.cat([signs for signs, _ in parts]).to(torch.float64)
    differences = torch.cat([differences for _, differences in parts]).to(torch.float64)
    pairs, values = signs.shape
    if pairs <= values:
        raise ValueError(f"{pairs} pairs of images cannot tell {values} values apart")
    # psi(forward) - psi(backward) = sum over values of sign * (psi at the upper end - psi at the lower end)
    inverse = torch.linalg.pinv(signs.T @ signs, hermitian=True)
    changes = inverse @ (signs.T @ differences)
    scores = signs * (differences - signs @ changes)[:, None]
    spread = inverse @ (scores.T @ scores) @ inverse * (pairs / (pairs - values))
    variances = spread.diagonal().clone()
    number = sum(shared or ())
    if number:
        if len(parts) <= number:
            raise ValueError(f"{len(parts)} parts with one sign each cannot tell {number} values apart")
        sums = torch.stack([own.sum(0) for own in scores.split([len(rows) for rows, _ in parts])])
        factor = pairs / (pairs - values) * len(parts) / (len(parts) - number)
        clustered = inverse @ (sums.T @ sums) @ inverse * factor
        variances = torch.where(torch.tensor(shared), clustered.diagonal(), variances)
    return changes.tolist(), variances.clamp(min=0).sqrt().tolist()
