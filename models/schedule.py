"""The generation schedule: 4T - 2 numbers that say how an image is painted in T parallel steps.

Symbols of AutoNAT (arXiv 2406.05478): r(t) mask ratio, tau_1(t) sampling temperature, tau_2(t) choice temperature,
w(t) guidance scale. At the last step nothing is masked again, so r and tau_2 have T - 1 values.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

DecodingRule = Literal["enat", "autonat", "muse"]

FAMILIES = ("mask_ratios", "sampling_temperatures", "choice_temperatures", "guidance_scales")

# What a value of each family may be, ends included.
BOUNDS: dict[str, tuple[float, float]] = {
    "mask_ratios": (0.0, 1.0),
    "sampling_temperatures": (0.0, 100.0),
    "choice_temperatures": (0.0, 1000.0),
    "guidance_scales": (-1.0, 100.0),
}


def family_length(family: str, num_steps: int) -> int:
    """How many values a family has: T, or T - 1 where the last step needs none."""
    return num_steps - 1 if family in ("mask_ratios", "choice_temperatures") else num_steps


@dataclass(frozen=True, slots=True)
class GenerationSchedule:
    """What to do at each of T decoding steps.

    mask_ratios: T - 1 values in [0, 1], the share of all L tokens masked again after step t.
    sampling_temperatures: T values >= 0, the softmax temperature when tokens are drawn (0: the likeliest token).
    choice_temperatures: T - 1 values >= 0, the Gumbel noise on the confidence that picks what is masked again.
    guidance_scales: T values >= -1, w in ``cond + w (cond - uncond)``.
    rule: whose counting and cutting rule is followed, see ``models.sample``. Under `muse` the choice temperature is the
      noise on a guided logit, not on a log-probability; the other families mean the same under all rules (`muse` adds
      tau_1 times Gumbel noise to the guided logits, which is drawing at temperature tau_1).

    Raises ValueError for a wrong length, a value out of range or one that is not finite.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    mask_ratios: tuple[float, ...]
    sampling_temperatures: tuple[float, ...]
    choice_temperatures: tuple[float, ...]
    guidance_scales: tuple[float, ...]
    rule: DecodingRule = "enat"

    def __post_init__(self) -> None:
        if self.rule not in get_args(DecodingRule):
            raise ValueError(
                f"unknown decoding rule {self.rule!r}, expected one of {', '.join(get_args(DecodingRule))}"
            )
        num_steps = len(self.sampling_temperatures)
        if num_steps < 1:
            raise ValueError("a schedule needs at least one step (T >= 1)")
        for family in FAMILIES:
            values = tuple(float(value) for value in getattr(self, family))
            object.__setattr__(self, family, values)
            expected = family_length(family, num_steps)
            if len(values) != expected:
                raise ValueError(f"{family}: {num_steps} steps need {expected} values, got {len(values)}")
            low, high = BOUNDS[family]
            for step, value in enumerate(values):
                if not (math.isfinite(value) and low <= value <= high):
                    raise ValueError(f"{family}[{step}] = {value} is outside [{low:g}, {high:g}]")

    @property
    def num_steps(self) -> int:
        return len(self.sampling_temperatures)

    def mask_ratio(self, step: int) -> float:
        """r(t); 0 after the last step."""
        return self.mask_ratios[step] if step < self.num_steps - 1 else 0.0

    def choice_temperature(self, step: int) -> float:
        """tau_2(t); 0 after the last step."""
        return self.choice_temperatures[step] if step < self.num_steps - 1 else 0.0

    def values(self) -> list[float]:
        """All 4T - 2 values, family after family in the order of FAMILIES."""
        return [value for family in FAMILIES for value in getattr(self, family)]

    def with_values(self, values: Sequence[float]) -> "GenerationSchedule":
        """The schedule of the same length and rule with other values, in the order of ``values()``."""
        remaining = [float(value) for value in values]
        if len(remaining) != 4 * self.num_steps - 2:
            raise ValueError(f"need {4 * self.num_steps - 2} values, got {len(remaining)}")
        families: dict[str, tuple[float, ...]] = {}
        for family in FAMILIES:
            length = family_length(family, self.num_steps)
            families[family] = tuple(remaining[:length])
            remaining = remaining[length:]
        return GenerationSchedule(**families, rule=self.rule)


def resampled(schedule: GenerationSchedule, num_steps: int) -> GenerationSchedule:
    """The schedule for another number of steps: every family interpolated linearly over t/T.

    Mask ratios run from 1 before the first step to 0 after the last; the other families keep their ends.
    """
    if num_steps < 1:
        raise ValueError(f"the number of decoding steps must be at least 1, got {num_steps}")

    def after_steps(count: int) -> list[float]:
        return [(step + 1) / count for step in range(count)]

    old, new = after_steps(schedule.num_steps), after_steps(num_steps)
    families = {}
    for family in FAMILIES:
        length, known = family_length(family, num_steps), list(getattr(schedule, family))
        if family == "mask_ratios":
            values = np.interp(new[:length], [0.0, *old], [1.0, *known, 0.0])
        elif known:
            values = np.interp(new[:length], old[: len(known)], known)
        else:  # one step has no choice temperature
            values = np.zeros(length)
        families[family] = tuple(float(value) for value in values)
    return GenerationSchedule(**families, rule=schedule.rule)


