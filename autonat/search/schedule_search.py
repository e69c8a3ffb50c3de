"""Tuning the generation schedule of one trained network."""

import math
from dataclasses import replace

from autonat.search.black_box import black_box
from autonat.search.confirm import Verdict, confirm
from autonat.search.descent import descend
from autonat.search.official import official_address, official_search
from autonat.search.program import Decision, Laboratory, Pair, Phase, Program
from autonat.search.spsa import spsa
from autonat.search.variety import as_measured
from autonat.search_config import (
    AnySearch,
    BlackBoxSearch,
    Descent,
    OfficialSearch,
    SPSASearch,
    StagedSearch,
    WarmStart,
)
from autonat.specs import paired_difference

# After so many descents in a row without a confirmed gain there is no further one.
FRUITLESS = 2


def tune_schedule(lab: Laboratory, phase: Phase, start: Pair, settings: AnySearch) -> Program[Verdict]:
    """The best schedule found for the network of `start`, confirmed on a fresh seed; never one that is confirmed worse.

    Staged: the smooth family first, then all values, each stage's best meeting the incumbent on seeds of their own.
    """
    if isinstance(settings, OfficialSearch):
        verdict = yield from _official(lab, phase, start, settings)
    elif isinstance(settings, StagedSearch):
        verdict = yield from _staged(lab, phase, start, settings)
    else:
        verdict = yield from _alone(lab, phase, start, settings)
    yield Decision(
        phase.at("schedule"),
        {
            "schedule": verdict.pair.schedule,
            "mask_ratio": verdict.pair.mask_ratio,
            "distance": as_measured(verdict.evaluation).value,
            "standard_error": as_measured(verdict.evaluation).standard_error,
            "gain": verdict.gain,
            "gain_standard_error": verdict.gain_standard_error,
            "spent_images": lab.spent_images,
        },
    )
    return verdict


def _staged(lab: Laboratory, phase: Phase, start: Pair, settings: StagedSearch) -> Program[Verdict]:
    verdict = None
    incumbent = here = start
    gain, variance = 0.0, 0.0
    fruitless = 0
    for stage in range(1 + settings.descents):
        name = "warm start" if stage == 0 else "descent"
        address: tuple[int | str, ...] = (phase.name, phase.round, name)
        if stage > 1:
            address = (*address, "again", stage - 1)
        if name == "warm start" and settings.warm_start is not None:
            challengers = yield from black_box(lab, phase, here, settings.warm_start, address)
        elif name == "descent" and settings.descent is not None:
            challengers = yield from descend(lab, phase, here, gentler(settings.descent, fruitless), address)
        else:
            continue
        verdict = yield from confirm(
            lab,
            phase.at(f"confirmation of the {name}"),
            incumbent,
            challengers,
            num_images=settings.confirmation_images,
            address=(*address, "confirmation"),
        )
        if name == "descent":
            fruitless = 0 if verdict.pair != incumbent else fruitless + 1
        incumbent, here, gain = verdict.pair, verdict.promising or verdict.pair, gain + verdict.gain
        variance += verdict.gain_standard_error**2
        if fruitless == FRUITLESS or not lab.has_budget():
            break
    assert verdict is not None  # the recipe has at least one stage
    # The stages met on different seeds, so their gains add up and so do the variances.
    return replace(verdict, gain=gain, gain_standard_error=math.sqrt(variance))


def gentler(settings: Descent, fruitless: int) -> Descent:
    """Half the steps and twice the images for each descent before that gained nothing."""
    if not fruitless:
        return settings
    factor = 2**fruitless
    limit = (settings.max_images or settings.images) * factor
    return settings.model_copy(update={"learning_rate": settings.learning_rate / factor, "max_images": limit})


def _alone(lab: Laboratory, phase: Phase, start: Pair, settings: BlackBoxSearch | SPSASearch) -> Program[Verdict]:
    """One optimiser by itself."""
    address = (phase.name, phase.round, settings.method)
    if isinstance(settings, SPSASearch):
        challengers = yield from spsa(lab, phase, start, settings, address)
    else:
        trials = WarmStart(
            sampler=settings.method,
            space=settings.space,
            trials=settings.trials,
            random_trials=settings.random_trials,
            batch=settings.batch,
            images=settings.images,
            keep=settings.keep,
        )
        challengers = yield from black_box(lab, phase, start, trials, address)
    return (
        yield from confirm(
            lab,
            phase.at("confirmation"),
            start,
            challengers,
            num_images=settings.confirmation_images,
            address=(*address, "confirmation"),
        )
    )


def _official(lab: Laboratory, phase: Phase, start: Pair, settings: OfficialSearch) -> Program[Verdict]:
    found = yield from official_search(lab, phase, start, settings)
    # As published there is no confirmation; these evaluations are for the record, whatever they say.
    seed = lab.seed_for("official confirmation", *official_address(phase)[1:])
    pairs = [start] if found == start else [start, found]
    evaluations = yield from lab.evaluate(
        phase.at("confirmation"), [lab.evaluation(pair, settings.images, seed) for pair in pairs]
    )
    base, evaluation = evaluations[0], evaluations[-1]
    change, error = paired_difference(evaluation, base)
    return Verdict(found, evaluation, 0.0 - change, error)
