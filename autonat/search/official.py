"""AutoNAT's published schedule search, as a baseline: forward differences, fresh labels and noise at every evaluation,
SGD with momentum on the raw values. It keeps the point whose own noisy distance was lowest."""

from dataclasses import replace

from autonat.search.program import Decision, Laboratory, Pair, Phase, Program
from autonat.search_config import OfficialSearch
from autonat.specs import EvaluationSpec
from models.schedule import BOUNDS, components


def official_address(phase: Phase) -> tuple[str | int, ...]:
    """Of a phase's seeds. That of the first search has no name in it, under which results are recorded."""
    return ("official", phase.round) if phase.name == "schedule" else ("official", phase.name, phase.round)


def official_search(lab: Laboratory, phase: Phase, start: Pair, settings: OfficialSearch) -> Program[Pair]:
    """Run until the iterations or the image budget end; returns the best point seen."""
    names = components(start.schedule.num_steps)
    velocity = [0.0] * len(names)
    pair, best = start, (float("inf"), start)
    for iteration in range(settings.iterations):
        if not lab.has_budget():
            break
        values = pair.schedule.values()
        specs: list[EvaluationSpec] = []
        for component in range(-1, len(names)):  # -1 is the base
            probed = list(values)
            if component >= 0:
                family = names[component][0]
                step = settings.difference[family]
                # At the upper end of a value's range the difference is taken downwards.
                probed[component] += step if probed[component] + step <= BOUNDS[family][1] else -step
            seed = lab.seed_for(*official_address(phase), iteration, component)
            candidate = replace(pair, schedule=pair.schedule.with_values(probed))
            specs.append(lab.evaluation(candidate, settings.images, seed, random_labels=True))
        base, *probes = yield from lab.evaluate(phase.at("gradient"), specs)
        best = min(best, (base.value, pair), key=lambda entry: entry[0])
        gradient = [
            (probe.value - base.value) / (spec.schedule.values()[index] - values[index])
            for index, (probe, spec) in enumerate(zip(probes, specs[1:], strict=True))
        ]
        yield Decision(
            phase.at("gradient"),
            {"iteration": iteration, "distance": base.value, "schedule": pair.schedule, "gradient": gradient},
        )
        velocity = [settings.momentum * v + g for v, g in zip(velocity, gradient, strict=True)]
        moved = []
        for (family, _), value, speed in zip(names, values, velocity, strict=True):
            low, high = BOUNDS[family]
            # The official code keeps its values above 0; a ratio of 1 would reveal nothing.
            low, high = max(low, 1e-4), min(high, 0.9999) if family == "mask_ratios" else high
            moved.append(min(high, max(low, value - settings.learning_rate[family] * speed)))
        pair = replace(pair, schedule=pair.schedule.with_values(moved))
    return best[1]
