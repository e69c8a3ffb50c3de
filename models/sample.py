"""Parallel decoding: from an empty canvas to L tokens in T steps.

Shapes: B images, L tokens, N positions that are predicted (all masked ones are among them), K codes.

Two published rules, chosen by ``schedule.rule``:

* ``enat`` (official ENAT): floor(L r) tokens are masked again, without a clamp; the sampling temperature is at least
  1e-3. 0 is allowed before the last step; the image is finished then. (No more than the masked ones: a ratio that
  rises reveals nothing.)
* ``autonat`` (official ImprovedNAT): n = clamp(floor(L r), 1, masked tokens of the first image - 1), one n for the
  batch; every token whose confidence is at most the n-th smallest is masked again, ties included; the temperature is
  at least 1e-4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from models.random_streams import gumbel, stream
from models.schedule import GenerationSchedule

TEMPERATURE_FLOOR = {"enat": 1e-3, "autonat": 1e-4}


class Noise(Protocol):
    """Standard Gumbel noise by step; None stands for none at all (argmax decoding)."""

    def draw(self, step: int) -> Tensor | None:
        """[B, L, K], added to the tempered logits when tokens are drawn."""

    def choice(self, step: int) -> Tensor | None:
        """[B, L], added to the confidence times the choice temperature."""


@dataclass(frozen=True)
class StreamNoise:
    """Noise from counter-based streams: block number, step and seed fix every number (``models.random_streams``)."""

    seed: int
    block: int
    shape_BLK: tuple[int, int, int]
    device: torch.device | str = "cpu"

    def draw(self, step: int) -> Tensor:
        noise = gumbel(stream(self.seed, "draw", self.block, step), self.shape_BLK)
        return torch.from_numpy(noise).to(self.device)

    def choice(self, step: int) -> Tensor:
        noise = gumbel(stream(self.seed, "choice", self.block, step), self.shape_BLK[:2])
        return torch.from_numpy(noise).to(self.device)


@dataclass(frozen=True)
class Knobs:
    """The schedule's four values at one step. `dither` in [0, 1) is added to L r before the floor."""

    mask_ratio: float
    sampling_temperature: float
    choice_temperature: float
    guidance_scale: float
    rule: str
    dither: float = 0.0

    @staticmethod
    def at(schedule: GenerationSchedule, step: int, dither: float = 0.0) -> "Knobs":
        return Knobs(
            mask_ratio=schedule.mask_ratio(step),
            sampling_temperature=schedule.sampling_temperatures[step],
            choice_temperature=schedule.choice_temperature(step),
            guidance_scale=schedule.guidance_scales[step],
            rule=schedule.rule,
            # The last step masks nothing again, dithered or not.
            dither=dither if step < schedule.num_steps - 1 else 0.0,
        )


@dataclass(frozen=True)
class Canvas:
    """An image in the making: tokens [B, L], what is masked [B, L], and how many masked tokens every row has (None
    where rows differ)."""

    tokens_BL: Tensor
    masked_BL: Tensor
    num_masked: int | None

    @staticmethod
    def empty(batch: int, num_tokens: int, mask_token: int, device: torch.device | str = "cpu") -> "Canvas":
        tokens_BL = torch.full((batch, num_tokens), mask_token, dtype=torch.int64, device=device)
        return Canvas(tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool), num_tokens)


@dataclass(frozen=True)
class Prediction:
    """What the network says at one step: logits [B, N, K] of both branches (unconditional: None where it was not run)
    at positions [B, N], and what the next step may reuse of each branch."""

    positions_BN: Tensor
    conditional_BNK: Tensor
    unconditional_BNK: Tensor | None
    reused: tuple[Any, Any]


@dataclass(frozen=True)
class Step:
    """Outcome of one decoding step, all [B, L]: tokens with every masked position filled, the confidence that decided
    (+inf at visible tokens), and the canvas that goes on."""

    sampled_BL: Tensor
    confidence_BL: Tensor
    canvas: Canvas


