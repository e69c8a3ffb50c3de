"""Greedy line search over the training mask ratio's Beta(alpha, beta) (AutoNAT, section 4.2): first alpha, then beta,
and again, until neither line improves. Every point trains a network."""

from dataclasses import replace
from typing import Any

from autonat.search.beta_points import BetaPoints
from autonat.search.confirm import Verdict
from autonat.search.from_scratch import adopt_from_scratch
from autonat.search.program import Decision, Laboratory, Pair, Phase, Program
from autonat.search.variety import as_measured
from autonat.search_config import BetaSearch
from autonat.specs import Evaluation
from models.mask_ratio import BetaMaskRatio


def search_mask_ratio(lab: Laboratory, phase: Phase, incumbent: Pair, settings: BetaSearch) -> Program[Verdict]:
    """The best pair found with the incumbent's schedule held fixed; the incumbent itself where nothing beats it.

    A network is judged under the incumbent's schedule and, where the recipe says so, under the best of a short
    search of its own, whichever is better. A point has to beat the incumbent by more than one standard error of the
    paired difference; a point that was trained several times by the mean, and the best of its networks is taken.

    With `warm_start` a point goes on from the incumbent's weights for fewer steps, the incumbent's own mask ratio too,
    so that all have been trained for as long. The best is then trained from random weights, as what it gains over the
    incumbent may be due to the further steps, and has to beat the incumbent on fresh seeds.

    With `rungs` a new point's training is left off where it falls behind its line (``autonat.search.rungs``): it has
    then cost a training, and is not judged.
    """
    points = BetaPoints(lab, phase, incumbent, settings)
    start = incumbent.mask_ratio
    base_request = lab.evaluation(incumbent, settings.images, points.seed)
    (base,) = yield from lab.judge(phase.at("line"), [base_request])
    centre = start if isinstance(start, BetaMaskRatio) else BetaMaskRatio(settings.start_alpha, settings.start_beta)
    if centre == start and settings.warm_start is None:
        yield from points.judge_incumbent(base)
    improved = True
    while improved and not points.exhausted:
        improved = False
        for axis in ("alpha", "beta"):
            best = yield from _along(axis, centre, points, settings)
            if best != centre:
                centre, improved = best, True
    verdict, facts = yield from _adopted(centre, base, points)
    yield Decision(
        phase.at("mask ratio"),
        {
            "mask_ratio": verdict.pair.mask_ratio,
            "schedule": verdict.pair.schedule,
            "distance": as_measured(verdict.evaluation).value,
            "gain": verdict.gain,
            "gain_standard_error": verdict.gain_standard_error,
            "candidates": points.as_candidates(),
            "spent_images": lab.spent_images,
            **facts,
        },
    )
    return verdict


def _along(axis: str, centre: BetaMaskRatio, points: BetaPoints, settings: BetaSearch) -> Program[BetaMaskRatio]:
    """The best point of a line: a multiplicative bracket around the centre, lengthened at an end while that end is the
    best."""

    def moved(point: BetaMaskRatio, factor: float) -> BetaMaskRatio:
        return replace(point, **{axis: getattr(point, axis) * factor})

    below, above = settings.factors
    line = [moved(centre, factor) for factor in sorted({below, 1.0, above})]
    yield from points.add(line, first=centre)
    while not points.exhausted:
        best = points.best_of(line)
        if best == line[0]:
            line = [moved(best, below), *line]
        elif best == line[-1]:
            line = [*line, moved(best, above)]
        else:
            break
        yield from points.add(line)
    yield from points.repeat_close_calls(line, centre)
    return points.best_of(line)


def _adopted(centre: BetaMaskRatio, base: Evaluation, points: BetaPoints) -> Program[tuple[Verdict, dict[str, Any]]]:
    """Whether the best point takes the incumbent's place, and what is to be said about its warm start."""
    incumbent = points.incumbent
    if centre not in points.judged or centre == incumbent.mask_ratio:
        return Verdict(incumbent, base, 0.0, 0.0), {}  # the budget ended before the first line, or nothing was better
    if points.settings.warm_start is not None:
        whole, first = replace(points.training, mask_ratio=centre), points.judged[centre][0]
        verdict, checked = yield from adopt_from_scratch(points.lab, points.phase, incumbent, first, base, whole)
        return verdict, {"warm_start": {"steps": points.settings.warm_start.steps, **checked}}
    change, error = points.against_incumbent(centre, base)
    if change < -error:
        best = points.best_training(centre)
        return Verdict(best.pair, best.evaluation, 0.0 - change, error), {}
    return Verdict(incumbent, base, 0.0 - change, error), {}
