"""What a black-box search moves: a few shape parameters of a smooth schedule, or every value on its own.

A space names its parameters with their ranges, says where to begin, and makes a schedule of a point. `far`: with wider
ranges, for searches that keep variety.
"""

from collections.abc import Callable
from dataclasses import dataclass

from autonat.search.coordinates import coordinates_of, schedule_at
from autonat.search.family import (
    CENTRE,
    FAR_PARAMETERS,
    PARAMETERS,
    Box,
    RatioShape,
    box_of,
    parameters_of,
    schedule_of,
)
from models.schedule import GenerationSchedule, components


@dataclass(frozen=True)
class Space:
    """parameters: (low, high) by name; start: a point to try first; schedule: the schedule of a point."""

    parameters: dict[str, tuple[float, float]]
    start: dict[str, float]
    schedule: Callable[[dict[str, float]], GenerationSchedule]


def family_space(like: GenerationSchedule, ratio_shape: RatioShape, *, far: bool = False) -> Space:
    """Smooth schedules with the length and the rule of `like`: 8 parameters whatever the length."""
    return Space(
        parameters_of(FAR_PARAMETERS if far else PARAMETERS, ratio_shape),
        parameters_of(CENTRE, ratio_shape),
        lambda point: schedule_of(point, like.num_steps, like.rule, ratio_shape),
    )


# The box of the full space, in the coordinates of ``autonat.search.coordinates``.
BOX: Box = {
    "mask_ratios": (-4.0, 4.0),
    "sampling_temperatures": box_of("sampling_temperatures", 0.3, 3.0),
    "choice_temperatures": (0.0, 6.0),
    "guidance_scales": box_of("guidance_scales", -0.3, 4.0),
}
FAR_BOX: Box = BOX | {
    "sampling_temperatures": box_of("sampling_temperatures", 0.1, 4.0),
    "guidance_scales": box_of("guidance_scales", -0.3, 8.0),
}


def full_space(start: GenerationSchedule, *, far: bool = False) -> Space:
    """All 4T - 2 values, each on its own, beginning at `start`; the box is wider where `start` lies outside."""
    names = [f"{family}_{step + 1}" for family, step in components(start.num_steps)]
    here = coordinates_of(start)
    families = [(FAR_BOX if far else BOX)[family] for family, _ in components(start.num_steps)]
    boxes = [(min(low, value), max(high, value)) for value, (low, high) in zip(here, families, strict=True)]

    def schedule(point: dict[str, float]) -> GenerationSchedule:
        coordinates = [point[name] for name in names]
        # To the bit, so that a search that goes back to its start is known to have done so.
        return start if coordinates == here else schedule_at(coordinates, start)

    return Space(dict(zip(names, boxes, strict=True)), dict(zip(names, here, strict=True)), schedule)
