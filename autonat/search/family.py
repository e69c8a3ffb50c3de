"""A family of smooth schedules with 8 parameters: where a search starts, before it moves all 4T - 2 values.

With s = (t+1)/T and s0 = t/(T-1): mask ratios cos(pi/2 s^p)^q; temperatures and guidance linear in s0 between their
values at the first and the last step.
"""

import math

from models.schedule import BOUNDS, DecodingRule, GenerationSchedule

# name: (low, high), the box that is searched.
PARAMETERS: dict[str, tuple[float, float]] = {
    "ratio_time_power": (0.3, 2.0),
    "ratio_power": (0.4, 3.0),
    "sampling_temperature_first": (0.4, 1.6),
    "sampling_temperature_last": (0.4, 1.6),
    "choice_temperature_first": (0.0, 5.0),
    "choice_temperature_last": (0.0, 5.0),
    "guidance_first": (-0.3, 2.5),
    "guidance_last": (-0.3, 2.5),
}

# Near AutoNAT's initial strategy: cosine ratios, temperature 1, choice noise that fades, guidance that grows.
CENTRE: dict[str, float] = {
    "ratio_time_power": 1.0,
    "ratio_power": 1.0,
    "sampling_temperature_first": 1.0,
    "sampling_temperature_last": 1.0,
    "choice_temperature_first": 3.0,
    "choice_temperature_last": 1.0,
    "guidance_first": 0.0,
    "guidance_last": 1.0,
}


def schedule_of(parameters: dict[str, float], num_steps: int, rule: DecodingRule) -> GenerationSchedule:
    """The family's schedule of T steps. Raises KeyError for a missing parameter."""

    def line(name: str, length: int) -> tuple[float, ...]:
        first, last = parameters[f"{name}_first"], parameters[f"{name}_last"]
        return tuple(first + (last - first) * step / max(1, num_steps - 1) for step in range(length))

    def ratio(step: int) -> float:
        progress = ((step + 1) / num_steps) ** parameters["ratio_time_power"]
        return min(1.0, max(0.0, math.cos(math.pi / 2 * progress))) ** parameters["ratio_power"]

    low, high = BOUNDS["guidance_scales"]
    return GenerationSchedule(
        mask_ratios=tuple(ratio(step) for step in range(num_steps - 1)),
        sampling_temperatures=line("sampling_temperature", num_steps),
        choice_temperatures=line("choice_temperature", num_steps - 1),
        guidance_scales=tuple(min(high, max(low, value)) for value in line("guidance", num_steps)),
        rule=rule,
    )
