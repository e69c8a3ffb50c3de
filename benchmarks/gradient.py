"""What one full gradient of a schedule costs, and whether its standard errors can be believed.

Three estimators on the quickstart's network: the published one (forward differences, fresh labels and noise at
every evaluation, steps 0.01 and 0.1), central differences under common random numbers with prefix reuse, and the
population's. Each is repeated with other seeds; the spread over the repeats is the error it really has, so images at
equal error compare. For the population also, by family of values: how often the truth (the mean over all repeats) lies
within 1.96 of its own standard errors.

    python -m benchmarks.gradient --db gradient.db --repeats 200
"""

import argparse
import statistics
import time
from dataclasses import replace

from autonat.config import load_recipe
from autonat.execution.executor import ProcessExecutor
from autonat.memo import Memo
from autonat.orchestrator import run_program
from autonat.search.alternation import start_of
from autonat.search.coordinates import RANGE, coordinates_of, to_value
from autonat.search.descent import measure_gradient
from autonat.search.program import Laboratory, Pair, Phase
from autonat.search_config import Descent, OfficialSearch
from autonat.storage.store import Store
from models.mask_ratio import BetaMaskRatio
from models.schedule import components

PHASE = Phase("benchmark", 0)


def published(memo: Memo, lab: Laboratory, pair: Pair, images: int, seed: int) -> list[float]:
    """One published gradient, in the units of ours: distance per unit of the family's scale, at small steps."""
    settings, scales = OfficialSearch(), Descent().scales
    names, values = components(pair.schedule.num_steps), pair.schedule.values()
    specs = []
    for index in range(-1, len(names)):
        moved = list(values)
        if index >= 0:
            moved[index] += settings.difference[names[index][0]]
        candidate = replace(pair, schedule=pair.schedule.with_values(moved))
        specs.append(lab.evaluation(candidate, images, lab.seed_for("published", seed, index), random_labels=True))
    base, *probes = [result.value for result in memo.fulfil(specs)]  # type: ignore[union-attr]
    gradient = []
    for (family, _), value, coordinate, probe in zip(names, values, coordinates_of(pair.schedule), probes, strict=True):
        low, high = RANGE[family]
        per_unit = (to_value(family, coordinate + 1e-4) - to_value(family, coordinate - 1e-4)) / 2e-4
        inside = low < value < high
        gradient.append((probe - base) / settings.difference[family] * (per_unit if inside else 1.0) * scales[family])
    return gradient


def spread(gradients: list[list[float]]) -> float:
    """Root mean square over components of the standard deviation over repeats."""
    return statistics.fmean(statistics.variance(column) for column in zip(*gradients, strict=True)) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", default="gradient.db")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--steps", type=int, default=4, help="T")
    parser.add_argument("--images", type=int, default=1000, help="of one population gradient")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    store = Store.open(options.db)
    lab, pair = start_of(load_recipe("quickstart", [f"schedule.num_steps={options.steps}"]))
    pair = replace(pair, training=replace(pair.training, mask_ratio=BetaMaskRatio(3.0, 3.0)))  # type: ignore[type-var]
    with ProcessExecutor(str(store.artifacts.folder), options.workers) as executor:
        memo = Memo(store, executor)
        memo.fulfil([lab.features, pair.training])  # type: ignore[list-item]

        def ours(estimator: str, images: int, seed: int):
            settings = Descent(estimator=estimator, images=images)  # type: ignore[arg-type]
            program = measure_gradient(lab, PHASE, pair, settings, (estimator, images, seed))
            return run_program(program, memo)[0]

        ours("population", options.images, -1)  # warms the workers up
        few = max(3, options.repeats // 20)
        rows = []
        started = time.perf_counter()
        population = [ours("population", options.images, seed) for seed in range(options.repeats)]
        rows.append(
            ("population", options.images, spread([list(g.values) for g in population]),
             (time.perf_counter() - started) / options.repeats)
        )  # fmt: skip
        started = time.perf_counter()
        probes = [ours("probes", 200, seed) for seed in range(few)]
        cost = 200 * (2 + 2 * len(components(options.steps)))
        rows.append(
            ("central differences, prefix reuse", cost, spread([list(g.values) for g in probes]),
             (time.perf_counter() - started) / few)
        )  # fmt: skip
        started = time.perf_counter()
        theirs = [published(memo, lab, pair, 1000, seed) for seed in range(few)]
        rows.append(
            (
                "published",
                1000 * (1 + len(components(options.steps))),
                spread(theirs),
                (time.perf_counter() - started) / few,
            )
        )
    reference_images, reference_error = rows[0][1], rows[0][2]
    print(f"{'estimator':36} {'images':>8} {'error':>8} {'seconds':>8}  images and seconds at the population's error")
    for name, images, error, seconds in rows:
        factor = (error / reference_error) ** 2
        print(
            f"{name:36} {images:8,} {error:8.3f} {seconds:8.2f}  {images * factor / reference_images:8.1f}x "
            f"{seconds * factor / rows[0][3]:8.1f}x"
        )
    truth = [statistics.fmean(column) for column in zip(*[g.values for g in population], strict=True)]
    print("the population's own errors, and how often its 95% intervals hold the mean of all repeats:")
    families = [family for family, _ in components(options.steps)]
    for family in [*dict.fromkeys(families), "all"]:
        columns = [number for number, own in enumerate(families) if family in (own, "all")]
        reported = statistics.fmean(g.standard_errors[c] ** 2 for g in population for c in columns) ** 0.5
        real = spread([[g.values[c] for c in columns] for g in population])
        inside = [abs(g.values[c] - truth[c]) < 1.96 * g.standard_errors[c] for g in population for c in columns]
        print(
            f"  {family:24} reported {reported:.3f}, over repeats {real:.3f}, "
            f"intervals {100 * statistics.fmean(inside):.1f}% of {len(inside)}"
        )


if __name__ == "__main__":
    main()
