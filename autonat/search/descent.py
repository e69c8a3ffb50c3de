"""The second stage of a schedule search: finite-difference gradient descent on all 4T - 2 values.

AutoNAT, section 4.1, made fit for noise: common random numbers, balanced labels, dithered mask counts, a standard
error for each component, and as many images as the direction needs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autonat.importance import beyond_noise
from autonat.search.confirm import DECISIVE, duel
from autonat.search.coordinates import coordinates_of, schedule_at, to_value
from autonat.search.program import Decision, Laboratory, Pair, Phase, Program
from autonat.search_config import Descent
from autonat.specs import paired_difference
from models.probes import Probe
from models.schedule import FAMILIES, GenerationSchedule, components

# By how much a difference is widened at a time, and how many times as far the images may get by it as before.
WIDENING, TOO_WIDE = 2.0, 1.2


@dataclass(frozen=True, slots=True)
class Gradient:
    """Derivatives of the distance by coordinate (in units of the family's scale), with their standard errors."""

    values: tuple[float, ...]
    standard_errors: tuple[float, ...]

    def direction_cosine(self) -> float:
        """An estimate of the cosine of the angle to the true gradient: sqrt(1 - noise^2 / length^2), or 0."""
        length = math.fsum(value * value for value in self.values)
        noise = math.fsum(error * error for error in self.standard_errors)
        return math.sqrt(max(0.0, 1 - noise / length)) if length > 0 else 0.0


def _ends(schedule: GenerationSchedule, settings: Descent) -> list[tuple[str, int, float, float]]:
    """For each value its family, its step, and where the family's difference below and above it lies."""
    ends = []
    for (family, step), coordinate in zip(components(schedule.num_steps), coordinates_of(schedule), strict=True):
        width = settings.difference * settings.scales[family]
        ends.append((family, step, to_value(family, coordinate - width), to_value(family, coordinate + width)))
    return ends


def measure_gradient(
    lab: Laboratory, phase: Phase, pair: Pair, settings: Descent, address: tuple[int | str, ...]
) -> Program[tuple[Gradient, float]]:
    """The gradient at a pair, and the distance measured on the way (of perturbed images under `population`).

    Central differences; one that is cut off at the end of a value's range still counts as a full step, which damps it.
    Portions of `settings.images` are added, each on a seed of its own, until the direction is known well enough.
    """
    changes: list[tuple[float, ...]] = []
    variances: list[tuple[float, ...]] = []
    distances: list[float] = []
    limit = settings.max_images or settings.images
    while True:
        seed = lab.seed_for(*address, len(changes))
        if settings.estimator == "population":
            change, error, distance = yield from _by_population(lab, phase, pair, settings, seed)
        else:
            change, error, distance = yield from _by_probes(lab, phase, pair, settings, seed)
        changes.append(change)
        variances.append(tuple(value * value for value in error))
        distances.append(distance)
        portions = len(changes)
        width = 2 * settings.difference
        gradient = Gradient(
            tuple(math.fsum(column) / portions / width for column in zip(*changes, strict=True)),
            tuple(math.sqrt(math.fsum(column)) / portions / width for column in zip(*variances, strict=True)),
        )
        known = gradient.direction_cosine() >= settings.confidence
        if known or (portions + 1) * settings.images > limit or not lab.has_budget():
            return gradient, math.fsum(distances) / portions


Estimate = tuple[tuple[float, ...], tuple[float, ...], float]


def _by_population(lab: Laboratory, phase: Phase, pair: Pair, settings: Descent, seed: int) -> Program[Estimate]:
    ends = _ends(pair.schedule, settings)
    found = yield from lab.perturb(
        phase, pair, [low for _, _, low, _ in ends], [high for _, _, _, high in ends], settings.images, seed
    )
    return found.changes, found.standard_errors, found.value


def _by_probes(lab: Laboratory, phase: Phase, pair: Pair, settings: Descent, seed: int) -> Program[Estimate]:
    probes: list[Probe] = []
    weights: list[dict[int, float]] = []  # of the probes in each value's change from its lower to its upper end
    for (family, step, low, high), value in zip(_ends(pair.schedule, settings), pair.schedule.values(), strict=True):
        first = len(probes)
        if settings.sides == "central":
            probes += [Probe(family, step, high), Probe(family, step, low)]
            weights.append({first: 1.0, first + 1: -1.0})
        else:  # twice the way to one end: the upper, unless the value is there already
            upwards = high > value
            probes.append(Probe(family, step, high if upwards else low))
            weights.append({first: 2.0 if upwards else -2.0})
    differences = yield from lab.probe(phase, pair, probes, settings.images, seed)
    found = [differences.mean([own.get(number, 0.0) for number in range(len(probes))]) for own in weights]
    return tuple(change for change, _ in found), tuple(error for _, error in found), differences.value


@dataclass
class _Width:
    """A descent's differences: wider after a gradient that was lost in its noise, narrower again after a clear one.

    What a value does to the distance grows with the difference and the noise does not. But images made with wide
    differences are of other schedules than the one at hand: where their distance is clearly higher, such a difference
    is not used again.
    """

    given: float
    current: float
    widest: float
    narrow_distance: float = math.inf

    @staticmethod
    def of(settings: Descent) -> "_Width":
        return _Width(settings.difference, settings.difference, settings.widest * settings.difference)

    def is_too_wide(self, distance: float) -> bool:
        """Whether a gradient measured with this width, at this distance of its images, is to be left out."""
        if self.current == self.given:
            self.narrow_distance = distance
            return False
        if distance <= TOO_WIDE * self.narrow_distance:
            return False
        self.current = self.widest = max(self.given, self.current / WIDENING)
        return True

    def refocus(self, is_known: bool) -> None:
        wanted = self.current * (1 / WIDENING if is_known else WIDENING)
        self.current = max(self.given, min(self.widest, wanted))


def shrink(gradient: Gradient) -> list[float]:
    """Each component without what is lost in its own noise, so that noise alone does not move the schedule."""
    return [beyond_noise(value, error) for value, error in zip(gradient.values, gradient.standard_errors, strict=True)]


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
    pair = safe = start
    width = _Width.of(settings)
    boldness = 1.0
    # The gradient is of the distance alone: where variety counts too, its way is looked at.
    every = settings.check_every or (settings.iterations if lab.variety is not None else 0)
    for iteration in range(settings.iterations):
        if not lab.has_budget():
            break
        gradient, distance = yield from measure_gradient(
            lab,
            phase.at("gradient"),
            pair,
            settings.model_copy(update={"difference": width.current}),
            (*seed_address, "gradient", iteration),
        )
        yield Decision(
            phase.at("gradient"),
            {
                "iteration": iteration,
                "distance": distance,
                "schedule": pair.schedule,
                "gradient": gradient.values,
                "gradient_standard_errors": gradient.standard_errors,
                "direction_cosine": gradient.direction_cosine(),
            },
        )
        if width.is_too_wide(distance):
            continue
        width.refocus(gradient.direction_cosine() >= settings.confidence)
        cooling = 0.5 * (1 + math.cos(math.pi * iteration / settings.iterations))
        move = momentum.step(shrink(gradient), boldness * settings.learning_rate * cooling)
        coordinates = [
            coordinate + settings.scales[family] * change
            for coordinate, change, family in zip(coordinates, move, families, strict=True)
        ]
        schedule = schedule_at(coordinates, start.schedule)
        coordinates = coordinates_of(schedule)  # what was cut off at the end of its range stays there
        pair = Pair(start.training, schedule)
        way.append(coordinates)
        if every and (iteration + 1) % every == 0 and pair != safe:
            images = lab.whole_blocks(settings.images)
            address = (*seed_address, "check", iteration)
            change, error, _, _ = yield from duel(lab, phase.at("check"), safe, pair, images, address, looks=1)
            if change > DECISIVE * error:  # confirmed worse: back, and more gently
                if lab.variety is not None and lab.has_budget():
                    images = lab.whole_blocks(settings.images // 2)
                    safe = yield from _part_of_the_way(lab, phase.at("check"), safe, pair, images, address)
                pair, way = safe, []
                coordinates = coordinates_of(safe.schedule)
                momentum = Momentum(len(coordinates), settings)
                boldness /= 2
            else:
                safe = pair
    if not way:  # what the last check sent back to
        return [safe]
    tail = way[len(way) // 2 :]
    mean = [math.fsum(column) / len(tail) for column in zip(*tail, strict=True)]
    return [pair, Pair(start.training, schedule_at(mean, start.schedule))]


def _part_of_the_way(
    lab: Laboratory, phase: Phase, safe: Pair, end: Pair, num_images: int, address: tuple[int | str, ...]
) -> Program[Pair]:
    """The best of some points on the way from `safe` to an end that was found worse, or `safe` itself.

    The way was downhill, so that mostly the end has lost variety: half of the way may keep it, or the whole of it
    without the family of values that cost it.
    """
    here, there = coordinates_of(safe.schedule), coordinates_of(end.schedule)
    families = [family for family, _ in components(safe.schedule.num_steps)]
    points = [[(a + b) / 2 for a, b in zip(here, there, strict=True)]]
    for left in FAMILIES:
        points.append([a if family == left else b for a, b, family in zip(here, there, families, strict=True)])
    pairs = [safe, *(replace(safe, schedule=schedule_at(point, safe.schedule)) for point in points)]
    seed = lab.seed_for(*address, "part of the way")
    pairs = list(dict.fromkeys(pairs))  # with one step there are families without values
    judged = yield from lab.judge(phase, [lab.evaluation(pair, num_images, seed) for pair in pairs])
    best = min(range(len(pairs)), key=lambda index: (judged[index].value, index))
    change, error = paired_difference(judged[best], judged[0])
    return pairs[best] if change < -error else safe
