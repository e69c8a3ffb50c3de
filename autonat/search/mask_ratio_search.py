"""Greedy line search over the training mask ratio's Beta(alpha, beta) (AutoNAT, section 4.2): first alpha, then beta,
and again, until neither line improves. Every point trains a network."""

import math
from dataclasses import replace

from autonat.config import BetaSearch
from autonat.search.black_box import black_box
from autonat.search.confirm import Verdict
from autonat.search.from_scratch import Judged, adopt_from_scratch
from autonat.search.program import Decision, Laboratory, Pair, Phase, Program, together
from autonat.search.rungs import Rungs
from autonat.specs import TrainSpec, derived_seed, paired_difference
from models.mask_ratio import BetaMaskRatio


def search_mask_ratio(lab: Laboratory, phase: Phase, incumbent: Pair, settings: BetaSearch) -> Program[Verdict]:
    """The best pair found with the incumbent's schedule held fixed; the incumbent itself where nothing beats it.

    A line is a multiplicative bracket around the centre, lengthened at an end for as long as that end is the best.
    A network is judged under the incumbent's schedule and, where the recipe says so, under the best of a short
    search of its own, whichever is better. All points of a phase are measured with the same seed and so compare in
    pairs; a point has to beat the incumbent by more than one standard error of the paired difference.

    With `warm_start` a point goes on from the incumbent's weights for fewer steps, the incumbent's own mask ratio too,
    so that all have been trained for as long. The best is then trained from random weights, as what it gains over the
    incumbent may be due to the further steps, and has to beat the incumbent on fresh seeds.

    With `rungs` a new point's training is left off where it falls behind its line (``autonat.search.rungs``): it has
    then cost a training, and is not judged.
    """
    seed = lab.seed_for("mask ratio", phase.round)
    judged: dict[BetaMaskRatio, list[Judged]] = {}  # by training seed

    warm = settings.warm_start
    most = settings.max_trainings - (warm is not None)  # one is kept for the winner's from scratch

    def trainings() -> int:
        return sum(len(repeats) for repeats in judged.values()) + len(rungs.ended)

    def value(mask_ratio: BetaMaskRatio) -> float:
        found = [judgement.evaluation.value for judgement in judged[mask_ratio]]
        return math.fsum(found) / len(found)

    before = incumbent.training
    assert isinstance(before, TrainSpec)  # a recipe with a checkpoint has no such phase

    total_steps = before.training.steps if warm is None else warm.steps
    rungs = Rungs(lab, phase, settings.rung_steps(total_steps), settings.images, seed)

    def training_of(mask_ratio: BetaMaskRatio, repeat: int) -> TrainSpec:
        own_seed = derived_seed(before.seed, "repeat", repeat) if repeat else before.seed
        whole = replace(before, mask_ratio=mask_ratio, seed=own_seed)
        if warm is None:
            return whole
        return replace(whole, training=replace(before.training, steps=warm.steps), start_from=before)

    def schedules_for(pair: Pair) -> Program[list[Pair]]:
        if settings.retune is None:
            return [pair]
        found = yield from black_box(lab, phase, pair, settings.retune, ("mask ratio", phase.round, "retune"))
        return [pair, *found]

    def measure(mask_ratios: list[BetaMaskRatio], line: list[BetaMaskRatio] | None = None) -> Program[None]:
        """Train one more network for each, as far as trainings are left, and judge it under its best schedule.

        line: where these are new points of it; trainings without hope are then left off at the rungs.
        """
        fresh = mask_ratios[: most - trainings()]
        if fresh:
            specs = [training_of(mask_ratio, len(judged.get(mask_ratio, []))) for mask_ratio in fresh]
            pairs = [replace(incumbent, training=training) for training in specs]
            if line is not None:
                pairs = yield from rungs.climb(pairs, line)
                fresh = [mask_ratio for mask_ratio in fresh if mask_ratio not in rungs.ended]
                specs = [spec for spec in specs if spec.mask_ratio not in rungs.ended]
        if fresh:
            yield from lab.train(phase.at("training"), specs)
            choices = yield from together([schedules_for(pair) for pair in pairs])
            flat = [pair for choice in choices for pair in choice]
            evaluations = yield from lab.evaluate(
                phase.at("line"), [lab.evaluation(pair, settings.images, seed) for pair in flat]
            )
            for mask_ratio, choice in zip(fresh, choices, strict=True):
                own, evaluations = evaluations[: len(choice)], evaluations[len(choice) :]
                best = min(range(len(choice)), key=lambda index: (own[index].value, index))
                judged.setdefault(mask_ratio, []).append(Judged(own[best], choice[best]))

    def exhausted() -> bool:
        return trainings() >= most or not lab.has_budget()

    def best_of(line: list[BetaMaskRatio]) -> BetaMaskRatio:
        known = [mask_ratio for mask_ratio in line if mask_ratio in judged]
        return min(known, key=lambda mask_ratio: (value(mask_ratio), known.index(mask_ratio)))

    def repeat_close_calls(line: list[BetaMaskRatio], centre: BetaMaskRatio) -> Program[None]:
        for _ in range(settings.repeats):
            best = best_of(line)
            if best == centre or centre not in judged or exhausted():
                return
            change, error = paired_difference(judged[best][0].evaluation, judged[centre][0].evaluation)
            if abs(change) > error:
                return
            yield from measure([best, centre])

    (base,) = yield from lab.evaluate(phase.at("line"), [lab.evaluation(incumbent, settings.images, seed)])
    start = incumbent.mask_ratio
    centre = start if isinstance(start, BetaMaskRatio) else BetaMaskRatio(settings.start_alpha, settings.start_beta)
    if centre == start and warm is None:
        # Under the best of a short search too, as every other point: a line compares distributions, not schedules.
        own = [Judged(base, incumbent)]
        if settings.retune is not None and not exhausted():
            choice = yield from schedules_for(incumbent)
            again = yield from lab.evaluate(
                phase.at("line"), [lab.evaluation(pair, settings.images, seed) for pair in choice[1:]]
            )
            own += [Judged(evaluation, pair) for evaluation, pair in zip(again, choice[1:], strict=True)]
        judged[centre] = [min(own, key=lambda judgement: judgement.evaluation.value)]
    improved = True
    while improved and not exhausted():
        improved = False
        for axis in ("alpha", "beta"):

            def moved(by: float, axis: str = axis, origin: BetaMaskRatio = centre) -> BetaMaskRatio:
                return replace(origin, **{axis: getattr(origin, axis) * by})

            line = [moved(factor) for factor in sorted({*settings.factors, 1.0})]
            if not exhausted():
                new = [mask_ratio for mask_ratio in line if mask_ratio not in judged and mask_ratio not in rungs.ended]
                yield from measure(new, line)
            while True:
                best = best_of(line)
                if exhausted() or best not in (line[0], line[-1]):
                    break
                outward = line[0] if best == line[0] else line[-1]
                factor = settings.factors[0] if best == line[0] else settings.factors[-1]
                further = replace(outward, **{axis: getattr(outward, axis) * factor})
                line = [further, *line] if best == line[0] else [*line, further]
                if further not in rungs.ended:
                    yield from measure([further], None if further in judged else line)
            yield from repeat_close_calls(line, centre)
            best = best_of(line)
            if best != centre:
                centre, improved = best, True

    verdict, facts = Verdict(incumbent, base, 0.0, 0.0), {}
    if centre not in judged or centre == start:  # the budget ended before the first line, or nothing was better
        pass
    elif warm is not None:
        whole = replace(before, mask_ratio=centre)
        verdict, checked = yield from adopt_from_scratch(lab, phase, incumbent, judged[centre][0], base, whole)
        facts = {"warm_start": {"steps": warm.steps, **checked}}
    else:
        best_point = judged[centre][0]
        change, error = paired_difference(best_point.evaluation, base)
        kept = change < -error
        verdict = Verdict(
            best_point.pair if kept else incumbent, best_point.evaluation if kept else base, 0.0 - change, error
        )
    yield Decision(
        phase.at("mask ratio"),
        {
            "mask_ratio": verdict.pair.mask_ratio,
            "schedule": verdict.pair.schedule,
            "distance": verdict.evaluation.value,
            "gain": verdict.gain,
            "gain_standard_error": verdict.gain_standard_error,
            "candidates": [
                {
                    "mask_ratio": mask_ratio,
                    "distance": value(mask_ratio),
                    "standard_error": repeats[0].evaluation.standard_error,
                    "trainings": len(repeats),
                }
                for mask_ratio, repeats in judged.items()
            ]
            + rungs.as_candidates(),
            "spent_images": lab.spent_images,
            **facts,
        },
    )
    return verdict
