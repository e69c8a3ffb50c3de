"""The second stage of a schedule search: finite-difference gradient descent on all 4T - 2 values.

AutoNAT, section 4.1, made fit for noise: common random numbers, balanced labels, dithered mask counts, a standard
error for each component.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autonat.config import Descent
from autonat.search.coordinates import coordinates_of, schedule_at, to_value
from autonat.search.program import Decision, Laboratory, Pair, Phase, Program
from autonat.specs import Differences
from models.probes import Probe
from models.schedule import GenerationSchedule, components


@dataclass(frozen=True, slots=True)
class Gradient:
    """Derivatives of the distance by coordinate (in units of the family's scale), with their standard errors."""

    values: tuple[float, ...]
    standard_errors: tuple[float, ...]


def central_probes(schedule: GenerationSchedule, settings: Descent) -> list[Probe]:
    """Two probes a component, up and down by the family's step."""
    probes = []
    for (family, step), coordinate in zip(components(schedule.num_steps), coordinates_of(schedule), strict=True):
        width = settings.difference * settings.scales[family]
        probes += [Probe(family, step, to_value(family, coordinate + sign * width)) for sign in (1, -1)]
    return probes


def gradient_from(differences: Differences, settings: Descent, num_steps: int) -> Gradient:
    """Central differences; a probe cut off at the end of its range still counts as a full step, which damps it."""
    values, errors = [], []
    count = len(components(num_steps))
    for component in range(count):
        weights = [0.0] * (2 * count)
        weights[2 * component : 2 * component + 2] = [1, -1]
        change, error = differences.mean(weights)
        values.append(change / (2 * settings.difference))
        errors.append(error / (2 * settings.difference))
    return Gradient(tuple(values), tuple(errors))


def shrink(gradient: Gradient) -> list[float]:
    """Each component times max(0, 1 - SE^2 / g^2): what is lost in its own noise does not move the schedule."""
    return [
        0.0 if value == 0 else value * max(0.0, 1 - (error / value) ** 2)
        for value, error in zip(gradient.values, gradient.standard_errors, strict=True)
    ]


class Momentum:
    """Adam without a bias in the first steps (Kingma & Ba, 2015), so that no family needs a rate of its own."""

    def __init__(self, length: int, settings: Descent) -> None:
        self.first, self.second, self.count = [0.0] * length, [0.0] * length, 0
        self.settings = settings

    def step(self, gradient: Sequence[float], rate: float) -> list[float]:
        """How far to move each coordinate, in units of its family's scale."""
        beta1, beta2 = self.settings.momentum, self.settings.second_momentum
        self.count += 1
        self.first = [beta1 * m + (1 - beta1) * g for m, g in zip(self.first, gradient, strict=True)]
        self.second = [beta2 * v + (1 - beta2) * g * g for v, g in zip(self.second, gradient, strict=True)]
        correct1, correct2 = 1 - beta1**self.count, 1 - beta2**self.count
        return [
            -rate * (m / correct1) / (math.sqrt(v / correct2) + 1e-12)
            for m, v in zip(self.first, self.second, strict=True)
        ]


def descend(
    lab: Laboratory, phase: Phase, start: Pair, settings: Descent, seed_address: tuple[int | str, ...]
) -> Program[list[Pair]]:
    """Walk downhill from `start`; returns the last point and the mean of the second half of the way, to be confirmed.

    Every iteration uses a seed of its own, so that the walk does not fit itself to one set of noise.
    """
    coordinates = coordinates_of(start.schedule)
    families = [family for family, _ in components(start.schedule.num_steps)]
    momentum = Momentum(len(coordinates), settings)
    way: list[list[float]] = []
    pair = start
    for iteration in range(settings.iterations):
        if not lab.has_budget():
            break
        differences = yield from lab.probe(
            phase.at("gradient"),
            pair,
            central_probes(pair.schedule, settings),
            settings.images,
            lab.seed_for(*seed_address, "gradient", iteration),
        )
        gradient = gradient_from(differences, settings, pair.schedule.num_steps)
        yield Decision(
            phase.at("gradient"),
            {
                "iteration": iteration,
                "distance": differences.value,
                "schedule": pair.schedule,
                "gradient": gradient.values,
                "gradient_standard_errors": gradient.standard_errors,
            },
        )
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * iteration / settings.iterations))
        move = momentum.step(shrink(gradient), rate)
        coordinates = [
            coordinate + settings.scales[family] * change
            for coordinate, change, family in zip(coordinates, move, families, strict=True)
        ]
        schedule = schedule_at(coordinates, start.schedule)
        coordinates = coordinates_of(schedule)  # what was cut off at the end of its range stays there
        pair = Pair(start.training, schedule)
        way.append(coordinates)
    if not way:
        return []
    tail = way[len(way) // 2 :]
    mean = [math.fsum(column) / len(tail) for column in zip(*tail, strict=True)]
    return [pair, Pair(start.training, schedule_at(mean, start.schedule))]
