"""What counts against a pair while its distance falls: variety that was lost, the variance of features within a class.

A Frechet distance can fall while every class becomes one picture (docs/results.md has a search that went that way).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autonat.specs import Evaluation, EvaluationSpec, Metrics, MetricsSpec, Result
from models.frechet import standard_error

# What has none of the variety that is to be kept counts as 1 + LACKING times as far as it was measured.
LACKING = 2.0
NAMES, KEY = ("variety",), "within_class_variance"


@dataclass(frozen=True, slots=True)
class Counted(Evaluation):
    """An evaluation as a search counts it, farther than `measured`."""

    measured: Evaluation


def as_measured(evaluation: Evaluation) -> Evaluation:
    """What was measured, however a search counts it."""
    return evaluation.measured if isinstance(evaluation, Counted) else evaluation


@dataclass
class Variety:
    """How a search counts images with less variety than `share` of what the study began with.

    reference: the evaluation of what the study began with, whose variety is measured once. least: what is to be kept.
    """

    share: float
    reference: EvaluationSpec
    least: float | None = None

    def metrics(self, specs: Sequence[EvaluationSpec]) -> list[MetricsSpec]:
        """What to ask for beside the evaluations: the variety of each, and the first time the reference's."""
        references = [self.reference] if self.least is None else []
        return [spec.metrics(NAMES) for spec in [*specs, *references]]

    def judge(self, results: Sequence[Result], count: int) -> list[Evaluation]:
        """`count` evaluations as the search counts them. results: theirs, then those of ``metrics``."""
        evaluations = [result for result in results[:count] if isinstance(result, Evaluation)]
        metrics = [result for result in results[count:] if isinstance(result, Metrics)]
        if self.least is None:
            self.least = self.share * metrics[count].values[KEY]
        return [_counted(*pair, self.least) for pair in zip(evaluations, metrics[:count], strict=True)]


def _counted(evaluation: Evaluation, metrics: Metrics, least: float) -> Evaluation:
    """distance (1 + LACKING (1 - variety / least)) where variety is below the least; its shares have both errors."""
    variety = metrics.values[KEY]
    if variety >= least:
        return evaluation
    factor = 1 + LACKING * (1 - variety / least)
    slope = LACKING * evaluation.value / least
    pairs = zip(evaluation.shares, metrics.variety_shares, strict=True)
    shares = tuple(factor * share - slope * (own - variety) for share, own in pairs)
    return Counted(
        factor * evaluation.value,
        standard_error(shares),
        evaluation.num_images,
        evaluation.metric,
        evaluation.seed,
        shares,
        evaluation,
    )
