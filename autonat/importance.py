"""Which values of the schedule matter: the gradients that a study measured, boiled down to a table."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from autonat.phases import is_front
from models.schedule import components


def beyond_noise(value: float, error: float) -> float:
    """A gradient's component times max(0, 1 - SE^2 / g^2): what is lost in its own noise counts for nothing."""
    return value * max(0.0, 1 - (error / value) ** 2) if value else 0.0


@dataclass(frozen=True, slots=True)
class Importance:
    """size: mean over iterates of what exceeds the noise, in distance per unit of the family's scale. slope,
    standard_error: the mean gradient and its standard error."""

    family: str
    step: int
    size: float
    slope: float
    standard_error: float


def importance(decisions: Iterable[dict[str, Any]]) -> list[Importance]:
    """The most important value first, over the decisions of a study, those about other numbers of steps left out.

    Decisions without standard errors (the published search's) are left out too: what exceeds their noise is not known.
    """
    gradients = [
        (decision["gradient"], decision["gradient_standard_errors"])
        for decision in decisions
        if decision.get("gradient_standard_errors") and not is_front(decision["phase"])
    ]
    if not gradients:
        return []
    rows = []
    for index, (family, step) in enumerate(components((len(gradients[0][0]) + 2) // 4)):
        values = [gradient[index] for gradient, _ in gradients]
        errors = [error[index] for _, error in gradients]
        sizes = [abs(beyond_noise(value, error)) for value, error in zip(values, errors, strict=True)]
        count = len(values)
        rows.append(
            Importance(
                family,
                step,
                math.fsum(sizes) / count,
                math.fsum(values) / count,
                math.sqrt(math.fsum(error * error for error in errors)) / count,
            )
        )
    return sorted(rows, key=lambda row: -row.size)
