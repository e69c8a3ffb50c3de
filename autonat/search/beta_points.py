"""The points of the (alpha, beta) plane that a Beta search has trained, and what each was worth."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autonat.search.black_box import black_box
from autonat.search.from_scratch import Judged
from autonat.search.program import Laboratory, Pair, Phase, Program, together
from autonat.search.rungs import Rungs
from autonat.search_config import BetaSearch
from autonat.specs import Evaluation, TrainSpec, derived_seed
from models.frechet import standard_error
from models.mask_ratio import BetaMaskRatio


def _mean_shares(repeats: Sequence[Judged]) -> list[float]:
    """Each block's share of the mean over repeated trainings, which were all measured on the same images."""
    columns = zip(*(judgement.evaluation.shares for judgement in repeats), strict=True)
    return [math.fsum(column) / len(column) for column in columns]


def _luck(repeats: Sequence[Judged]) -> float:
    """Standard error of the mean over trainings; 0 for a single one, whose luck nobody knows."""
    return standard_error([judgement.evaluation.value for judgement in repeats]) if len(repeats) > 1 else 0.0


def error_of_mean(repeats: Sequence[Judged]) -> float:
    """Standard error of the mean over trainings: the images' and, where there are several trainings, their own."""
    return math.hypot(standard_error(_mean_shares(repeats)), _luck(repeats))


def difference(candidate: Sequence[Judged], incumbent: Sequence[Judged]) -> tuple[float, float]:
    """Mean of the candidate's trainings minus that of the incumbent's, measured on the same images, and its standard
    error: of the paired images and, where there are several trainings, of these."""
    means = [math.fsum(one.evaluation.value for one in repeats) / len(repeats) for repeats in (candidate, incumbent)]
    gaps = [a - b for a, b in zip(_mean_shares(candidate), _mean_shares(incumbent), strict=True)]
    return means[0] - means[1], math.hypot(standard_error(gaps), _luck(candidate), _luck(incumbent))


