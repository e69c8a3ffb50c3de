"""What a distance gains or loses when one value of the schedule changes: the raw material of gradients.

Base and probes share labels and noise (common random numbers), and a probe of step t shares everything before step t
and the network's pass at step t with the base: only later steps are run again.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from models.evaluate import Block, FeatureNetwork, Generator, dithers
from models.frechet import Influence
from models.sample import Canvas, GuidedNetwork, Knobs, Prediction, Step, advance, guided_logits
from models.schedule import FAMILIES, GenerationSchedule

KNOB_OF_FAMILY = {
    "mask_ratios": "mask_ratio",
    "sampling_temperatures": "sampling_temperature",
    "choice_temperatures": "choice_temperature",
    "guidance_scales": "guidance_scale",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """The schedule with one value replaced."""

    family: str
    step: int
    value: float

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family {self.family!r}, expected one of {', '.join(FAMILIES)}")


def probe_tokens(
    generator: Generator, schedule: GenerationSchedule, probes: tuple[Probe, ...], block: Block
) -> tuple[Tensor, list[Tensor]]:
    """Codes [B, L] of the base schedule and of every probe, with dithered mask counts.

    Each equals what ``sample`` gives for that schedule. The unconditional branch runs at every step, as a probe may
    bring guidance in where the base has none.
    """
    labels_B = generator.labels(block)
    noise = generator.noise(block)
    offsets = dithers(schedule.num_steps, block)
    draw = [noise.draw(step) for step in range(schedule.num_steps)]
    choice = [noise.choice(step) for step in range(schedule.num_steps)]

    guided = GuidedNetwork(generator.network, labels_B, generator.first_logits)

    def act(canvas: Canvas, seen: Prediction, step: int, knobs: Knobs) -> Step:
        logits = guided_logits(seen.conditional_BNK, seen.unconditional_BNK, knobs.guidance_scale)
        return advance(canvas, seen.positions_BN, logits, knobs, draw[step], choice[step])

    def finish(taken: Step, seen: Prediction, step: int) -> Tensor:
        """Run on from an altered step with the base schedule."""
        for later in range(step + 1, schedule.num_steps):
            if taken.canvas.num_masked == 0:
                break
            seen = guided.predict(taken.canvas, seen.reused)
            taken = act(taken.canvas, seen, later, Knobs.at(schedule, later, offsets[later]))
        return taken.sampled_BL

    config = generator.network.config
    canvas = Canvas.empty(len(labels_B), config.num_tokens, config.codebook_size, labels_B.device)
    reused: Any = None
    probed: dict[int, Tensor] = {}
    for step in range(schedule.num_steps):
        seen = guided.predict(canvas, reused)
        knobs = Knobs.at(schedule, step, offsets[step])
        for number, probe in enumerate(probes):
            if probe.step == step:
                change: dict[str, Any] = {KNOB_OF_FAMILY[probe.family]: probe.value}
                altered = replace(knobs, **change)
                probed[number] = finish(act(canvas, seen, step, altered), seen, step)
        taken = act(canvas, seen, step, knobs)
        canvas, reused = taken.canvas, seen.reused
        if canvas.num_masked == 0:
            break
    # A probe of a step that was never reached changes nothing.
    return taken.sampled_BL, [probed.get(number, taken.sampled_BL) for number in range(len(probes))]


@torch.inference_mode()
def probe_block(
    generator: Generator,
    features: FeatureNetwork,
    influence: Influence,
    schedule: GenerationSchedule,
    probes: tuple[Probe, ...],
    block: Block,
) -> list[float]:
    """For each probe, the block's mean of psi(probe) - psi(base): its share in the change of the distance.

    Images that come out the same in all tokens, in the base or under other probes, are decoded and scored once.
    """

    def score(tokens_BL: Tensor) -> Tensor:
        return influence.of_features(features.features(generator.decode(tokens_BL, features.images)))

    with generator.precisely():
        base_BL, probed = probe_tokens(generator, schedule, probes, block)
    base_B = score(base_BL)
    moved = [(tokens_BL != base_BL).any(dim=1) for tokens_BL in probed]
    counts = [int(moved_B.sum()) for moved_B in moved]
    if not any(counts):
        return [0.0] * len(probed)
    moved_ML = torch.cat([tokens_BL[moved_B] for tokens_BL, moved_B in zip(probed, moved, strict=True)])
    distinct_UL, which_M = torch.unique(moved_ML, dim=0, return_inverse=True)
    scores_U = torch.cat([score(tokens_BL) for tokens_BL in distinct_UL.split(len(base_BL))])
    scores = scores_U[which_M.to(scores_U.device)].split(counts)
    return [
        float((scores_M - base_B[moved_B.to(base_B.device)]).sum()) / len(base_BL)
        for scores_M, moved_B in zip(scores, moved, strict=True)
    ]
