"""A family of smooth schedules with 8 parameters: where a search starts, before it moves all 4T - 2 values.

With s = (t+1)/T and s0 = t/(T-1): mask ratios cos(pi/2 s^p)^q, or 1 - F(s) with F a Beta's distribution function;
temperatures and guidance linear in s0 between their first and last steps, in the descent's coordinates.
"""

import math
from typing import Literal

from autonat.search.coordinates import to_coordinate, to_value
from models.schedule import DecodingRule, GenerationSchedule

RatioShape = Literal["cosine_power", "beta_cdf"]

# The two parameters of the mask ratios under `beta_cdf`, in place of the powers: ranges, and near the cosine.
BETA_PARAMETERS: dict[str, tuple[float, float]] = {"ratio_alpha": (0.3, 5.0), "ratio_beta": (0.3, 5.0)}
BETA_CENTRE: dict[str, float] = {"ratio_alpha": 1.7, "ratio_beta": 1.0}
POWERS = ("ratio_time_power", "ratio_power")

Box = dict[str, tuple[float, float]]


def box_of(family: str, low: float, high: float) -> tuple[float, float]:
    """A range of a family's values in its coordinate."""
    return to_coordinate(family, low), to_coordinate(family, high)


def _parameters(sampling_temperatures: tuple[float, float], guidance_scales: tuple[float, float]) -> Box:
    sampling = box_of("sampling_temperatures", *sampling_temperatures)
    guidance = box_of("guidance_scales", *guidance_scales)
    return {
        "ratio_time_power": (0.3, 2.0),
        "ratio_power": (0.4, 3.0),
        "sampling_temperature_first": sampling,
        "sampling_temperature_last": sampling,
        "choice_temperature_first": (0.0, 5.0),
        "choice_temperature_last": (0.0, 5.0),
        "guidance_first": guidance,
        "guidance_last": guidance,
    }


# What is searched, in coordinates. Far out, strong guidance with tokens drawn at high temperatures can be worth much,
# and can make one picture of a class: only searches that keep variety go there.
PARAMETERS = _parameters((0.4, 1.6), (-0.3, 2.5))
FAR_PARAMETERS = _parameters((0.1, 4.0), (-0.3, 8.0))

# Near AutoNAT's initial strategy: cosine ratios, temperature 1, choice noise that fades, guidance that grows.
CENTRE: dict[str, float] = {
    "ratio_time_power": 1.0,
    "ratio_power": 1.0,
    "sampling_temperature_first": to_coordinate("sampling_temperatures", 1.0),
    "sampling_temperature_last": to_coordinate("sampling_temperatures", 1.0),
    "choice_temperature_first": 3.0,
    "choice_temperature_last": 1.0,
    "guidance_first": to_coordinate("guidance_scales", 0.0),
    "guidance_last": to_coordinate("guidance_scales", 1.0),
}


def parameters_of(table: dict, ratio_shape: RatioShape) -> dict:
    """PARAMETERS, FAR_PARAMETERS or CENTRE for a shape of the mask ratios."""
    if ratio_shape == "cosine_power":
        return dict(table)
    beta: dict = BETA_CENTRE if table is CENTRE else BETA_PARAMETERS
    return {**beta, **{name: value for name, value in table.items() if name not in POWERS}}


def schedule_of(
    parameters: dict[str, float], num_steps: int, rule: DecodingRule, ratio_shape: RatioShape = "cosine_power"
) -> GenerationSchedule:
    """The family's schedule of T steps. Raises KeyError for a missing parameter."""

    def line(name: str, family: str, length: int) -> tuple[float, ...]:
        first, last = parameters[f"{name}_first"], parameters[f"{name}_last"]
        between = (first + (last - first) * step / max(1, num_steps - 1) for step in range(length))
        return tuple(to_value(family, coordinate) for coordinate in between)

    def ratio(step: int) -> float:
        if ratio_shape == "beta_cdf":
            from scipy.special import betaincc

            share = (step + 1) / num_steps
            return float(betaincc(parameters["ratio_alpha"], parameters["ratio_beta"], share))
        progress = ((step + 1) / num_steps) ** parameters["ratio_time_power"]
        return min(1.0, max(0.0, math.cos(math.pi / 2 * progress))) ** parameters["ratio_power"]

    return GenerationSchedule(
        mask_ratios=tuple(ratio(step) for step in range(num_steps - 1)),
        sampling_temperatures=line("sampling_temperature", "sampling_temperatures", num_steps),
        choice_temperatures=line("choice_temperature", "choice_temperatures", num_steps - 1),
        guidance_scales=line("guidance", "guidance_scales", num_steps),
        rule=rule,
    )
