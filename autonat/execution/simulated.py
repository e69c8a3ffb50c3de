"""A seeded noisy bowl in place of networks and images: searches run against it in milliseconds."""

import math
from collections.abc import Callable, Sequence

from autonat.search.coordinates import coordinates_of
from autonat.specs import (
    Changes,
    Differences,
    Evaluation,
    EvaluationSpec,
    FeatureChangeSpec,
    Features,
    FeatureSpec,
    Metrics,
    MetricsSpec,
    OneStepSpec,
    PopulationSpec,
    ProbeSpec,
    Result,
    Spec,
    Trained,
    TrainSpec,
    fingerprint,
    painted,
)
from models.frechet import standard_error
from models.mask_ratio import AnyMaskRatio, BetaMaskRatio
from models.random_streams import stream
from models.schedule import GenerationSchedule, components, resampled


class SimulatedLandscape:
    """Distance = floor + a quadratic bowl over the schedule's coordinates + one over log alpha and log beta + noise.

    noise: standard deviation of one image's share. Evaluations of one seed share their noise up to `private`, as
    common random numbers do. `asked` counts the images that real work would have cost.
    """

    def __init__(
        self,
        optimum: GenerationSchedule,
        *,
        alpha: float = 12.0,
        beta: float = 3.0,
        noise: float = 2.0,
        private: float = 0.2,
        floor: float = 0.4,
    ) -> None:
        self.optimum = optimum
        self.alpha, self.beta = alpha, beta
        self.noise, self.private, self.floor = noise, private, floor
        self.asked = 0
        self.fulfilled: list[Spec] = []

    def true_distance(self, schedule: GenerationSchedule, mask_ratio: AnyMaskRatio) -> float:
        """What an evaluation measures without noise. With other numbers of steps the bowl's bottom is interpolated."""
        optimum = self.optimum
        if schedule.num_steps != optimum.num_steps:
            optimum = resampled(optimum, schedule.num_steps)
        gaps = [a - b for a, b in zip(coordinates_of(schedule), coordinates_of(optimum), strict=True)]
        bowl = math.fsum(gap * gap for gap in gaps) / len(gaps)
        if isinstance(mask_ratio, BetaMaskRatio):
            bowl += 0.3 * math.log(mask_ratio.alpha / self.alpha) ** 2
            bowl += 0.1 * math.log(mask_ratio.beta / self.beta) ** 2
        else:
            bowl += 1.0
        return self.floor + bowl

    def begin(self, study_id: int, stopping: Callable[[], bool]) -> None:
        """Nothing to prepare."""

    def tick(self) -> None:
        """Nothing to write down."""

    def fulfil(self, requests: Sequence[Spec]) -> list[Result]:
        self.asked += sum(spec.images for spec in painted(requests))
        return [self._answer(spec) for spec in requests]

    def _answer(self, spec: Spec) -> Result:
        self.fulfilled.append(spec)
        if isinstance(spec, FeatureSpec):
            return Features(0.99, self.floor / 2, 0.01, 500)
        if isinstance(spec, TrainSpec):
            return Trained(1.5)
        if isinstance(spec, MetricsSpec):
            values = dict.fromkeys(spec.names, self.true_distance(spec.schedule, spec.training.mask_ratio))
            if "variety" in values:  # the same everywhere
                del values["variety"]
                values["within_class_variance"] = 1.0
            same = (1.0,) * spec.num_blocks
            return Metrics(values, spec.features.metric, spec.seed, spec.num_images, spec.num_images, 0, 0, same)
        # The analyses look at networks, and here there are none.
        assert not isinstance(spec, OneStepSpec | FeatureChangeSpec)
        true = self.true_distance(spec.schedule, spec.training.mask_ratio)
        if isinstance(spec, EvaluationSpec):
            shares = self._noisy(true, spec, fingerprint(spec))
            value = math.fsum(shares) / len(shares)
            return Evaluation(
                value, standard_error(shares), spec.num_images, spec.features.metric, spec.seed, tuple(shares)
            )
        return self._perturbed(spec, true) if isinstance(spec, PopulationSpec) else self._probed(spec, true)

    def _noisy(self, value: float, spec: EvaluationSpec | ProbeSpec, private_address: str) -> list[float]:
        spread = self.noise / math.sqrt(spec.block_size)
        common = stream(spec.seed, "common").standard_normal(spec.num_blocks)
        own = stream(spec.seed, "private", private_address).standard_normal(spec.num_blocks)
        return [value + spread * (float(a) + self.private * float(b)) for a, b in zip(common, own, strict=True)]

    def _perturbed(self, spec: PopulationSpec, base: float) -> Changes:
        """Each value's change on its own; noise as of pairs in which every value moved."""
        changes, count = [], len(spec.lows)
        spread = self.private * self.noise * math.sqrt(2 / spec.num_images)
        noise = stream(spec.seed, "population").standard_normal(count)
        for index in range(count):
            ends = []
            for end in (spec.lows, spec.highs):
                values = list(spec.schedule.values())
                values[index] = end[index]
                moved = spec.schedule.with_values(values)
                ends.append(self.true_distance(moved, spec.training.mask_ratio))
            changes.append(ends[1] - ends[0] + spread * float(noise[index]))
        return Changes(base, spec.features.metric, spec.num_images, tuple(changes), (spread,) * count)

    def _probed(self, spec: ProbeSpec, base: float) -> Differences:
        columns = []
        for number, probe in enumerate(spec.probes):
            values = dict(zip(components(spec.schedule.num_steps), spec.schedule.values(), strict=True))
            values[probe.family, probe.step] = probe.value
            probed = self.true_distance(spec.schedule.with_values(list(values.values())), spec.training.mask_ratio)
            own = stream(spec.seed, "probe", number).standard_normal(spec.num_blocks)
            spread = self.private * self.noise / math.sqrt(spec.block_size)
            columns.append([probed - base + spread * float(value) for value in own])
        return Differences(
            base, spec.features.metric, spec.num_images, tuple(tuple(row) for row in zip(*columns, strict=True))
        )
