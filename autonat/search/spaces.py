"""What a black-box search moves: a few shape parameters of a smooth schedule, or every value on its own.

A space names its parameters with their ranges, says where to begin, and makes a schedule of a point.
"""

from collections.abc import Callable
from dataclasses import dataclass

from autonat.search.coordinates import coordinates_of, schedule_at
from autonat.search.family import CENTRE, GUIDANCE_BOX, PARAMETERS, SAMPLING_BOX, RatioShape, parameters_of, schedule_of
from models.schedule import GenerationSchedule, components


@dataclass(frozen=True)
class Space:
    """parameters: (low, high) by name; start: a point to try first; schedule: the schedule of a point."""

    parameters: dict[str, tuple[float, float]]
    start: dict[str, float]
    schedule: Callable[[dict[str, float]], GenerationSchedule]


def family_space(like: GenerationSchedule, ratio_shape: RatioShape) -> Space:
    """Smooth schedules with the length and the rule of `like`: 8 parameters whatever the length."""
    return Space(
        parameters_of(PARAMETERS, ratio_shape),
        parameters_of(CENTRE, ratio_shape),
        lambda point: schedule_of(point, like.num_steps, like.rule, ratio_shape),
    )


# The box of the full space, in the coordinates of ``autonat.search.coordinates``.
BOX: dict[str, tuple[float, float]] = {
    "mask_ratios": (-4.0, 4.0),
    "sampling_temperatures": SAMPLING_BOX,
    "choice_temperatures": (0.0, 6.0),
    "guidance_scales": GUIDANCE_BOX,
}


def full_space(start: GenerationSchedule) -> Space:
    """All 4T - 2 values, each on its own, beginning at `start`; the box is wider where `start` lies outside."""
    names = [f"{family}_{step + 1}" for family, step in components(start.num_steps)]
    here = coordinates_of(start)
    families = [BOX[family] for family, _ in components(start.num_steps)]
    boxes = [(min(low, value), max(high, value)) for value, (low, high) in zip(here, families, strict=True)]

    def schedule(point: dict[str, float]) -> GenerationSchedule:
        coordinates = [point[name] for name in names]
        # To the bit, so that a search that goes back to its start is known to have done so.
        return start if coordinates == here else schedule_at(coordinates, start)

    return Space(dict(zip(names, boxes, strict=True)), dict(zip(names, here, strict=True)), schedule)
