"""Searches on noisy known functions, where the truth is known: ill-conditioned bowls in place of a generator.

Every method tunes the same schedules through the same code (`tune_schedule`) within the same number of images. A
function is a quadratic bowl over the coordinates in which schedules are moved, divided by their families' scales, so a
method meets it as it meets a distance: 4T - 2 values, mask ratios only through whole counts of tokens, noise from every
image.

A value is floor + excess. The excess is 1 at the start and 0 at the optimum, the floor is 0.1, as a distance has one
that no schedule goes below (the digits: 0.2 between real images, 2.9 for the default schedule). What is tabled is the
true value, without noise; "ratio" is the staged search's to the best compared method's, medians over seeds.

    python -m benchmarks.known_functions            # 7 functions, 3 seeds: minutes on one core
    python -m benchmarks.known_functions --quick    # 2 functions, 1 seed: seconds
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from autonat.orchestrator import run_program
from autonat.search.coordinates import coordinates_of, schedule_at, to_coordinate
from autonat.search.family import PARAMETERS, schedule_of
from autonat.search.program import Laboratory, Pair, Phase
from autonat.search.schedule_search import tune_schedule
from autonat.search.spaces import BOX
from autonat.search_config import AnySearch, Descent
from autonat.specs import Changes, Evaluation, EvaluationSpec, PopulationSpec, Result, Spec, fingerprint
from models.evaluate import Block, dithers
from models.frechet import standard_error
from models.population import parts_of, ratio_columns, regress, signs_of
from models.random_streams import stream
from models.schedule import GenerationSchedule, components, maskgit_cosine

FLOOR = 0.1
NUM_TOKENS = 64
# Of an image's noise, the share that common random numbers do not cancel (in standard deviations).
PRIVATE = 0.3


@dataclass(frozen=True)
class Bowl:
    """One function. condition: the steepest over the flattest direction's curvature, the others between in equal
    ratios. noise: standard deviation of one evaluation of 1,000 images; the start's excess is 1. rotated: whether the
    bowl's axes lie across the values. roughness: how far each value of the optimum is from a smooth schedule, in its
    family's scale. images: every method's budget.
    """

    num_steps: int
    condition: float
    noise: float
    rotated: bool
    roughness: float
    images: int

    @property
    def name(self) -> str:
        kind = f"{'rotated' if self.rotated else 'straight'}, {'rough' if self.roughness > 0.5 else 'smooth'}"
        return f"T={self.num_steps}, condition {self.condition:g}, {kind}"

    @property
    def dimensions(self) -> int:
        return 4 * self.num_steps - 2


BOWLS = (
    Bowl(4, 10, 0.02, False, 0.2, 60_000),
    Bowl(4, 1000, 0.2, True, 0.2, 60_000),
    Bowl(4, 100, 2.0, True, 0.7, 60_000),
    Bowl(8, 100, 0.2, True, 0.7, 100_000),
    Bowl(8, 1000, 1.0, False, 0.2, 100_000),
    Bowl(16, 10, 0.2, False, 0.7, 160_000),
    Bowl(16, 1000, 0.5, True, 0.2, 160_000),
)


class KnownFunction:
    """Answers evaluations and populations of a bowl, image by image (a ``Fulfiller``)."""

    def __init__(self, bowl: Bowl, seed: int) -> None:
        self.bowl = bowl
        self.start = maskgit_cosine(bowl.num_steps)
        families = [family for family, _ in components(bowl.num_steps)]
        self._families = families
        self._scales = np.array([Descent().scales[family] for family in families])
        self._noise = bowl.noise * math.sqrt(1000)
        random = stream(seed, "bowl", bowl.num_steps)
        point = {name: low + (high - low) * (0.2 + 0.6 * random.random()) for name, (low, high) in PARAMETERS.items()}
        smooth = np.array(coordinates_of(schedule_of(point, bowl.num_steps, "enat")))
        rough = smooth + bowl.roughness * self._scales * random.standard_normal(len(families))
        low, high = np.array([BOX[family] for family in families]).T
        edge = 0.05 * (high - low)
        self.optimum = schedule_at(np.clip(rough, low + edge, high - edge).tolist(), self.start)
        self._target = self._coordinates(np.array([self.optimum.values()]), None)[0]
        self._root = self._axes(random) * np.sqrt(np.geomspace(1, bowl.condition, len(families)))[:, None]
        self._unit = 1.0
        self._unit = self.excess(self.start)

    def _axes(self, random: np.random.Generator) -> np.ndarray:
        """The bowl's axes in rows, flattest first."""
        count = len(self._families)
        if not self.bowl.rotated:
            return np.eye(count)[random.permutation(count)]
        turned, signs = np.linalg.qr(random.standard_normal((count, count)))
        return turned * np.sign(np.diag(signs))

    def _coordinates(self, values_NP: np.ndarray, offsets: Sequence[float] | None) -> np.ndarray:
        """[N, P] in units of the families' scales. Ratios are what their whole counts of tokens come to."""
        columns = []
        for number, (family, step) in enumerate(components(self.bowl.num_steps)):
            column = values_NP[:, number]
            if family == "mask_ratios":
                dither = 0.0 if offsets is None else offsets[step]
                column = np.clip(np.floor(NUM_TOKENS * column + dither), 0.5, NUM_TOKENS - 0.5) / NUM_TOKENS
            # The population's ends are few distinct numbers.
            distinct, where = np.unique(column, return_inverse=True)
            columns.append(np.array([to_coordinate(family, float(value)) for value in distinct])[where])
        return np.stack(columns, axis=1) / self._scales

    def _values(self, values_NP: np.ndarray, offsets: Sequence[float] | None) -> np.ndarray:
        """Floor + excess [N], without noise."""
        gaps = (self._coordinates(values_NP, offsets) - self._target) @ self._root.T
        return FLOOR + (gaps * gaps).sum(axis=1) / self._unit

    def excess(self, schedule: GenerationSchedule) -> float:
        return self.true_value(schedule) - FLOOR

    def true_value(self, schedule: GenerationSchedule) -> float:
        """What infinitely many images would measure."""
        return float(self._values(np.array([schedule.values()]), None)[0])

    def curvature(self) -> np.ndarray:
        """The bowl's second derivatives [P, P], in distance per unit of the families' scales squared."""
        return 2 * self._root.T @ self._root / self._unit

    def slope(self, schedule: GenerationSchedule) -> np.ndarray:
        """The derivatives [P] per unit of the families' scales, the steps of the ratios smoothed out."""
        return self.curvature() @ (np.array(coordinates_of(schedule)) / self._scales - self._target)

    def begin(self, study_id: int, stopping: Callable[[], bool]) -> None:
        """Nothing to prepare."""

    def tick(self) -> None:
        """Nothing to write down."""

    def fulfil(self, requests: Sequence[Spec]) -> list[Result]:
        return [self._answer(spec) for spec in requests]

    def _answer(self, spec: Spec) -> Result:
        if isinstance(spec, PopulationSpec):
            return self._perturbed(spec)
        assert isinstance(spec, EvaluationSpec)
        own = fingerprint(spec)
        size = (spec.num_blocks, spec.block_size)
        common = stream(spec.seed, "common").standard_normal(size)
        private = stream(spec.seed, "private", own).standard_normal(size)
        noise = self._noise * (math.sqrt(1 - PRIVATE**2) * common + PRIVATE * private)
        shares = (self.true_value(spec.schedule) + noise.mean(axis=1)).tolist()
        value = math.fsum(shares) / len(shares)
        return Evaluation(
            value, standard_error(shares), spec.num_images, spec.features.metric, spec.seed, tuple(shares)
        )

    def _perturbed(self, spec: PopulationSpec) -> Changes:
        """As ``models.population`` does it: pairs of images with the same noise, moved opposite ways; one count of
        tokens a part of a block."""
        found, total = [], 0.0
        lows, highs = np.array(spec.lows), np.array(spec.highs)
        own = fingerprint(spec)
        num_steps = spec.schedule.num_steps
        blocks = [Block(index, spec.num_blocks, spec.block_size, spec.seed) for index in range(spec.num_blocks)]
        for part in [part for block in blocks for part in parts_of(num_steps, block)]:
            signs_HP = signs_of(num_steps, part)
            offsets = dithers(num_steps, part)
            private = stream(spec.seed, "private", own, part.index).standard_normal((2, len(signs_HP)))
            ends = [
                self._values(np.where(side * signs_HP.numpy() > 0, highs, lows), offsets)
                + self._noise * PRIVATE * private[row]
                for row, side in enumerate((1, -1))
            ]
            found.append((signs_HP, torch.from_numpy(ends[0] - ends[1])))
            total += float(np.mean(ends)) / part.num_blocks
        changes, errors = regress(found, ratio_columns(num_steps))
        return Changes(total, spec.features.metric, spec.num_images, tuple(changes), tuple(errors))


