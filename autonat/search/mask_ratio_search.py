"""Greedy line search over the training mask ratio's Beta(alpha, beta) (AutoNAT, section 4.2): first alpha, then beta,
and again, until neither line improves. Every point trains a network."""

import math
from dataclasses import dataclass, replace

from autonat.config import BetaSearch
from autonat.search.black_box import black_box
from autonat.search.program import Decision, Laboratory, Pair, Phase, Program, together
from autonat.specs import Evaluation, TrainSpec, derived_seed, paired_difference
from models.mask_ratio import BetaMaskRatio


@dataclass(frozen=True, slots=True)
class Judged:
    """A trained network under the best schedule known for it."""

    evaluation: Evaluation
    pair: Pair


def search_mask_ratio(lab: Laboratory, phase: Phase, incumbent: Pair, settings: BetaSearch) -> Program[Pair]:
    """The best pair found with the incumbent's schedule held fixed; the incumbent itself where nothing beats it.

    A line is a multiplicative bracket around the centre, lengthened at an end for as long as that end is the best.
    A new network is judged under the incumbent's schedule and, where the recipe says so, under the best of a short
    search of its own, whichever is better. All points of a phase are measured with the same seed and so compare in
    pairs; a point has to beat the incumbent by more than one standard error of the paired difference.
    """
    seed = lab.seed_for("mask ratio", phase.round)
    judged: dict[BetaMaskRatio, list[Judged]] = {}  # by training seed

    def trainings() -> int:
        return sum(len(repeats) for repeats in judged.values())

    def value(mask_ratio: BetaMaskRatio) -> float:
        found = [judgement.evaluation.value for judgement in judged[mask_ratio]]
        return math.fsum(found) / len(found)

    def training_of(mask_ratio: BetaMaskRatio, repeat: int) -> TrainSpec:
        training = incumbent.training
        assert isinstance(training, TrainSpec)  # a recipe with a checkpoint has no such phase
        own_seed = derived_seed(training.seed, "repeat", repeat) if repeat else training.seed
        return replace(training, mask_ratio=mask_ratio, seed=own_seed)

    def schedules_for(pair: Pair) -> Program[list[Pair]]:
        if settings.retune is None:
            return [pair]
        found = yield from black_box(lab, phase, pair, settings.retune, ("mask ratio", phase.round, "retune"))
        return [pair, *found]

    def measure(mask_ratios: list[BetaMaskRatio]) -> Program[None]:
        """Train one more network for each, as far as trainings are left, and judge it under its best schedule."""
        fresh = mask_ratios[: settings.max_trainings - trainings()]
        if fresh:
            specs = [training_of(mask_ratio, len(judged.get(mask_ratio, []))) for mask_ratio in fresh]
            yield from lab.train(phase.at("training"), specs)
            pairs = [replace(incumbent, training=training) for training in specs]
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
        return trainings() >= settings.max_trainings or not lab.has_budget()

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
    if centre == start:
        judged[centre] = [Judged(base, incumbent)]
    improved = True
    while improved and not exhausted():
        improved = False
        for axis in ("alpha", "beta"):

            def moved(by: float, axis: str = axis, origin: BetaMaskRatio = centre) -> BetaMaskRatio:
                return replace(origin, **{axis: getattr(origin, axis) * by})

            line = [moved(factor) for factor in sorted({*settings.factors, 1.0})]
            if not exhausted():
                yield from measure([mask_ratio for mask_ratio in line if mask_ratio not in judged])
            while True:
                best = best_of(line)
                if exhausted() or best not in (line[0], line[-1]):
                    break
                outward = line[0] if best == line[0] else line[-1]
                factor = settings.factors[0] if best == line[0] else settings.factors[-1]
                further = replace(outward, **{axis: getattr(outward, axis) * factor})
                line = [further, *line] if best == line[0] else [*line, further]
                yield from measure([further])
            yield from repeat_close_calls(line, centre)
            best = best_of(line)
            if best != centre:
                centre, improved = best, True

    change, error = 0.0, 0.0
    if centre in judged:  # not so where the budget ended before the first line
        change, error = paired_difference(judged[centre][0].evaluation, base)
    kept = judged[centre][0].pair if change < -error else incumbent
    yield Decision(
        phase.at("mask ratio"),
        {
            "mask_ratio": kept.mask_ratio,
            "schedule": kept.schedule,
            "distance": (base if kept is incumbent else judged[centre][0].evaluation).value,
            "gain": 0.0 - change,  # never -0.0
            "gain_standard_error": error,
            "candidates": [
                {
                    "mask_ratio": mask_ratio,
                    "distance": value(mask_ratio),
                    "standard_error": repeats[0].evaluation.standard_error,
                    "trainings": len(repeats),
                }
                for mask_ratio, repeats in judged.items()
            ],
            "spent_images": lab.spent_images,
        },
    )
    return kept
