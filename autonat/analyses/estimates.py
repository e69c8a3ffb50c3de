"""A quantity measured for several trainings on the same images, with both of its standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autonat.specs import Evaluation
from models.frechet import standard_error

# A difference is decided where this interval leaves out 0.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measured:
    """values: one a training seed; shares: for each of them, the parts whose spread over images tells the error (a
    block's mean, or an image's), the same images for every seed."""

    values: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]

    @staticmethod
    def of(evaluations: Sequence[Evaluation]) -> "Measured":
        return Measured(
            tuple(evaluation.value for evaluation in evaluations),
            tuple(evaluation.shares for evaluation in evaluations),
        )

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def over_trainings(self) -> float:
        """Standard error of the mean over training seeds; not a number for one of them."""
        return standard_error(self.values)

    @property
    def over_images(self) -> float:
        """Standard error over images of the mean over trainings, which saw the same ones."""
        return standard_error([math.fsum(column) / len(column) for column in zip(*self.shares, strict=True)])

    @property
    def error(self) -> float:
        """Both together, of what is known."""
        return math.hypot(*(error for error in (self.over_trainings, self.over_images) if math.isfinite(error)))

    @property
    def margin(self) -> float:
        """Half the confidence interval of the mean: Student's quantile for the degrees of freedom that both errors have
        together (Satterthwaite, 1946): hardly more than one where two trainings differ by more than images do."""
        from scipy.special import stdtrit

        parts = [(self.over_trainings, len(self.values) - 1), (self.over_images, len(self.shares[0]) - 1)]
        known = [(error**2, freedom) for error, freedom in parts if math.isfinite(error)]
        whole = math.fsum(variance for variance, _ in known)
        if not whole:
            return 0.0
        freedom = 1 / math.fsum((variance / whole) ** 2 / freedom for variance, freedom in known)
        return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * self.error

    def __sub__(self, other: "Measured") -> "Measured":
        """Seed by seed and share by share."""
        return Measured(
            tuple(a - b for a, b in zip(self.values, other.values, strict=True)),
            tuple(
                tuple(a - b for a, b in zip(mine, theirs, strict=True))
                for mine, theirs in zip(self.shares, other.shares, strict=True)
            ),
        )

    def as_json(self) -> dict[str, Any]:
        """Errors that are not known are null."""
        errors = (self.over_trainings, self.over_images)
        trainings, images = (error if math.isfinite(error) else None for error in errors)
        return {
            "value": self.mean,
            "standard_error_over_trainings": trainings,
            "standard_error_over_images": images,
            "by_training": list(self.values),
        }


def mean_of(parts: Sequence[Measured]) -> Measured:
    """The mean of quantities of the same seeds and images."""

    def mean(column: Sequence[float]) -> float:
        return math.fsum(column) / len(column)

    return Measured(
        tuple(mean(column) for column in zip(*(part.values for part in parts), strict=True)),
        tuple(
            tuple(mean(column) for column in zip(*seed, strict=True))
            for seed in zip(*(part.shares for part in parts), strict=True)
        ),
    )


def decimals_of(error: float) -> int:
    """Two digits of the error."""
    return min(6, max(0, 1 - math.floor(math.log10(error)))) if math.isfinite(error) and error > 0 else 4


def verdict(claim: str, steps: Sequence[tuple[str, Measured]]) -> str:
    """One sentence: whether differences that a paper says are positive are so here.

    claim: what the paper says; steps: (what is subtracted from what, the difference).
    """
    texts = []
    for text, difference in steps:
        digits = decimals_of(difference.error)
        decided = "decided" if abs(difference.mean) > difference.margin else "open"
        texts.append(f"{text} {difference.mean:+.{digits}f} +- {difference.error:.{digits}f}, {decided}")
    against = any(difference.mean < -difference.margin for _, difference in steps)
    for_it = all(difference.mean > difference.margin for _, difference in steps)
    answer = "does not hold here" if against else "holds here" if for_it else "is not decided here"
    return f"{claim}: {answer} ({'; '.join(texts)}; decided means that a {CONFIDENCE:.0%} interval leaves out 0)."