def components(num_steps: int) -> list[tuple[str, int]]:
    """(family, step) of every value, in the order of ``GenerationSchedule.values()``."""
    return [(family, step) for family in FAMILIES for step in range(family_length(family, num_steps))]


def _progress(num_steps: int) -> list[float]:
    if num_steps < 1:
        raise ValueError(f"the number of decoding steps must be at least 1, got {num_steps}")
    return [(step + 1) / num_steps for step in range(num_steps)]


def _cosine_ratios(num_steps: int) -> tuple[float, ...]:
    # In float64 throughout: cos(pi/3) = 0.5000000000000001 decides the floor of L * r where T is divisible by 3.
    return tuple(math.cos(math.pi / 2 * s) for s in _progress(num_steps)[:-1])


def maskgit_cosine(num_steps: int, rule: DecodingRule = "enat") -> GenerationSchedule:
    """MaskGIT's own heuristic (arXiv 2202.04200, section 3.2): cosine ratios, tokens drawn at temperature 1, choice
    temperature 4.5 annealed linearly to 0, no guidance."""
    return GenerationSchedule(
        mask_ratios=_cosine_ratios(num_steps),
        sampling_temperatures=(1.0,) * num_steps,
        choice_temperatures=tuple(4.5 * (1 - s) for s in _progress(num_steps)[:-1]),
        guidance_scales=(0.0,) * num_steps,
        rule=rule,
    )


def linear(num_steps: int, rule: DecodingRule = "enat") -> GenerationSchedule:
    """As MaskGIT's heuristic, with mask ratios that fall linearly (MaskGIT, figure 8)."""
    cosine = maskgit_cosine(num_steps, rule)
    return GenerationSchedule(
        mask_ratios=tuple(1 - s for s in _progress(num_steps)[:-1]),
        sampling_temperatures=cosine.sampling_temperatures,
        choice_temperatures=cosine.choice_temperatures,
        guidance_scales=cosine.guidance_scales,
        rule=rule,
    )


def enat_linear(
    num_steps: int, *, guidance_scale: float, choice_temperature: float, sampling_temperature: float
) -> GenerationSchedule:
    """ENAT's three scalars (arXiv 2411.06959; `cfg_scale`, `mask_temp`, `samp_temp` there) as a schedule.

    With s = (t+1)/T: ratios cos(pi s / 2), both temperatures fall as 1 - s (the sampling temperature to no less than
    1e-3), guidance rises as t/T: the official code sets the scale after the step, so it is 0 at the first.
    """
    progress = _progress(num_steps)
    return GenerationSchedule(
        mask_ratios=_cosine_ratios(num_steps),
        sampling_temperatures=tuple(max(sampling_temperature * (1 - s), 1e-3) for s in progress),
        choice_temperatures=tuple(choice_temperature * (1 - s) for s in progress[:-1]),
        guidance_scales=tuple(guidance_scale * step / num_steps for step in range(num_steps)),
        rule="enat",
    )


def muse_linear(
    num_steps: int, *, guidance_scale: float, temperature: float, rule: DecodingRule = "muse"
) -> GenerationSchedule:
    """The two scalars of ``MUSE.generate`` (`scale` and `gen_temp` there) as a schedule.

    With s = (t+1)/T: ratios cos(pi s / 2), sampling and choice temperature both fall as 1 - s, guidance rises as t/T.
    """
    progress = _progress(num_steps)
    return GenerationSchedule(
        mask_ratios=_cosine_ratios(num_steps),
        sampling_temperatures=tuple(temperature * (1 - s) for s in progress),
        choice_temperatures=tuple(temperature * (1 - s) for s in progress[:-1]),
        guidance_scales=tuple(guidance_scale * step / num_steps for step in range(num_steps)),
        rule=rule,
    )


def autonat_initial(num_steps: int, rule: DecodingRule = "autonat") -> GenerationSchedule:
    """Where AutoNAT's search starts: cosine ratios, sampling temperature 1, choice temperature and guidance linear."""
    progress = _progress(num_steps)
    return GenerationSchedule(
        mask_ratios=_cosine_ratios(num_steps),
        sampling_temperatures=(1.0,) * num_steps,
        choice_temperatures=tuple(4.5 * (1 - s) for s in progress[:-1]),
        guidance_scales=tuple(2.0 * s for s in progress),
        rule=rule,
    )


def muse_initial(num_steps: int, rule: DecodingRule = "muse") -> GenerationSchedule:
    """MUSE-Pytorch's heuristic for its CC3M network: cosine ratios, both temperatures 4.5 annealed linearly to 0 (one
    `gen_temp` there), guidance rising linearly as 10 t/T, so 0 at the first step (`scale`)."""
    return muse_linear(num_steps, guidance_scale=10.0, temperature=4.5, rule=rule)


PRESETS: dict[str, Callable[[int, DecodingRule], GenerationSchedule]] = {
    "maskgit-cosine": maskgit_cosine,
    "linear": linear,
    "autonat-initial": autonat_initial,
    "muse-initial": muse_initial,
}