def guided_logits(conditional: Tensor, unconditional: Tensor | None, scale: float) -> Tensor:
    """cond + w (cond - uncond) (Ho & Salimans, arXiv 2207.12598, in AutoNAT's convention: w = 0 is no guidance)."""
    if unconditional is None or scale == 0:
        return conditional
    return conditional + scale * (conditional - unconditional)


def count_to_mask(knobs: Knobs, num_tokens: int, num_masked: int) -> int:
    """How many tokens the rule masks again: `num_masked` are masked now, in the first image."""
    wanted = math.floor(num_tokens * knobs.mask_ratio + knobs.dither)
    if knobs.rule == "autonat":
        return max(1, min(num_masked - 1, wanted))
    return min(wanted, num_masked)


def advance(
    canvas: Canvas,
    positions_BN: Tensor,
    logits_BNK: Tensor,
    knobs: Knobs,
    draw_noise_BLK: Tensor | None,
    choice_noise_BL: Tensor | None,
) -> Step:
    """One decoding step from guided logits: draw every masked token, keep the most trusted, mask the rest again.

    Confidence is the log-probability (at temperature 1) of the drawn token plus choice temperature times Gumbel noise
    (MaskGIT, section 3.2; AutoNAT, eq. 3 to 5).
    """
    temperature = max(knobs.sampling_temperature, TEMPERATURE_FLOOR[knobs.rule])
    tempered_BNK = logits_BNK / temperature
    if draw_noise_BLK is not None:
        codes = logits_BNK.shape[-1]
        index = positions_BN[..., None].expand(-1, -1, codes)
        whole = positions_BN.shape[1] == draw_noise_BLK.shape[1]
        tempered_BNK = tempered_BNK + (draw_noise_BLK if whole else draw_noise_BLK.gather(1, index))
    drawn_BN = tempered_BNK.argmax(dim=-1)
    trust_BN = logits_BNK.log_softmax(dim=-1).gather(-1, drawn_BN[..., None])[..., 0]

    masked_BL = canvas.masked_BL
    sampled_BL = canvas.tokens_BL.scatter(1, positions_BN, drawn_BN)
    sampled_BL = torch.where(masked_BL, sampled_BL, canvas.tokens_BL)
    confidence_BL = trust_BN.new_zeros(masked_BL.shape).scatter(1, positions_BN, trust_BN)
    if choice_noise_BL is not None:
        confidence_BL = confidence_BL + (knobs.choice_temperature * choice_noise_BL).to(confidence_BL.dtype)
    confidence_BL = confidence_BL.masked_fill(~masked_BL, math.inf)

    num_masked = canvas.num_masked if canvas.num_masked is not None else int(masked_BL[0].sum())
    count = count_to_mask(knobs, masked_BL.shape[1], num_masked)
    if knobs.rule == "autonat":
        cut_B1 = confidence_BL.sort(dim=1).values[:, count - 1 : count]
        again_BL = confidence_BL <= cut_B1
        counts_B = again_BL.sum(1)
        even = bool((counts_B == counts_B[0]).all())
        remaining = int(counts_B[0]) if even else None
    else:
        lowest_BC = confidence_BL.argsort(dim=1, stable=True)[:, :count]
        again_BL = torch.zeros_like(masked_BL).scatter(1, lowest_BC, True)
        remaining = count
    return Step(sampled_BL, confidence_BL, Canvas(sampled_BL, again_BL, remaining))


def first_step_logits(network: Any) -> Tensor:
    """Logits [C + 1, L, K] of the empty canvas for every class and, last, without a class.

    An empty canvas depends on the class alone, so one small pass serves the first step of every image.
    """
    config = network.config
    device = next(network.parameters()).device
    labels = torch.arange(config.num_classes + 1, device=device)
    canvas = Canvas.empty(len(labels), config.num_tokens, config.codebook_size, device)
    with torch.inference_mode():
        return network.logits(network(canvas.tokens_BL, canvas.masked_BL, labels, None, config.num_tokens).features_BLD)


