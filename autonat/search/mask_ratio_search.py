"""Greedy line search over the training mask ratio's Beta(alpha, beta) (AutoNAT, section 4.2): first alpha, then beta,
and again, until neither line improves. Every point trains a network."""

from dataclasses import replace

from autonat.config import BetaSearch
from autonat.search.black_box import black_box
from autonat.search.program import Decision, Laboratory, Pair, Phase, Program, together
from autonat.specs import Evaluation, TrainSpec, paired_difference
from models.mask_ratio import BetaMaskRatio


def search_mask_ratio(lab: Laboratory, phase: Phase, incumbent: Pair, settings: BetaSearch) -> Program[Pair]:
    """The best pair found with the incumbent's schedule held fixed; the incumbent itself where nothing beats it.

    A line is a multiplicative bracket around the centre, lengthened at an end for as long as that end is the best.
    A new network is judged under the incumbent's schedule and, where the recipe says so, under the best of a short
    search of its own, whichever is better. All points of a phase are measured with the same seed and so compare in
    pairs; a point has to beat the incumbent by more than one standard error of the paired difference.
    """
    seed = lab.seed_for("mask ratio", phase.round)
    measured: dict[BetaMaskRatio, tuple[Evaluation, Pair]] = {}

    def training_of(mask_ratio: BetaMaskRatio) -> TrainSpec:
        assert isinstance(incumbent.training, TrainSpec)  # a recipe with a checkpoint has no such phase
        return replace(incumbent.training, mask_ratio=mask_ratio)

    def schedules_for(pair: Pair) -> Program[list[Pair]]:
        if settings.retune is None:
            return [pair]
        found = yield from black_box(lab, phase, pair, settings.retune, ("mask ratio", phase.round, "retune"))
        return [pair, *found]

    def measure(line: list[BetaMaskRatio]) -> Program[None]:
        left = settings.max_trainings - len(measured)
        fresh = [mask_ratio for mask_ratio in line if mask_ratio not in measured][:left]
        if fresh:
            trainings = [training_of(mask_ratio) for mask_ratio in fresh]
            yield from lab.train(phase.at("training"), trainings)
            pairs = [replace(incumbent, training=training) for training in trainings]
            choices = yield from together([schedules_for(pair) for pair in pairs])
            flat = [pair for choice in choices for pair in choice]
            evaluations = yield from lab.evaluate(
                phase.at("line"), [lab.evaluation(pair, settings.images, seed) for pair in flat]
            )
            for mask_ratio, choice in zip(fresh, choices, strict=True):
                judged, evaluations = evaluations[: len(choice)], evaluations[len(choice) :]
                best = min(range(len(choice)), key=lambda index: (judged[index].value, index))
                measured[mask_ratio] = (judged[best], choice[best])

    def exhausted() -> bool:
        return len(measured) >= settings.max_trainings or not lab.has_budget()

    (base,) = yield from lab.evaluate(phase.at("line"), [lab.evaluation(incumbent, settings.images, seed)])
    start = incumbent.mask_ratio
    centre = start if isinstance(start, BetaMaskRatio) else BetaMaskRatio(settings.start_alpha, settings.start_beta)
    if centre == start:
        measured[centre] = (base, incumbent)
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
                best = min(known, key=lambda mask_ratio: (measured[mask_ratio][0].value, known.index(mask_ratio)))
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
        change, error = paired_difference(measured[centre][0], base)
    kept = measured[centre][1] if change < -error else incumbent
    yield Decision(
        phase.at("mask ratio"),
        {
            "mask_ratio": kept.mask_ratio,
            "schedule": kept.schedule,
            "distance": (base if kept is incumbent else measured[centre][0]).value,
            "gain": -change,
            "gain_standard_error": error,
            "candidates": [
                {"mask_ratio": mask_ratio, "distance": result.value, "standard_error": result.standard_error}
                for mask_ratio, (result, _) in measured.items()
            ],
            "spent_images": lab.spent_images,
        },
    )
    return kept
