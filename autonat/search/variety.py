"""What a search may not lose while the distance falls: variety, told by the variance of features within a class.

A Frechet distance can fall while every class becomes one picture (docs/results.md has a search that went that way).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from autonat.specs import Evaluation, EvaluationSpec, Metrics, MetricsSpec, Result

# What has none of the variety that is to be kept counts as 1 + LACKING times as far as it was measured.
LACKING = 4.0
NAMES, KEY = ("variety",), "within_class_variance"


@dataclass
class Variety:
    """How a search counts images with less variety than `share` of what the study began with.

    reference: the evaluation of what the study began with on so many images; its variety is measured once for each
    number that occurs. `least` has what is to be kept, by number of images.
    """

    share: float
    reference: Callable[[int], EvaluationSpec]
    least: dict[int, float] = field(default_factory=dict)

    def metrics(self, specs: Sequence[EvaluationSpec]) -> list[MetricsSpec]:
        """What to ask for beside the evaluations: the variety of each, then that of references not yet known."""
        counts = sorted({spec.num_images for spec in specs} - self.least.keys())
        return [spec.metrics(NAMES) for spec in [*specs, *map(self.reference, counts)]]

    def judge(self, results: Sequence[Result], count: int) -> list[Evaluation]:
        """`count` evaluations as the search counts them. results: theirs, then those of ``metrics``."""
        evaluations = [result for result in results[:count] if isinstance(result, Evaluation)]
        metrics = [result for result in results[count:] if isinstance(result, Metrics)]
        for reference in metrics[count:]:
            self.least[reference.num_images] = self.share * reference.values[KEY]
        return [self._counted(*pair) for pair in zip(evaluations, metrics[:count], strict=True)]

    def _counted(self, evaluation: Evaluation, metrics: Metrics) -> Evaluation:
        # A penalty and no bar: any optimiser can find the way back, and noise near the least decides little.
        variety, least = metrics.values[KEY], self.least[evaluation.num_images]
        if variety >= least:
            return evaluation
        factor = 1 + LACKING * (1 - variety / least)
        return replace(
            evaluation,
            value=factor * evaluation.value,
            standard_error=factor * evaluation.standard_error,
            shares=tuple(factor * share for share in evaluation.shares),
        )
