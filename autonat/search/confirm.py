"""Confirmation: candidates meet on seeds none of them was chosen with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autonat.search.program import Laboratory, Pair, Phase, Program
from autonat.specs import Evaluation, paired_difference

# A duel ends early once one side is this many standard errors better.
DECISIVE = 2.0
# A duel that stays undecided spends at most so many times the images of its first look.
LOOKS = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """The pair that is kept, its last evaluation, and how it compares with the incumbent on seeds both saw alone.

    promising: a challenger that was measured better, though by too little to be kept, or None.
    """

    pair: Pair
    evaluation: Evaluation
    gain: float
    gain_standard_error: float
    promising: Pair | None = None


def confirm(
    lab: Laboratory,
    phase: Phase,
    incumbent: Pair,
    challengers: Sequence[Pair],
    *,
    num_images: int,
    address: tuple[int | str, ...],
    standard_errors: float = 1.0,
) -> Program[Verdict]:
    """The best challenger if it beats the incumbent by more than `standard_errors` standard errors, else the incumbent.

    The challengers race among themselves first; the winner then duels with the incumbent, so that what is reported of
    it was not part of choosing it. num_images: of the duel's first look. `address` gives the seeds.
    """
    distinct = [pair for index, pair in enumerate(challengers) if pair not in [incumbent, *challengers[:index]]]
    if not distinct:
        seed = lab.seed_for(*address, "duel", 0)
        (base,) = yield from lab.judge(phase, [lab.evaluation(incumbent, num_images, seed)])
        return Verdict(incumbent, base, 0.0, 0.0)
    challenger = yield from race(lab, phase, distinct, lab.whole_blocks(num_images // 4), address)
    change, error, base, measured = yield from duel(lab, phase, incumbent, challenger, num_images, address)
    if change < -standard_errors * error:
        return Verdict(challenger, measured, -change, error)
    return Verdict(incumbent, base, 0.0, 0.0, challenger if change < 0 else None)


def race(
    lab: Laboratory, phase: Phase, pairs: Sequence[Pair], num_images: int, address: tuple[int | str, ...]
) -> Program[Pair]:
    """Successive halving (Jamieson & Talwalkar, 2016): on every stage's fresh seed the better half goes on, with twice
    the images."""
    left, stage = list(pairs), 0
    while len(left) > 1:
        seed = lab.seed_for(*address, "race", stage)
        results = yield from lab.judge(phase, [lab.evaluation(pair, num_images, seed) for pair in left])
        ranked = sorted(range(len(left)), key=lambda index: (results[index].value, index))
        left = [left[index] for index in ranked[: (len(left) + 1) // 2]]
        num_images, stage = 2 * num_images, stage + 1
    return left[0]


def duel(
    lab: Laboratory,
    phase: Phase,
    incumbent: Pair,
    challenger: Pair,
    num_images: int,
    address: tuple[int | str, ...],
    looks: int = LOOKS,
) -> Program[tuple[float, float, Evaluation, Evaluation]]:
    """challenger - incumbent in distance, its standard error, and both sides' last evaluations.

    Look after look of `num_images` on fresh seeds, until one side is DECISIVE standard errors better; `looks` at most.
    """
    changes: list[float] = []
    errors: list[float] = []
    while True:
        seed = lab.seed_for(*address, "duel", len(changes))
        specs = [lab.evaluation(pair, num_images, seed) for pair in (incumbent, challenger)]
        base, measured = yield from lab.judge(phase, specs)
        change, error = paired_difference(measured, base)
        changes.append(change)
        errors.append(error)
        change = math.fsum(changes) / len(changes)
        error = math.sqrt(math.fsum(error * error for error in errors)) / len(errors)
        if abs(change) > DECISIVE * error or len(changes) == looks or not lab.has_budget():
            return change, error, base, measured
