"""The schedule search on noisy functions whose truth is known (benchmarks/known_functions.py, the quick part)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autonat.orchestrator import run_program
from autonat.search.descent import measure_gradient
from autonat.search.program import Laboratory, Pair, Phase
from autonat.search_config import Descent
from autonat.specs import paired_difference
from benchmarks.known_functions import BOWLS, FLOOR, Bowl, KnownFunction, Named, Outcome, measure, table
from models.schedule import components

CLEAR = Bowl(2, 10, 0.02, False, 0.2, 40_000)
SMALL = [
    CLEAR,
    Bowl(3, 1000, 0.3, True, 0.7, 20_000),
    Bowl(3, 100, 3.0, True, 0.2, 20_000),  # noise above the signal
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bowl", SMALL, ids=lambda bowl: bowl.name)
def test_the_search_never_ends_worse_than_it_began(bowl, seed):
    found = measure(bowl, seed, "staged")
    assert found.began == pytest.approx(1 + FLOOR)
    assert found.ended <= found.began
    # The last stage and a confirmation may come on top of the budget.
    assert found.images_spent < bowl.images + 25_000
    if bowl == CLEAR:
        assert found.ended - FLOOR < 0.1


@pytest.mark.parametrize("seed", range(2))
def test_where_noise_is_small_it_beats_random_points_and_the_published_search(seed):
    others = [measure(CLEAR, seed, method).ended for method in ("random", "published", "spsa")]
    assert measure(CLEAR, seed, "staged").ended <= 1.2 * min(others)


@pytest.mark.parametrize("bowl", [*SMALL, BOWLS[0]], ids=lambda bowl: bowl.name)
def test_a_bowl_is_what_it_says(bowl):
    function = KnownFunction(bowl, 1)
    assert function.true_value(function.start) == pytest.approx(1 + FLOOR)
    assert function.true_value(function.optimum) == pytest.approx(FLOOR)
    curvatures = np.linalg.eigvalsh(function.curvature())
    assert curvatures[-1] / curvatures[0] == pytest.approx(bowl.condition)
    assert len(curvatures) == bowl.dimensions == 4 * bowl.num_steps - 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 62), st.floats(0.01, 0.99))
def test_ratios_matter_only_through_whole_counts(count, share):
    function = KnownFunction(CLEAR, 0)
    here, there = (
        function.start.with_values([(count + part) / 64, *function.start.values()[1:]]) for part in (0.005, share)
    )
    further = function.start.with_values([(count + 1.005) / 64, *function.start.values()[1:]])
    assert function.true_value(here) == function.true_value(there)
    assert function.true_value(here) != function.true_value(further)


def laboratory(function, seed=0):
    named = Named("function")
    return Laboratory(named, seed, 100), Pair(named, function.start)


def test_standard_errors_of_evaluations_and_differences_are_real():
    function = KnownFunction(SMALL[1], 0)
    lab, pair = laboratory(function)
    other = Pair(pair.training, function.optimum)
    values, differences = [], []
    for seed in range(200):
        base, moved = function.fulfil([lab.evaluation(which, 1000, seed) for which in (pair, other)])
        values.append((base.value - function.true_value(pair.schedule)) / base.standard_error)
        change, error = paired_difference(moved, base)
        differences.append((change - (FLOOR - function.true_value(pair.schedule))) / error)
    # Ten blocks: the spread of a Student's t with 9 degrees of freedom is 1.13.
    for standardised in (values, differences):
        assert abs(np.mean(standardised)) < 0.35
        assert 0.9 < np.std(standardised) < 1.4
    # Common random numbers leave the private part alone: 0.3 * sqrt(2) of the whole.
    base, moved = function.fulfil([lab.evaluation(which, 1000, 0) for which in (pair, other)])
    assert paired_difference(moved, base)[1] < base.standard_error


def test_population_gradients_agree_with_the_truth_within_their_errors():
    bowl = SMALL[1]
    function = KnownFunction(bowl, 0)
    lab, pair = laboratory(function)
    wide = Descent(images=20_000, difference=0.3)
    gradient, _ = run_program(measure_gradient(lab, Phase("test", 0), pair, wide, ("test",)), function)
    slope = function.slope(function.start)
    # A difference that is cut off at the end of a value's range says less than the slope.
    inside = [
        index
        for index, ((name, _), value) in enumerate(zip(components(3), function.start.values(), strict=True))
        if not (name == "choice_temperatures" and value < wide.difference * wide.scales[name])
    ]
    errors = [(gradient.values[i] - slope[i]) / gradient.standard_errors[i] for i in inside]
    assert math.sqrt(np.mean(np.square(errors))) < 2.0
    assert gradient.direction_cosine() > 0.9


def test_the_table_compares_medians():
    outcomes = [
        Outcome("bowl", 6, 0.1, seed, method, 1.1, ended, 1000, 0.1)
        for method, values in {"staged": (0.2, 0.3, 0.9), "tpe": (0.5, 0.6, 0.7)}.items()
        for seed, ended in enumerate(values)
    ]
    (row,) = table(outcomes).splitlines()[2:]
    assert row == "| bowl | 6 | 0.1 | 1.10 | 0.30 (0.90) | 0.60 (0.70) | 0.50 |"