@dataclass(frozen=True, slots=True)
class Named:
    """Stands in a spec where studies have a network or a metric."""

    name: str
    mask_ratio: None = None

    @property
    def metric(self) -> str:
        return self.name


def methods(images: int) -> dict[str, dict[str, Any]]:
    """Each method's settings, a recipe's `search`, for a budget of so many images."""
    return {
        "staged": {
            "method": "staged",
            "warm_start": {"trials": 40, "images": 200},
            "descent": {"iterations": 16, "images": 1000, "max_images": 3000, "check_every": 4},
            "descents": 20,
            "confirmation_images": 2000,
        },
        "tpe": {"method": "tpe", "trials": images // 500},
        "cmaes": {"method": "cmaes", "trials": images // 500},
        # A Gaussian process takes seconds a trial beyond a hundred: fewer trials of more images.
        "gp": {"method": "gp", "trials": 48, "images": images // 48 // 100 * 100},
        "spsa": {"method": "spsa", "iterations": images // 1000},
        "random": {"method": "random", "trials": images // 500},
        "published": {"method": "official", "iterations": 1000},
    }


@dataclass(frozen=True)
class Outcome:
    """One search. began, ended: true values."""

    function: str
    dimensions: int
    noise: float
    seed: int
    method: str
    began: float
    ended: float
    images_spent: int
    seconds: float


def measure(bowl: Bowl, seed: int, method: str) -> Outcome:
    """One method on one function; the seed is the search's and the function's."""
    function = KnownFunction(bowl, seed)
    settings: Any = TypeAdapter(AnySearch).validate_python(methods(bowl.images)[method])
    named: Any = Named("known function")
    lab = Laboratory(named, seed, 100, bowl.images)
    began = time.perf_counter()
    verdict = run_program(tune_schedule(lab, Phase("schedule", 0), Pair(named, function.start), settings), function)
    return Outcome(
        bowl.name,
        bowl.dimensions,
        bowl.noise,
        seed,
        method,
        function.true_value(function.start),
        function.true_value(verdict.pair.schedule),
        lab.spent_images,
        time.perf_counter() - began,
    )


def table(outcomes: list[Outcome]) -> str:
    """A row a function: true values at the end, the median of the seeds and the worst."""
    names = list(dict.fromkeys(outcome.method for outcome in outcomes))
    lines = [
        "| function | values | noise | start | " + " | ".join(names) + " | ratio |",
        "|---" * (len(names) + 5) + "|",
    ]
    for function, noise in dict.fromkeys((outcome.function, outcome.noise) for outcome in outcomes):
        own = [outcome for outcome in outcomes if (outcome.function, outcome.noise) == (function, noise)]
        ended = {name: [outcome.ended for outcome in own if outcome.method == name] for name in names}
        cells = [f"{statistics.median(values):.2f} ({max(values):.2f})" for values in ended.values()]
        others = [statistics.median(values) for name, values in ended.items() if name != "staged"]
        ratio = f"{statistics.median(ended['staged']) / min(others):.2f}" if "staged" in ended and others else ""
        lines.append(
            f"| {function} | {own[0].dimensions} | {noise:g} | {own[0].began:.2f} | {' | '.join(cells)} | {ratio} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(methods(1)), choices=list(methods(1)))
    parser.add_argument("--functions", type=int, nargs="+", default=list(range(len(BOWLS))), help="by number, from 0")
    parser.add_argument("--quick", action="store_true", help="two functions, one seed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    functions, seeds = ([0, 3], [0]) if options.quick else (options.functions, options.seeds)
    outcomes: list[Outcome] = []
    for number in functions:
        for seed in seeds:
            for method in options.methods:
                outcomes.append(measure(BOWLS[number], seed, method))
                found = outcomes[-1]
                print(f"{found.function}, noise {found.noise:g}, seed {seed}: {method} {found.ended:.3f}, "
                      f"{found.images_spent:,} images, {found.seconds:.1f} s", flush=True)  # fmt: skip
    print(table(outcomes))
    worse = [outcome for outcome in outcomes if outcome.method == "staged" and outcome.ended > outcome.began]
    print(f"staged ended worse than it began in {len(worse)} searches")
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))


if __name__ == "__main__":
    main()