def unconditional_steps(schedule: GenerationSchedule, reuses_features: bool) -> list[bool]:
    """At which steps the unconditional branch has to run: where guidance is not 0, and, with feature reuse, wherever a
    later step will need its features. (Step 0 hands on no features, as nothing is visible then.)"""
    scales = schedule.guidance_scales
    later = [any(scale != 0 for scale in scales[step + 1 :]) for step in range(len(scales))]
    return [scale != 0 or (reuses_features and step > 0 and later[step]) for step, scale in enumerate(scales)]


def predict(
    network: Any,
    canvas: Canvas,
    labels_B: Tensor,
    reused: tuple[Any, Any] = (None, None),
    *,
    unconditional: bool = True,
    first_logits: Tensor | None = None,
) -> Prediction:
    """Run the network on a canvas; both guidance branches unless `unconditional` is False.

    `reused` holds what the last step returned for the two branches; `first_logits` is ``first_step_logits(network)``,
    read in place of a pass where the canvas is empty.
    """
    length = canvas.tokens_BL.shape[1]
    null_B = torch.full_like(labels_B, network.null_class)
    if first_logits is not None and canvas.num_masked == length:
        positions_BN = torch.arange(length, device=labels_B.device).expand(len(labels_B), -1)
        return Prediction(
            positions_BN, first_logits[labels_B], first_logits[null_B] if unconditional else None, (None, None)
        )
    if canvas.num_masked is None:
        positions_BN = torch.arange(length, device=labels_B.device).expand(len(labels_B), -1)
    else:
        positions_BN = torch.argsort(canvas.masked_BL.long(), dim=1, descending=True, stable=True)
        positions_BN = positions_BN[:, : canvas.num_masked]

    def branch(branch_labels_B: Tensor, branch_reused: Any) -> tuple[Tensor, Any]:
        state = network(canvas.tokens_BL, canvas.masked_BL, branch_labels_B, branch_reused, canvas.num_masked)
        index = positions_BN[..., None].expand(-1, -1, state.features_BLD.shape[-1])
        return network.logits(state.features_BLD.gather(1, index)), state

    conditional_BNK, conditional_state = branch(labels_B, reused[0])
    unconditional_BNK, unconditional_state = branch(null_B, reused[1]) if unconditional else (None, None)
    return Prediction(positions_BN, conditional_BNK, unconditional_BNK, (conditional_state, unconditional_state))


@torch.inference_mode()
def sample(
    network: Any,
    schedule: GenerationSchedule,
    labels_B: Tensor,
    noise: Noise,
    *,
    first_logits: Tensor | None = None,
    dithers: tuple[float, ...] | None = None,
    observe: Callable[[int, Step], None] | None = None,
) -> Tensor:
    """Paint B images: codes int64 [B, L].

    network: in evaluation mode; labels_B: int64 classes; noise: everything random; first_logits: see ``predict``;
    dithers: T values in [0, 1) added to L r(t) before the floor, for finite differences; observe: called after
    each step.
    """
    config = network.config
    canvas = Canvas.empty(len(labels_B), config.num_tokens, config.codebook_size, labels_B.device)
    runs_unconditional = unconditional_steps(schedule, network.reuses_features)
    reused: tuple[Any, Any] = (None, None)
    for step in range(schedule.num_steps):
        knobs = Knobs.at(schedule, step, dithers[step] if dithers else 0.0)
        prediction = predict(
            network, canvas, labels_B, reused, unconditional=runs_unconditional[step], first_logits=first_logits
        )
        logits = guided_logits(prediction.conditional_BNK, prediction.unconditional_BNK, knobs.guidance_scale)
        taken = advance(canvas, prediction.positions_BN, logits, knobs, noise.draw(step), noise.choice(step))
        if observe is not None:
            observe(step, taken)
        canvas, reused = taken.canvas, prediction.reused
        if canvas.num_masked == 0:
            break
    # The tokens sampled last, also where the rule masks one of them again (autonat's last step).
    return taken.sampled_BL