class BetaPoints:
    """Trains points and judges them: all of a phase with the same seed, so that they compare in pairs.

    A point may be trained several times, with other training seeds; it is worth the mean.
    """

    def __init__(self, lab: Laboratory, phase: Phase, incumbent: Pair, settings: BetaSearch) -> None:
        self.lab, self.phase, self.incumbent, self.settings = lab, phase, incumbent, settings
        assert isinstance(incumbent.training, TrainSpec)  # a recipe with a checkpoint has no such phase
        self.training: TrainSpec = incumbent.training
        self.seed = lab.seed_for("mask ratio", phase.round)
        self.judged: dict[BetaMaskRatio, list[Judged]] = {}  # by training seed
        warm = settings.warm_start
        self._most = settings.max_trainings - (warm is not None)  # one is kept for the winner's from scratch
        steps = settings.rung_steps(self.training.training.steps if warm is None else warm.steps)
        self.rungs = Rungs(lab, phase, steps, settings.images, self.seed)

    @property
    def trainings(self) -> int:
        return sum(len(repeats) for repeats in self.judged.values()) + len(self.rungs.ended)

    @property
    def exhausted(self) -> bool:
        return self.trainings >= self._most or not self.lab.has_budget()

    def value(self, point: BetaMaskRatio) -> float:
        return math.fsum(judgement.evaluation.value for judgement in self.judged[point]) / len(self.judged[point])

    def against_incumbent(self, point: BetaMaskRatio, base: Evaluation) -> tuple[float, float]:
        """How much farther a point is than the incumbent, and its standard error. base: the incumbent's evaluation
        under its own schedule, to which further trainings of its mask ratio count as repeats."""
        own = [Judged(base, self.incumbent)]
        if isinstance(self.incumbent.mask_ratio, BetaMaskRatio):
            own += self.judged.get(self.incumbent.mask_ratio, own)[1:]
        return difference(self.judged[point], own)

    def best_training(self, point: BetaMaskRatio) -> Judged:
        """The point's network that measured best, under its schedule."""
        return min(self.judged[point], key=lambda judgement: judgement.evaluation.value)

    def best_of(self, line: Sequence[BetaMaskRatio]) -> BetaMaskRatio:
        known = [point for point in line if point in self.judged]
        return min(known, key=lambda point: (self.value(point), known.index(point)))

    def judge_incumbent(self, base: Evaluation) -> Program[None]:
        """The incumbent as a point of its line: under the best of a short search too, as every other point, as a line
        compares distributions and not schedules. base: its evaluation under its own schedule."""
        assert isinstance(self.incumbent.mask_ratio, BetaMaskRatio)
        own = [Judged(base, self.incumbent)]
        if self.settings.retune is not None and not self.exhausted:
            others = (yield from self._schedules_for(self.incumbent))[1:]
            own += map(Judged, (yield from self._evaluate(others)), others)
        self.judged[self.incumbent.mask_ratio] = [min(own, key=lambda judgement: judgement.evaluation.value)]

    def add(self, line: Sequence[BetaMaskRatio], first: BetaMaskRatio | None = None) -> Program[None]:
        """Judge the new points of a line, as far as trainings are left, `first` before the others; those without hope
        end at the rungs."""
        fresh = [point for point in line if point not in self.judged and point not in self.rungs.ended]
        if first in fresh and len(fresh) > self._most - self.trainings:
            fresh.sort(key=lambda point: point != first)
        if fresh and not self.exhausted:
            yield from self._judge((yield from self.rungs.climb(self._pairs(fresh), line)))

    def repeat(self, points: Sequence[BetaMaskRatio]) -> Program[None]:
        """Train points again, each with a seed of its own, as far as trainings are left."""
        yield from self._judge(self._pairs(points))

    def repeat_close_calls(self, line: Sequence[BetaMaskRatio], centre: BetaMaskRatio) -> Program[None]:
        """A line's best and its centre again, while they are within one standard error of each other."""
        for _ in range(self.settings.repeats):
            best = self.best_of(line)
            if best == centre or centre not in self.judged or self.exhausted:
                return
            change, error = difference(self.judged[best], self.judged[centre])
            if abs(change) > error:
                return
            yield from self.repeat([best, centre])

    def as_candidates(self) -> list[dict[str, Any]]:
        """All points for the record."""
        finished = [
            {
                "mask_ratio": point,
                "distance": self.value(point),
                "standard_error": error_of_mean(repeats),
                "trainings": len(repeats),
            }
            for point, repeats in self.judged.items()
        ]
        return finished + self.rungs.as_candidates()

    def _pairs(self, points: Sequence[BetaMaskRatio]) -> list[Pair]:
        """One more training of each, as far as trainings are left, under the incumbent's schedule."""
        left = max(0, self._most - self.trainings)
        return [replace(self.incumbent, training=self._training_of(point)) for point in points[:left]]

    def _training_of(self, point: BetaMaskRatio) -> TrainSpec:
        repeat = len(self.judged.get(point, []))
        seed = derived_seed(self.training.seed, "repeat", repeat) if repeat else self.training.seed
        whole = replace(self.training, mask_ratio=point, seed=seed)
        if self.settings.warm_start is None:
            return whole
        steps = self.settings.warm_start.steps
        return replace(whole, training=replace(whole.training, steps=steps), start_from=self.training)

    def _judge(self, pairs: Sequence[Pair]) -> Program[None]:
        """Train what is left of the pairs' networks, and keep each under its best schedule."""
        if not pairs:
            return
        trainings = [pair.training for pair in pairs if isinstance(pair.training, TrainSpec)]
        yield from self.lab.train(self.phase.at("training"), trainings)
        choices = yield from together([self._schedules_for(pair) for pair in pairs])
        evaluations = iter((yield from self._evaluate([pair for choice in choices for pair in choice])))
        for choice in choices:
            own = [Judged(next(evaluations), pair) for pair in choice]
            best = min(own, key=lambda judgement: judgement.evaluation.value)
            point = best.pair.mask_ratio
            assert isinstance(point, BetaMaskRatio)
            self.judged.setdefault(point, []).append(best)

    def _evaluate(self, pairs: Sequence[Pair]) -> Program[list[Evaluation]]:
        requests = [self.lab.evaluation(pair, self.settings.images, self.seed) for pair in pairs]
        return (yield from self.lab.judge(self.phase.at("line"), requests))

    def _schedules_for(self, pair: Pair) -> Program[list[Pair]]:
        """A network under the incumbent's schedule, and under the best of a short search where the recipe has one."""
        if self.settings.retune is None:
            return [pair]
        address = ("mask ratio", self.phase.round, "retune")
        return [pair, *(yield from black_box(self.lab, self.phase, pair, self.settings.retune, address))]
