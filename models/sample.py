"""Parallel decoding: from an empty canvas to L tokens in T steps.

Shapes: B images, L tokens, N positions that are predicted (all masked ones are among them), K codes.

Three published rules, chosen by ``schedule.rule``:

* ``enat`` (official ENAT): floor(L r) tokens are masked again, without a clamp; the sampling temperature is at least
  1e-3. 0 is allowed before the last step; the image is finished then. (No more than the masked ones: a ratio that
  rises reveals nothing.)
* ``autonat`` (official ImprovedNAT): n = clamp(floor(L r), 1, masked tokens of the first image - 1), one n for the
  batch; every token whose confidence is at most the n-th smallest is masked again, ties included; the temperature is
  at least 1e-4.
* ``muse`` (MUSE-Pytorch, ``MUSE.generate``): counts and ties as ``autonat``; the confidence is the guided logit itself
  instead of its log-probability; no floor, temperature 0 takes the likeliest token.

AdaNAT's loop for the same text network gives every image values of its own. Run image by image its values decode the
same under ``enat``, with ratios of at most (L - 1) / L, except that AdaNAT reveals all tokens that tie at the cut.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.noise import Noise
from models.schedule import GenerationSchedule

TEMPERATURE_FLOOR = {"enat": 1e-3, "autonat": 1e-4, "muse": 0.0}

# Rules that clamp the count and mask every token up to the n-th smallest confidence; the others mask the n smallest.
CUTS_AT_CONFIDENCE = ("autonat", "muse")


@dataclass(frozen=True)
class Knobs:
    """The schedule's four values at one step. `dither` in [0, 1) is added to L r before the floor.

    Temperatures and guidance may differ from image to image: tensors [B, 1, 1], for the choice temperature [B, 1].
    """

    mask_ratio: float
    sampling_temperature: float | Tensor
    choice_temperature: float | Tensor
    guidance_scale: float | Tensor
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
    at positions [B, N], and what the next step may reuse."""

    positions_BN: Tensor
    conditional_BNK: Tensor
    unconditional_BNK: Tensor | None
    reused: Any


@dataclass(frozen=True)
class Step:
    """Outcome of one decoding step, all [B, L]: tokens with every masked position filled, the confidence that decided
    (+inf at visible tokens), and the canvas that goes on."""

    sampled_BL: Tensor
    confidence_BL: Tensor
    canvas: Canvas


