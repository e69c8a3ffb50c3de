"""Trainings without hope end early: synchronous successive halving (Jamieson and Talwalkar, 2016) over the points of a
line, at fixed numbers of training steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from autonat.search.program import Laboratory, Pair, Phase, Program
from autonat.specs import Evaluation, TrainSpec, paired_difference
from models.mask_ratio import AnyMaskRatio


@dataclass(frozen=True, slots=True)
class Ended:
    """A point whose training was left off, and what it was worth then."""

    step: int
    evaluation: Evaluation


@dataclass
class Rungs:
    """The rungs of one phase: what its points were worth there, and which of them ended.

    steps: ascending numbers of training steps; without any, nothing ends. All points of a line are looked at together,
    in the order of asking, so that it is of no matter who trains faster. num_images, seed: of the evaluations.
    """

    lab: Laboratory
    phase: Phase
    steps: Sequence[int]
    num_images: int
    seed: int
    ended: dict[AnyMaskRatio, Ended] = field(default_factory=dict)
    _worth: dict[int, dict[AnyMaskRatio, Evaluation]] = field(default_factory=dict)

    def climb(self, pairs: Sequence[Pair], line: Sequence[AnyMaskRatio]) -> Program[list[Pair]]:
        """Train as far as each rung in turn; the pairs that are worth the rest of their training.

        At a rung the better half of the line's points that ever came there goes on (of an odd number, the one in the
        middle too), and who is within one standard error of the worst of these. line: all of its points, new or not.
        """
        left = list(pairs)
        for step in self.steps:
            if not left:
                break
            partial = [replace(pair, training=_until(pair, step)) for pair in left]
            yield from self.lab.train(self.phase.at(f"training to step {step}"), [_until(pair, step) for pair in left])
            evaluations = yield from self.lab.judge(
                self.phase.at(f"rung at step {step}"),
                [self.lab.evaluation(pair, self.num_images, self.seed) for pair in partial],
            )
            worth = self._worth.setdefault(step, {})
            worth.update(zip([pair.mask_ratio for pair in left], evaluations, strict=True))
            rivals = sorted((worth[point] for point in line if point in worth), key=lambda found: found.value)
            bar = rivals[(len(rivals) - 1) // 2]
            left = [pair for pair in left if not _is_worse(worth[pair.mask_ratio], bar)]
            for pair in partial:
                if _is_worse(worth[pair.mask_ratio], bar):
                    self.ended[pair.mask_ratio] = Ended(step, worth[pair.mask_ratio])
        return left

    def as_candidates(self) -> list[dict[str, Any]]:
        """The ended points for the record; their distances are of networks that were trained for fewer steps."""
        return [
            {
                "mask_ratio": mask_ratio,
                "distance": ended.evaluation.value,
                "standard_error": ended.evaluation.standard_error,
                "trainings": 1,
                "ended_at_step": ended.step,
            }
            for mask_ratio, ended in self.ended.items()
        ]


def _until(pair: Pair, step: int) -> TrainSpec:
    assert isinstance(pair.training, TrainSpec)
    return replace(pair.training, until_step=step)


def _is_worse(one: Evaluation, other: Evaluation) -> bool:
    change, error = paired_difference(one, other)
    return change > error
