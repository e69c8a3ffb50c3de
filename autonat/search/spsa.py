"""Simultaneous perturbation stochastic approximation (Spall, 1998) on all values of a schedule: two evaluations a step,
whatever the number of values."""

from autonat.search.coordinates import coordinates_of, schedule_at
from autonat.search.program import Laboratory, Pair, Phase, Program
from autonat.search_config import SPSASearch
from models.random_streams import stream
from models.schedule import components

# Spall's decay of the steps and of the differences.
STEP_DECAY, DIFFERENCE_DECAY = 0.602, 0.101


def spsa(
    lab: Laboratory, phase: Phase, start: Pair, settings: SPSASearch, address: tuple[int | str, ...]
) -> Program[list[Pair]]:
    """The last point and the mean of the second half of the way. Both sides of a difference share their noise."""
    families = [family for family, _ in components(start.schedule.num_steps)]
    scales = [settings.scales[family] for family in families]
    here = coordinates_of(start.schedule)
    stability = 0.1 * settings.iterations
    way: list[list[float]] = []
    for iteration in range(settings.iterations):
        if not lab.has_budget():
            break
        signs = stream(lab.seed_for(*address, "signs"), iteration).integers(2, size=len(here)) * 2.0 - 1.0
        width = settings.difference / (iteration + 1) ** DIFFERENCE_DECAY
        ends = [
            Pair(start.training, schedule_at([c + side * width * sign * scale for c, sign, scale in
                                              zip(here, signs, scales, strict=True)], start.schedule))
            for side in (1.0, -1.0)
        ]  # fmt: skip
        seed = lab.seed_for(*address, "spsa", iteration)
        up, down = yield from lab.judge(
            phase.at("gradient"), [lab.evaluation(end, settings.images, seed) for end in ends]
        )
        slope = (up.value - down.value) / (2 * width)
        rate = settings.learning_rate / (iteration + 1 + stability) ** STEP_DECAY
        here = [c - rate * slope * sign * scale for c, sign, scale in zip(here, signs, scales, strict=True)]
        here = coordinates_of(schedule_at(here, start.schedule))  # what was cut off at the end of its range stays
        way.append(here)
    if not way:
        return []
    tail = way[len(way) // 2 :]
    mean = [sum(column) / len(tail) for column in zip(*tail, strict=True)]
    return [Pair(start.training, schedule_at(point, start.schedule)) for point in (here, mean)]