def at_least_float32(logits: Tensor) -> Tensor:
    """Of a network that runs in half precision: guidance takes differences, and noise is float32."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def guided_logits(conditional: Tensor, unconditional: Tensor | None, scale: float | Tensor) -> Tensor:
    """cond + w (cond - uncond) (Ho & Salimans, arXiv 2207.12598, in AutoNAT's convention: w = 0 is no guidance)."""
    if unconditional is None or (not isinstance(scale, Tensor) and scale == 0):
        return conditional
    return conditional + scale * (conditional - unconditional)


def count_to_mask(knobs: Knobs, num_tokens: int, num_masked: int) -> int:
    """How many tokens the rule masks again: `num_masked` are masked now, in the first image."""
    wanted = math.floor(num_tokens * knobs.mask_ratio + knobs.dither)
    if knobs.rule in CUTS_AT_CONFIDENCE:
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

    Confidence is the log-probability (at temperature 1) of the drawn token, under ``muse`` its guided logit, plus
    choice temperature times Gumbel noise (MaskGIT, section 3.2; AutoNAT, eq. 3 to 5).
    """
    noise_BNK = draw_noise_BLK
    if noise_BNK is not None and positions_BN.shape[1] != noise_BNK.shape[1]:
        noise_BNK = noise_BNK.gather(1, positions_BN[..., None].expand(-1, -1, logits_BNK.shape[-1]))
    floor, temperature = TEMPERATURE_FLOOR[knobs.rule], knobs.sampling_temperature
    temperature = temperature.clamp(min=floor) if isinstance(temperature, Tensor) else max(temperature, floor)
    if knobs.rule == "muse":  # logits + tau g, which is the same draw as logits / tau + g
        tempered_BNK = logits_BNK if noise_BNK is None else logits_BNK + (temperature * noise_BNK).to(logits_BNK.dtype)
    else:
        tempered_BNK = logits_BNK / temperature
        if noise_BNK is not None:
            tempered_BNK = tempered_BNK + noise_BNK
    drawn_BN = tempered_BNK.argmax(dim=-1)
    trust_BNK = logits_BNK if knobs.rule == "muse" else logits_BNK.log_softmax(dim=-1)
    trust_BN = trust_BNK.gather(-1, drawn_BN[..., None])[..., 0]

    masked_BL = canvas.masked_BL
    sampled_BL = canvas.tokens_BL.scatter(1, positions_BN, drawn_BN)
    sampled_BL = torch.where(masked_BL, sampled_BL, canvas.tokens_BL)
    confidence_BL = trust_BN.new_zeros(masked_BL.shape).scatter(1, positions_BN, trust_BN)
    if choice_noise_BL is not None:
        confidence_BL = confidence_BL + (knobs.choice_temperature * choice_noise_BL).to(confidence_BL.dtype)
    confidence_BL = confidence_BL.masked_fill(~masked_BL, math.inf)

    num_masked = canvas.num_masked if canvas.num_masked is not None else int(masked_BL[0].sum())
    count = count_to_mask(knobs, masked_BL.shape[1], num_masked)
    if knobs.rule in CUTS_AT_CONFIDENCE:
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


class FirstStepLogits:
    """Logits of the empty canvas, by class.

    An empty canvas depends on the class alone, so one pass serves the first step of every image of a class, and one
    pass without a class that of every image. Classes are computed when first asked for, in groups of fixed members, so
    that the order of asking does not change a bit. Where all classes together would take more than `limit_bytes` (as
    with captions), only the unconditional logits are kept.
    """

    GROUP = 16

    def __init__(self, network: Any, limit_bytes: int = 2**30) -> None:
        self.network = network
        config = network.config
        self._weight = next(network.parameters())
        self._table_CLK: Tensor | None = None
        if 4 * config.num_classes * config.num_tokens * config.codebook_size <= limit_bytes:
            dtype = torch.promote_types(self._weight.dtype, torch.float32)
            shape = (config.num_classes, config.num_tokens, config.codebook_size)
            self._table_CLK = torch.empty(shape, dtype=dtype, device=self._weight.device)
        self._groups: set[int] = set()
        self._unconditional_LK: Tensor | None = None

    @torch.inference_mode()
    def _compute(self, labels: list[int]) -> Tensor:
        network, config = self.network, self.network.config
        canvas = Canvas.empty(len(labels), config.num_tokens, config.codebook_size, self._weight.device)
        labels_B = torch.tensor(labels, device=self._weight.device)
        state = network(canvas.tokens_BL, canvas.masked_BL, labels_B, None, config.num_tokens)
        return at_least_float32(network.logits(state.features_BLD))

    def unconditional(self) -> Tensor:
        """[L, K]"""
        if self._unconditional_LK is None:
            self._unconditional_LK = self._compute([self.network.null_class])[0]
        return self._unconditional_LK

    def of(self, labels_B: Tensor) -> Tensor | None:
        """[B, L, K], or None where the classes' logits are not kept."""
        if self._table_CLK is None:
            return None
        for group in sorted({label // self.GROUP for label in labels_B.tolist()} - self._groups):
            members = range(group * self.GROUP, min((group + 1) * self.GROUP, len(self._table_CLK)))
            with torch.inference_mode():
                self._table_CLK[members.start : members.stop] = self._compute(list(members))
            self._groups.add(group)
        return self._table_CLK[labels_B]


def unconditional_steps(schedule: GenerationSchedule, reuses_features: bool) -> list[bool]:
    """At which steps the unconditional branch has to run: where guidance is not 0, and, with feature reuse, wherever a
    later step will need its features. (Step 0 hands on no features, as nothing is visible then.)"""
    scales = schedule.guidance_scales
    later = [any(scale != 0 for scale in scales[step + 1 :]) for step in range(len(scales))]
    return [scale != 0 or (reuses_features and step > 0 and later[step]) for step, scale in enumerate(scales)]


class GuidedNetwork:
    """A network with the labels of one run and all that stays the same over its steps."""

    def __init__(self, network: Any, labels_B: Tensor, first_logits: FirstStepLogits | None = None) -> None:
        """first_logits: read in place of a pass where the canvas is empty."""
        self.network, self.labels_B, self.first_logits = network, labels_B, first_logits
        self._prepared: dict[bool, tuple[Tensor, Any]] = {}

    def _labels(self, unconditional: bool) -> tuple[Tensor, Any]:
        """The labels of a pass, both branches in one where asked for, and what the network makes of them."""
        if unconditional not in self._prepared:
            rows = [self.labels_B, torch.full_like(self.labels_B, self.network.null_class)]
            labels = torch.cat(rows) if unconditional else self.labels_B
            self._prepared[unconditional] = labels, self.network.prepare(labels)
        return self._prepared[unconditional]

    def _pass(self, canvas: Canvas, positions_BN: Tensor, unconditional: bool, reused: Any) -> tuple[Tensor, Any]:
        """Logits [R, N, K] of R = B images or, with the unconditional branch behind it, 2B; and the network's state."""
        labels, prepared = self._labels(unconditional)
        repeats = len(labels) // len(self.labels_B)
        if reused is not None and len(reused.visible_BL) != len(labels):
            # Fewer branches than before: those that go on. More: only after a step that saw no visible token.
            assert len(reused.visible_BL) > len(labels) or not reused.num_visible
            reused = reused.rows(len(labels)) if len(reused.visible_BL) > len(labels) else None
        tokens, masked, positions = (x.repeat(repeats, 1) for x in (canvas.tokens_BL, canvas.masked_BL, positions_BN))
        state = self.network(tokens, masked, labels, reused, canvas.num_masked, prepared)
        features = state.features_BLD
        if positions.shape[1] < features.shape[1]:
            features = features.gather(1, positions[..., None].expand(-1, -1, features.shape[-1]))
        return at_least_float32(self.network.logits(features)), state if self.network.reuses_features else None

    def predict(self, canvas: Canvas, reused: Any = None, *, unconditional: bool = True) -> Prediction:
        """Logits at the masked positions; both guidance branches, in one pass, unless `unconditional` is False.

        `reused` holds what the last step's prediction returned under that name.
        """
        batch, length = canvas.tokens_BL.shape
        if canvas.num_masked == length and self.first_logits is not None:
            return self._first(canvas, unconditional)
        if canvas.num_masked is None or canvas.num_masked == length:
            positions_BN = torch.arange(length, device=canvas.tokens_BL.device).expand(batch, -1)
        else:
            positions_BN = torch.argsort(canvas.masked_BL.long(), dim=1, descending=True, stable=True)
            positions_BN = positions_BN[:, : canvas.num_masked]
        logits, state = self._pass(canvas, positions_BN, unconditional, reused)
        return Prediction(positions_BN, logits[:batch], logits[batch:] if unconditional else None, state)

    def _first(self, canvas: Canvas, unconditional: bool) -> Prediction:
        """The empty canvas from the table. Nothing is visible on it, so there is nothing to reuse."""
        assert self.first_logits is not None
        batch, length = canvas.tokens_BL.shape
        positions_BN = torch.arange(length, device=canvas.tokens_BL.device).expand(batch, -1)
        conditional_BNK = self.first_logits.of(self.labels_B)
        if conditional_BNK is None:
            conditional_BNK, _ = self._pass(canvas, positions_BN, False, None)
        unconditional_BNK = self.first_logits.unconditional().expand(batch, -1, -1) if unconditional else None
        return Prediction(positions_BN, conditional_BNK, unconditional_BNK, None)


@torch.inference_mode()
def sample(
    network: Any,
    schedule: GenerationSchedule,
    labels_B: Tensor,
    noise: Noise,
    *,
    first_logits: FirstStepLogits | None = None,
    dithers: tuple[float, ...] | None = None,
    observe: Callable[[int, Step], None] | None = None,
) -> Tensor:
    """Paint B images: codes int64 [B, L].

    network: in evaluation mode; labels_B: int64 classes; noise: everything random; first_logits: the network's, kept
    from run to run; dithers: T values in [0, 1) added to L r(t) before the floor, for finite differences; observe:
    called after each step.
    """
    config = network.config
    guided = GuidedNetwork(network, labels_B, first_logits)
    canvas = Canvas.empty(len(labels_B), config.num_tokens, config.codebook_size, labels_B.device)
    runs_unconditional = unconditional_steps(schedule, network.reuses_features)
    reused: Any = None
    for step in range(schedule.num_steps):
        knobs = Knobs.at(schedule, step, dithers[step] if dithers else 0.0)
        prediction = guided.predict(canvas, reused, unconditional=runs_unconditional[step])
        logits = guided_logits(prediction.conditional_BNK, prediction.unconditional_BNK, knobs.guidance_scale)
        taken = advance(canvas, prediction.positions_BN, logits, knobs, noise.draw(step), noise.choice(step))
        if observe is not None:
            observe(step, taken)
        canvas, reused = taken.canvas, prediction.reused
        if canvas.num_masked == 0:
            break
    # The tokens sampled last, also where the rule masks one of them again (autonat's and muse's last step).
    return taken.sampled_BL
