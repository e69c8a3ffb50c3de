"""The coordinates in which a schedule is moved: logit of ratios, log of sampling temperatures, log of one more than the
guidance scale (by which guided logits are scaled: their bold steps grow with it), choice temperatures as they are.

A unit step in each coordinate is about as bold as in any other once divided by its family's scale.
"""

import math

from models.schedule import GenerationSchedule, components

# Where a descent may go: inside the schedule's own bounds, and away from where a coordinate is infinite.
RANGE: dict[str, tuple[float, float]] = {
    "mask_ratios": (0.005, 0.995),
    "sampling_temperatures": (0.05, 10.0),
    "choice_temperatures": (0.0, 50.0),
    "guidance_scales": (-0.9, 20.0),
}


def to_coordinate(family: str, value: float) -> float:
    low, high = RANGE[family]
    value = min(high, max(low, value))
    if family == "mask_ratios":
        return math.log(value / (1 - value))
    if family == "sampling_temperatures":
        return math.log(value)
    if family == "guidance_scales":
        return math.log1p(value)
    return value


def to_value(family: str, coordinate: float) -> float:
    """Back to the schedule's value, clipped to the family's range."""
    if family == "mask_ratios":
        coordinate = 1 / (1 + math.exp(-max(-30.0, min(30.0, coordinate))))
    elif family == "sampling_temperatures":
        coordinate = math.exp(min(30.0, coordinate))
    elif family == "guidance_scales":
        coordinate = math.expm1(min(30.0, coordinate))
    low, high = RANGE[family]
    return min(high, max(low, coordinate))


def coordinates_of(schedule: GenerationSchedule) -> list[float]:
    """All 4T - 2 coordinates, in the order of ``GenerationSchedule.values``."""
    families = [family for family, _ in components(schedule.num_steps)]
    return [to_coordinate(family, value) for family, value in zip(families, schedule.values(), strict=True)]


def schedule_at(coordinates: list[float], like: GenerationSchedule) -> GenerationSchedule:
    """The schedule of the given coordinates, with the length and rule of another.

    What was outside the range there, as a sampling temperature of 0, stays what it was until it is moved inside.
    """
    families = [family for family, _ in components(like.num_steps)]
    values = []
    for family, coordinate, before in zip(families, coordinates, like.values(), strict=True):
        low, high = RANGE[family]
        edge = to_coordinate(family, before)
        stays = (before < low and coordinate <= edge) or (before > high and coordinate >= edge)
        values.append(before if stays else to_value(family, coordinate))
    return like.with_values(values)
