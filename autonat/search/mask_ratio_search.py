"""Greedy line search over the training mask ratio's Beta(alpha, beta) (AutoNAT, section 4.2): first alpha, then beta,
and again, until neither line improves. Every point trains a network."""

from dataclasses import replace

from autonat.config import BetaSearch
from autonat.search.program import Decision, Laboratory, Pair, Phase, Program
from autonat.specs import Evaluation, paired_difference
from models.mask_ratio import BetaMaskRatio


def search_mask_ratio(lab: Laboratory, phase: Phase, incumbent: Pair, settings: BetaSearch) -> Program[Pair]:
    """The best pair found with the incumbent's schedule held fixed; the incumbent itself where nothing beats it.

    A line is a multiplicative bracket around the centre, lengthened at an end for as long as that end is the best.
    All points of a phase are measured with the same seed and so compare in pairs; a point has to beat the incumbent
    by more than one standard error of the paired difference.
    """
    seed = lab.seed_for("mask ratio", phase.round)
    measured: dict[BetaMaskRatio, Evaluation] = {}

    def pair_of(mask_ratio: BetaMaskRatio) -> Pair:
        return replace(incumbent, training=replace(incumbent.training, mask_ratio=mask_ratio))

    def measure(line: list[BetaMaskRatio]) -> Program[None]:
        left = settings.max_trainings - len(measured)
        fresh = [mask_ratio for mask_ratio in line if mask_ratio not in measured][:left]
        if fresh:
            pairs = [pair_of(mask_ratio) for mask_ratio in fresh]
            yield from lab.train(phase.at("training"), [pair.training for pair in pairs])
            evaluations = yield from lab.evaluate(
                phase.at("line"), [lab.evaluation(pair, settings.images, seed) for pair in pairs]
            )
            measured.update(zip(fresh, evaluations, strict=True))

    def exhausted() -> bool:
        return len(measured) >= settings.max_trainings or not lab.has_budget()

    (base,) = yield from lab.evaluate(phase.at("line"), [lab.evaluation(incumbent, settings.images, seed)])
    start = incumbent.mask_ratio
    centre = start if isinstance(start, BetaMaskRatio) else BetaMaskRatio(settings.start_alpha, settings.start_beta)
    if centre == start:
        measured[centre] = base
    improved = True
    while improved and not exhausted():
        improved = False
        for axis in ("alpha", "beta"):

            def moved(by: float, axis: str = axis, origin: BetaMaskRatio = centre) -> BetaMaskRatio:
                return replace(origin, **{axis: getattr(origin, axis) * by})

            line = [moved(factor) for factor in sorted({*settings.factors, 1.0})]
            if not exhausted():
                yield from measure(line)
            while True:
                known = [mask_ratio for mask_ratio in line if mask_ratio in measured]
                best = min(known, key=lambda mask_ratio: (measured[mask_ratio].value, known.index(mask_ratio)))
                if exhausted() or best not in (line[0], line[-1]):
                    break
                outward = line[0] if best == line[0] else line[-1]
                factor = settings.factors[0] if best == line[0] else settings.factors[-1]
                further = replace(outward, **{axis: getattr(outward, axis) * factor})
                line = [further, *line] if best == line[0] else [*line, further]
                yield from measure([further])
            if best != centre:
                centre, improved = best, True

    change, error = 0.0, 0.0
    if centre in measured:  # not so where the budget ended before the first line
        change, error = paired_difference(measured[centre], base)
    kept = pair_of(centre) if change < -error else incumbent
    yield Decision(
        phase.at("mask ratio"),
        {
            "mask_ratio": kept.mask_ratio,
            "schedule": kept.schedule,
            "distance": (base if kept is incumbent else measured[centre]).value,
            "gain": -change,
            "gain_standard_error": error,
            "candidates": [
                {"mask_ratio": mask_ratio, "distance": result.value, "standard_error": result.standard_error}
                for mask_ratio, result in measured.items()
            ],
            "spent_images": lab.spent_images,
        },
    )
    return kept
