"""Confirmation: candidates meet on seeds none of them was chosen with."""

from collections.abc import Sequence
from dataclasses import dataclass

from autonat.search.program import Laboratory, Pair, Phase, Program
from autonat.specs import Evaluation, paired_difference


@dataclass(frozen=True, slots=True)
class Verdict:
    """The pair that is kept, its evaluation, and how it compares with the incumbent on the same seed."""

    pair: Pair
    evaluation: Evaluation
    gain: float
    gain_standard_error: float


def confirm(
    lab: Laboratory,
    phase: Phase,
    incumbent: Pair,
    challengers: Sequence[Pair],
    *,
    num_images: int,
    seed: int,
    standard_errors: float = 1.0,
) -> Program[Verdict]:
    """Measure all pairs on one fresh seed and keep the best challenger if it beats the incumbent by more than
    `standard_errors` standard errors of the paired difference; otherwise the incumbent. Ties break in ask order."""
    distinct = [pair for index, pair in enumerate(challengers) if pair not in [incumbent, *challengers[:index]]]
    specs = [lab.evaluation(pair, num_images, seed) for pair in [incumbent, *distinct]]
    base, *measured = yield from lab.evaluate(phase, specs)
    if measured:
        best = min(range(len(measured)), key=lambda index: (measured[index].value, index))
        change, error = paired_difference(measured[best], base)
        if change < -standard_errors * error:
            return Verdict(distinct[best], measured[best], -change, error)
    return Verdict(incumbent, base, 0.0, 0.0)
