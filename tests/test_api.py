"""The search from Python, for generators that are not ours: against stand-ins whose distance is known."""

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import autonat
from autonat import Descent, OfficialSearch, SPSASearch, StagedSearch, UserError, WarmStart, maskgit_cosine, tune
from autonat.execution.outside import (
    OutsideFulfiller,
    OutsideGenerator,
    OutsideMetric,
    Sampled,
    Scored,
    design,
    design_rows,
    reference_sha256,
)
from autonat.search.coordinates import coordinates_of
from autonat.specs import Changes, Differences, Evaluation, EvaluationSpec, PopulationSpec, ProbeSpec, fingerprint
from models.evaluate import Block, dithers, labels_of
from models.frechet import Reference, Statistics
from models.probes import Probe
from models.schedule import FAMILIES, GenerationSchedule, components
from models.statistics_files import StoredStatistics, write_statistics

ROOT = Path(__file__).parents[1]
OPTIMUM = GenerationSchedule((0.4,), (0.8, 0.6), (2.0,), (0.5, 1.5))
START = maskgit_cosine(2)
D = 6
REFERENCE = Reference(torch.zeros(D), torch.eye(D))
SMALL = StagedSearch(
    warm_start=WarmStart(trials=8, random_trials=4, batch=4, images=40, keep=2),
    descent=Descent(iterations=3, images=80),
    confirmation_images=200,
)


def gaps(schedule, optimum=OPTIMUM):
    return np.array(coordinates_of(schedule)) - coordinates_of(optimum)


def true_distance(schedule):
    """Of infinitely many images of the stand-in: unit covariance and a mean that says how far off the values are."""
    return float((0.3 * gaps(schedule)) @ (0.3 * gaps(schedule)))


class StandIn:
    """A sampler whose features are unit normal around 0.3 times the gaps to the optimum. Remembers its calls."""

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def __call__(self, schedule, labels, seed):
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((schedule, tuple(labels), seed))
        return np.random.default_rng(seed).normal(size=(len(labels), D)) + 0.3 * gaps(schedule)

    @property
    def images(self):
        return sum(len(labels) for _, labels, _ in self.calls)


def private(sampler, spread=0.5):
    """The sampler with noise on top that no two schedules have in common."""

    def noisy(schedule, labels, seed):
        features = sampler(schedule, labels, seed)
        own = np.random.default_rng([seed, abs(hash(tuple(schedule.values())))])
        return features + spread * own.normal(size=features.shape)

    return noisy


def scalar_score(schedule, num_images, seed):
    return true_distance(schedule) + np.random.default_rng(seed).normal() / num_images**0.5


def image_scores(schedule, num_images, seed):
    return true_distance(schedule) + np.random.default_rng(seed).normal(size=num_images)


def specs(kind, *, num_images=40, block_size=20, schedule=START, seed=5, **more):
    """A spec of one of the three kinds, for the stand-in."""
    common = {
        "training": OutsideGenerator("stand-in", "features", 10, False),
        "features": OutsideMetric("stand-in", reference_sha256(REFERENCE)),
        "schedule": schedule,
        "seed": seed,
        "num_images": num_images,
        "block_size": block_size,
    }
    if kind is ProbeSpec:
        common["probes"] = (Probe("mask_ratios", 0, 0.6), Probe("guidance_scales", 1, 0.3))
    if kind is PopulationSpec:
        values = schedule.values()
        common["lows"] = tuple(value - 0.1 if value >= 0.1 else value for value in values)
        common["highs"] = tuple(value + 0.1 for value in values)
    return kind(**{**common, **more})


KINDS = (EvaluationSpec, ProbeSpec, PopulationSpec)


# Measurements


@given(
    num_blocks=st.integers(2, 5),
    block_size=st.integers(2, 9),
    dimensions=st.integers(1, 5),
    seed=st.integers(0, 2**40),
    single=st.booleans(),
)
def test_an_evaluation_is_the_frechet_distance_of_all_features(num_blocks, block_size, dimensions, seed, single):
    """Also with fewer images than dimensions, and of float32."""
    seen = []

    def sampler(schedule, labels, seed):
        features = np.random.default_rng(seed).normal(1.5, 0.7, size=(len(labels), dimensions))
        seen.append(features.astype(np.float32) if single else features)
        return seen[-1]

    mixing = np.random.default_rng(dimensions).normal(size=(dimensions, dimensions))
    reference = Reference(torch.ones(dimensions), torch.from_numpy(mixing @ mixing.T + np.eye(dimensions)))
    spec = specs(EvaluationSpec, num_images=num_blocks * block_size, block_size=block_size, seed=seed)
    (found,) = OutsideFulfiller(Sampled(sampler, reference, 3)).fulfil([spec])
    together = Statistics.of(torch.from_numpy(np.concatenate(seen)))
    assert found.value == pytest.approx(reference.distance(together.mean, together.covariance), rel=1e-8, abs=1e-8)
    influence = reference.influence(together)
    assert found.shares == pytest.approx([float(influence.of_features(torch.from_numpy(x)).mean()) for x in seen])
    assert (found.num_images, found.seed) == (spec.num_images, seed)


def test_calls_are_balanced_blocks_with_seeds_of_their_own():
    sampler = StandIn()
    fulfiller = OutsideFulfiller(Sampled(sampler, REFERENCE, 10))
    fulfiller.fulfil([specs(EvaluationSpec), specs(EvaluationSpec, seed=6), specs(EvaluationSpec, schedule=OPTIMUM)])
    seeds = [seed for _, _, seed in sampler.calls]
    assert seeds[:2] == seeds[4:]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert Counter(label for _, labels, _ in sampler.calls[:2] for label in labels) == dict.fromkeys(range(10), 4)
    spec = specs(EvaluationSpec, labels="random", seed=7)
    fulfiller.fulfil([spec])
    assert sampler.calls[-1][1] == tuple(labels_of(10, Block(1, 2, 20, 7, random_labels=True)))


def test_probes_are_paired_with_the_base():
    """Each change is the mean of the influence function over the block, on the base's own labels and noise; blocks in
    even places are scored by the images of the others, and the other way round."""
    sampler = StandIn()
    spec = specs(ProbeSpec, num_images=60)
    (found,) = OutsideFulfiller(Sampled(sampler, REFERENCE, 10)).fulfil([spec])
    assert isinstance(found, Differences)
    assert len(sampler.calls) == 3 * 3
    assert len({(labels, seed) for _, labels, seed in sampler.calls}) == 3
    base = [torch.from_numpy(StandIn()(START, labels, seed)) for _, labels, seed in sampler.calls[:3]]
    together = Statistics.of(torch.cat(base))
    odd, even = (REFERENCE.influence(Statistics.of(torch.cat(half))) for half in (base[1::2], base[::2]))
    assert found.value == pytest.approx(REFERENCE.distance(together.mean, together.covariance), abs=1e-10)
    for number, block in enumerate(found.blocks):
        influence = even if number % 2 else odd
        _, labels, seed = sampler.calls[number]
        for probe, change in zip(spec.probes, block, strict=True):
            values = dict(zip(components(2), START.values(), strict=True)) | {(probe.family, probe.step): probe.value}
            moved = torch.from_numpy(StandIn()(START.with_values(values.values()), labels, seed))
            expected = influence.of_features(moved).mean() - influence.of_features(base[number]).mean()
            assert change == pytest.approx(float(expected), abs=1e-12)


def ends(schedule, width=0.3):
    values = np.array(schedule.values())
    return tuple(values - width), tuple(values + width)


MIDDLE = GenerationSchedule((0.6,), (1.0, 1.0), (1.0,), (1.0, 1.0))


def true_changes(lows, highs):
    changes = []
    for index in range(len(lows)):
        sides = []
        for end in (lows, highs):
            values = MIDDLE.values()
            values[index] = end[index]
            sides.append(true_distance(MIDDLE.with_values(values)))
        changes.append(sides[1] - sides[0])
    return np.array(changes)


@pytest.mark.parametrize(
    ("instrument", "num_images", "block_size"),
    [
        (Sampled(private(StandIn()), REFERENCE, 10), 8000, 200),
        (Sampled(private(StandIn()), REFERENCE, 10), 8000, 2000),
        (Scored(image_scores), 8000, 200),
        (Scored(scalar_score), 8000, 200),
    ],
)
def test_a_population_finds_every_change(instrument, num_images, block_size):
    lows, highs = ends(MIDDLE)
    spec = specs(PopulationSpec, schedule=MIDDLE, num_images=num_images, block_size=block_size, lows=lows, highs=highs)
    (found,) = OutsideFulfiller(instrument).fulfil([spec])
    assert isinstance(found, Changes)
    truth = true_changes(lows, highs)
    apart = np.abs(np.array(found.changes) - truth)
    assert (apart < 5 * np.array(found.standard_errors) + 1e-9).all()  # noise that is wholly common leaves no error
    assert (apart < 0.2 * np.abs(truth).max()).all()


def test_a_populations_errors_are_as_large_as_they_say():
    """z-scores over many seeds; and as small as if one value alone had moved in all images.

    Moves are small: the errors take the influence function as known, and what its own noise adds grows with the move.
    """
    lows, highs = ends(MIDDLE, width=0.1)
    fulfiller = OutsideFulfiller(Sampled(private(StandIn()), REFERENCE, 10))

    def measured(lows):
        common = {"schedule": MIDDLE, "num_images": 320, "block_size": 80, "lows": lows, "highs": highs}
        found = fulfiller.fulfil([specs(PopulationSpec, seed=seed, **common) for seed in range(60)])
        return [np.array([getattr(one, name) for one in found]) for name in ("changes", "standard_errors")]

    changes, errors = measured(lows)
    z = (changes - true_changes(lows, highs)) / errors
    assert 0.8 < z.std() < 1.25
    assert abs(z.mean()) < 0.25
    alone = measured((*highs[:4], lows[4], highs[5]))[1]
    assert (alone[:, :4] == 0).all()
    assert 0.9 < errors[:, 4].mean() / alone[:, 4].mean() < 1.2


@given(values=st.integers(1, 62), repeats=st.integers(1, 3), whole=st.booleans(), seed=st.integers(0, 2**40))
def test_a_design_is_orthogonal(values, repeats, whole, seed):
    rows = design_rows(values, whole_blocks=whole)
    assert rows > values
    signs = design(rows, values, repeats * rows, seed)
    assert signs.shape == (repeats * rows, values)
    assert (signs.T @ signs == repeats * rows * np.eye(values)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fixed", [(), ("guidance_scales",), ("mask_ratios", "choice_temperatures", "guidance_scales")])
@pytest.mark.parametrize(("num_images", "block_size"), [(40, 20), (600, 100), (84, 6)])
def test_a_spec_costs_what_is_said(kind, fixed, num_images, block_size):
    spec = specs(kind, num_images=num_images, block_size=block_size)
    sampler, sizes = StandIn(), []

    def score(schedule, count, seed):
        sizes.append(count)
        return scalar_score(schedule, count, seed)

    sampled = OutsideFulfiller(Sampled(sampler, REFERENCE, 10), {family: getattr(START, family) for family in fixed})
    sampled.fulfil([spec, spec])
    assert sampled.images_spent == sampler.images
    assert max(len(labels) for _, labels, _ in sampler.calls) <= block_size
    if kind is PopulationSpec and num_images > 100:
        assert 0.9 * num_images < sampler.images <= num_images
    scored = OutsideFulfiller(Scored(score), sampled.fixed)
    scored.fulfil([spec, spec])
    assert scored.images_spent == sum(sizes)
    assert set(sizes) == {block_size}


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_families_do_not_move(kind):
    sampler = StandIn()
    fulfiller = OutsideFulfiller(Sampled(sampler, REFERENCE, 10), {"guidance_scales": (0.1, 0.2)})
    (found,) = fulfiller.fulfil([specs(kind)])
    assert {schedule.guidance_scales for schedule, _, _ in sampler.calls} == {(0.1, 0.2)}
    if kind is ProbeSpec:
        assert all(block[1] == 0.0 != block[0] for block in found.blocks)
    if kind is PopulationSpec:
        assert (found.changes[-2:], found.standard_errors[-2:]) == ((0.0, 0.0), (0.0, 0.0))
        assert all(found.standard_errors[:-2])


def test_dither_goes_to_those_who_take_it_and_to_differences_alone():
    given_offsets = []

    def sampler(schedule, labels, seed, dither=None):
        given_offsets.append(dither)
        return StandIn()(schedule, labels, seed)

    fulfiller = OutsideFulfiller(Sampled(sampler, REFERENCE, 10))
    fulfiller.fulfil([specs(EvaluationSpec)])
    assert given_offsets == [None, None]
    fulfiller.fulfil([specs(ProbeSpec)])
    wanted = [dithers(2, Block(index, 2, 20, 5)) for index in range(2)]
    assert given_offsets[2:] == [*wanted, *[wanted[0]] * 2, *[wanted[1]] * 2]
    del given_offsets[:]
    fulfiller.fulfil([specs(PopulationSpec)])
    forward, backward = given_offsets[::2], given_offsets[1::2]
    assert forward == backward
    first = sorted(offsets[0] for offsets in forward)
    assert first == pytest.approx([(index + 0.5) / len(forward) for index in range(len(forward))])


# Answers that are not what was asked for


def ones(labels, dimensions=D):
    return np.ones((len(labels), dimensions))


class Unreadable:
    def __array__(self, *args, **kwargs):
        raise ValueError("no")


BAD_FEATURES = {
    "too few": (lambda labels: ones(labels)[1:], r"shape \[19, 6\]; 20 labels .* need \[20, 6\]"),
    "too wide": (lambda labels: ones(labels, D + 1), r"shape \[20, 7\].* reference of 6 dimensions"),
    "flat": (lambda labels: ones(labels)[:, 0], r"shape \[20\]"),
    "not a number": (lambda labels: ones(labels) * np.nan, "120 of 120 values that are not finite"),
    "infinite": (lambda labels: np.where(np.eye(len(labels), D) > 0, np.inf, 1), "6 of 120 values"),
    "nothing": (lambda labels: None, "NoneType of object"),
    "text": (lambda labels: "features", "str of "),
    "complex": (lambda labels: ones(labels) * 1j, "complex128"),
    "ragged": (lambda labels: [[1.0], [1.0, 2.0]], "list"),
    "unreadable": (lambda labels: Unreadable(), "no array of numbers"),
}


def one_line(caught):
    assert "\n" not in str(caught.value)
    return True


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_features_that_do_not_fit(case):
    answer, message = BAD_FEATURES[case]
    with pytest.raises(UserError, match=message) as caught:
        tune(lambda schedule, labels, seed: answer(labels), reference=REFERENCE, start=START, search=SMALL,
             block_size=20, held_out_images=40)  # fmt: skip
    assert one_line(caught)


BAD_SCORES = {
    "too many": (lambda count: np.ones(count + 1), r"shape \[21\]; 20 images need one number or \[20\]"),
    "a table": (lambda count: np.ones((count, 1)), r"shape \[20, 1\]"),
    "not a number": (lambda count: float("nan"), "1 of 1 values that are not finite"),
    "nothing": (lambda count: None, "NoneType"),
}


@pytest.mark.parametrize("case", BAD_SCORES)
def test_scores_that_do_not_fit(case):
    answer, message = BAD_SCORES[case]
    with pytest.raises(UserError, match=message) as caught:
        tune(evaluate=lambda schedule, count, seed: answer(count), start=START, search=SMALL, block_size=20,
             held_out_images=40)  # fmt: skip
    assert one_line(caught)


def test_what_the_function_raises_comes_through():
    def sampler(schedule, labels, seed):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        tune(sampler, reference=REFERENCE, start=START, search=SMALL, block_size=20, held_out_images=40)


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: x.tolist(),
        torch.from_numpy,
        lambda x: torch.from_numpy(x).requires_grad_(),
        lambda x: np.asfortranarray(x),
    ],
)
def test_any_array_will_do(shape):
    def sampler(schedule, labels, seed):
        return shape(StandIn()(schedule, labels, seed))

    spec = specs(EvaluationSpec)
    plain = OutsideFulfiller(Sampled(StandIn(), REFERENCE, 10)).fulfil([spec])
    assert OutsideFulfiller(Sampled(sampler, REFERENCE, 10)).fulfil([spec]) == plain


@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.bfloat16, 1), (torch.float16, 1), (torch.int64, 1e9), (torch.uint8, 30)]
)
def test_half_precision_and_whole_numbers_are_numbers(dtype, scale):
    """Measured as the same numbers are in double precision, to the last bit."""

    def rounded(schedule, labels, seed):
        return torch.from_numpy(scale * abs(StandIn()(schedule, labels, seed))).to(dtype)

    def doubled(schedule, labels, seed):
        return rounded(schedule, labels, seed).double()

    spec = specs(EvaluationSpec)
    found, expected = (
        OutsideFulfiller(Sampled(sampler, REFERENCE, 10)).fulfil([spec]) for sampler in (rounded, doubled)
    )
    assert found == expected


def test_a_sampler_may_use_its_buffer_again():
    buffer = np.empty((20, D))

    def sampler(schedule, labels, seed):
        buffer[:] = StandIn()(schedule, labels, seed)
        return buffer

    spec = specs(EvaluationSpec)
    plain = OutsideFulfiller(Sampled(StandIn(), REFERENCE, 10)).fulfil([spec])
    assert OutsideFulfiller(Sampled(sampler, REFERENCE, 10)).fulfil([spec]) == plain


# References


def test_a_reference_may_come_in_any_form(tmp_path):
    features = np.random.default_rng(1).normal(size=(50, D))
    mean, covariance = features.mean(axis=0), np.cov(features, rowvar=False)
    stored = StoredStatistics(torch.from_numpy(mean), torch.from_numpy(covariance))
    write_statistics(tmp_path / "reference.npz", stored)
    forms = [
        features,
        torch.from_numpy(features),
        (mean, covariance),
        (torch.from_numpy(mean), covariance),
        tmp_path / "reference.npz",
        str(tmp_path / "reference.npz"),
        Reference(torch.from_numpy(mean), torch.from_numpy(covariance)),
    ]
    for form in forms:
        found = autonat.api.as_reference(form)
        assert torch.allclose(found.mean, torch.from_numpy(mean), rtol=0, atol=1e-12)
        assert torch.allclose(found.covariance, torch.from_numpy(covariance), rtol=0, atol=1e-12)


BAD_REFERENCES = {
    "one image": (np.ones((1, D)), "at least 2"),
    "flat": (np.ones(D), r"got \[6\]"),
    "text that is no file": ("no-such-file.npz", "no such statistics file"),
    "not finite": (np.full((5, D), np.nan), "not finite"),
    "mixed up": ((np.eye(D), np.zeros(D)), "mean"),
    "three parts": ((1, 2, 3), "two parts"),
    "not symmetric": ((np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]])), "not symmetric"),
    "an object": (object(), "no array"),
    "a list of text": ((["a"], ["b"]), "no array"),
}


@pytest.mark.parametrize("case", BAD_REFERENCES)
def test_references_that_do_not_fit(case):
    reference, message = BAD_REFERENCES[case]
    with pytest.raises(UserError, match=message) as caught:
        tune(StandIn(), reference=reference, start=START)
    assert one_line(caught)


BAD_ARGUMENTS = {
    "nothing": ({"sampler": None}, "either a sampler or an evaluate"),
    "both": ({"evaluate": scalar_score}, "either a sampler or an evaluate"),
    "no function": ({"sampler": 3}, "must be callable, not int"),
    "no reference": ({"reference": None}, "needs a reference"),
    "reference for nothing": ({"sampler": None, "evaluate": scalar_score}, "takes no reference"),
    "no classes": ({"num_classes": 0}, "num_classes"),
    "start by name": ({"start": "maskgit-cosine"}, "GenerationSchedule"),
    "unknown family": ({"fixed": ["guidance"]}, "fixed takes a list of families out of mask_ratios"),
    "a family's name": ({"fixed": "guidance_scales"}, "fixed takes a list"),
    "all fixed": ({"fixed": FAMILIES}, "nothing is left"),
    "odd blocks": ({"block_size": 25}, "even"),
    "no budget": ({"budget_images": 0}, "budget_images"),
    "held out": ({"held_out_images": 30}, "held_out_images = 30 must be a multiple of block_size 20"),
    "half a block": ({"search": StagedSearch(confirmation_images=30)}, "search.warm_start.images|search.confirmation"),
    "half a gradient": (
        {"search": SMALL.model_copy(update={"descent": Descent(images=30)})},
        "search.descent.images = 30",
    ),
    "no name": ({"db": "x.db"}, "db needs a name"),
    "no folder": ({"db": "no/such/folder/x.db", "name": "x"}, "no folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_arguments_that_do_not_fit(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, message = BAD_ARGUMENTS[case]
    sampler = StandIn()
    arguments = {"sampler": sampler, "reference": REFERENCE, "start": START, "search": SMALL, "block_size": 20,
                 "held_out_images": 40, **changes}  # fmt: skip
    with pytest.raises(UserError, match=message) as caught:
        tune(**arguments)
    assert one_line(caught)
    assert not sampler.calls
    assert not list(tmp_path.iterdir())


# Searches


def tuned(sampler=None, **changes):
    arguments = {"reference": REFERENCE, "start": START, "num_classes": 10, "search": SMALL, "block_size": 20,
                 "held_out_images": 400}  # fmt: skip
    arguments = {**arguments, **changes}
    if "evaluate" in changes:
        arguments["reference"] = None
    return tune(sampler, **arguments)


@pytest.mark.parametrize("seed", range(3))
def test_a_search_finds_a_better_schedule_and_says_how_much(seed):
    sampler = StandIn()
    result = tuned(sampler, seed=seed, search=StagedSearch(
        warm_start=WarmStart(trials=24, random_trials=8, batch=4, images=200, keep=2),
        descent=Descent(iterations=8, images=400),
        confirmation_images=1000,
    ), held_out_images=4000, block_size=100)  # fmt: skip
    assert true_distance(result.schedule) < 0.5 * true_distance(START)
    change, error = result.gain
    assert abs(change - (true_distance(START) - true_distance(result.schedule))) < 5 * error + 0.02
    gap, gap_error = result.gap
    assert gap == result.fresh.value - result.search_time.value
    assert result.fresh.num_images == result.search_time.num_images == 1000
    assert abs(gap) < 5 * gap_error
    assert gap_error > result.fresh.standard_error
    assert result.history[-4].images_spent == result.images_spent
    assert result.images_spent + 2 * 4000 + 1000 == sampler.images
    *_, held_out, baseline, fresh = result.history
    assert fresh.images_spent == sampler.images
    assert (held_out.distance, baseline.distance, fresh.distance) == (
        result.distance, result.baseline.value, result.fresh.value,
    )  # fmt: skip
    assert (held_out.schedule, baseline.schedule, fresh.schedule) == (result.schedule, START, result.schedule)
    # The report's noise was seen by nothing before it.
    reported = {seed for _, _, seed in sampler.calls[-90:]}
    assert len(reported) == 40 + 10
    assert not reported & {seed for _, _, seed in sampler.calls[:-90]}


@pytest.mark.parametrize("score", [scalar_score, image_scores])
def test_a_function_that_judges_by_itself(score):
    sizes = []

    def evaluate(schedule, num_images, seed):
        sizes.append(num_images)
        return score(schedule, num_images, seed)

    result = tuned(evaluate=evaluate)
    assert true_distance(result.schedule) < true_distance(START)
    assert set(sizes) == {20}
    assert result.images_spent + 2 * 400 + result.fresh.num_images == sum(sizes)
    assert result.evaluation.metric == "unnamed"


@pytest.mark.parametrize(
    "search",
    [
        SPSASearch(iterations=4, images=40, confirmation_images=200),
        OfficialSearch(iterations=1, images=40),
        SMALL.model_copy(update={"descent": Descent(iterations=2, images=40, estimator="probes")}),
        SMALL.model_copy(update={"warm_start": None}),
        SMALL.model_copy(update={"descent": None}),
    ],
    ids=["spsa", "official", "probes", "descent", "warm start"],
)
def test_other_searches(search):
    result = tuned(StandIn(), search=search)
    assert result.schedule.num_steps == 2
    assert result.history


def test_a_budget_ends_the_search():
    """What is said to be spent is what the sampler was asked for, without the held-out report."""
    spent = []
    for budget in (200, None):
        sampler = StandIn()
        result = tuned(sampler, budget_images=budget)
        spent.append(result.images_spent)
        # The same schedule on the same seed is measured once.
        reported = 400 * len({result.schedule, START}) + result.fresh.num_images
        assert spent[-1] + reported == sampler.images
    assert 200 <= spent[0] < spent[1]


@pytest.mark.parametrize("estimator", ["population", "probes"])
def test_a_budget_counts_what_the_function_is_asked_for(estimator):
    """Here a gradient generates another number of images than its settings name, as some families stay fixed."""
    search = StagedSearch(
        warm_start=None,
        descent=Descent(iterations=40, images=200, estimator=estimator),
        confirmation_images=40,
    )
    sampler, fixed = StandIn(), ("guidance_scales", "choice_temperatures")
    one = tuned(StandIn(), search=search.model_copy(update={"descent": search.descent.model_copy(
        update={"iterations": 1})}), fixed=fixed)  # fmt: skip
    result = tuned(sampler, search=search, fixed=fixed, budget_images=5000)
    assert result.images_spent == sampler.images - 2 * 400 - 40  # without the held-out report
    # The last gradient may begin just below the budget, and a confirmation follows.
    assert 5000 <= result.images_spent <= 5000 + one.images_spent + 500


def test_what_is_fixed_stays_fixed_in_what_is_found():
    fixed = ("guidance_scales", "mask_ratios")
    far, sampler = replace(START, sampling_temperatures=(5.0, 5.0), choice_temperatures=(9.0,)), StandIn()
    result = tuned(sampler, start=far, fixed=fixed)
    assert result.schedule != far
    for schedule in [result.schedule, *(one.schedule for one in result.history), *(call[0] for call in sampler.calls)]:
        assert all(getattr(schedule, family) == getattr(far, family) for family in fixed)


def test_one_step_has_no_ratio_to_search():
    optimum = GenerationSchedule((), (0.5,), (), (1.0,))

    def sampler(schedule, labels, seed):
        return np.random.default_rng(seed).normal(size=(len(labels), 2)) + 0.5 * gaps(schedule, optimum)

    result = tuned(sampler, reference=(np.zeros(2), np.eye(2)), start=maskgit_cosine(1), search=SMALL)
    assert np.abs(gaps(result.schedule, optimum)).sum() < np.abs(gaps(maskgit_cosine(1), optimum)).sum()


def test_watch_hears_of_every_evaluation():
    heard = []
    result = tuned(StandIn(), watch=heard.append)
    assert tuple(heard) == result.history
    assert [one.images_spent for one in heard] == sorted(one.images_spent for one in heard)


# Interruptions


@pytest.fixture(scope="module")
def in_one_go():
    sampler = StandIn()
    return tuned(sampler), sampler.calls


@pytest.mark.parametrize("done", [0, 1, 7, 40, 100])
def test_an_interrupted_search_goes_on_where_it_was(done, in_one_go, tmp_path):
    expected, calls = in_one_go
    where = {"db": str(tmp_path / "search.db"), "name": "stand-in 1"}
    first, second, third = StandIn(stop_after=done), StandIn(), StandIn()
    with pytest.raises(KeyboardInterrupt):
        tuned(first, **where)
    again = tuned(second, **where)
    assert first.calls == calls[:done]
    # Nothing is asked again but the calls of the one measurement that was under way.
    assert second.calls == calls[len(calls) - len(second.calls) :]
    assert len(first.calls) + len(second.calls) - len(calls) < 20  # the longest has 400 images in blocks of 20
    assert tuned(third, **where) == again
    assert not third.calls
    # The name is the only thing that differs from a search that remembers nothing.
    assert again.schedule == expected.schedule
    assert again.history == expected.history
    assert again.images_spent == expected.images_spent


@pytest.mark.parametrize("change", ["name", "reference", "num_classes", "seed", "fixed", "dither"])
def test_what_is_remembered_is_of_this_generator_alone(change, tmp_path):
    where = {"db": str(tmp_path / "search.db"), "name": "stand-in 1"}
    settings = {"search": SMALL.model_copy(update={"descent": None})}
    tuned(StandIn(), **where, **settings)
    other = {
        "name": {"name": "stand-in 2"},
        "reference": {"reference": Reference(torch.zeros(D), 1.01 * torch.eye(D))},
        "num_classes": {"num_classes": 5},
        "seed": {"seed": 1},
        "fixed": {"fixed": ("guidance_scales",)},
        "dither": {},
    }[change]
    sampler = StandIn()
    if change == "dither":

        def dithering(schedule, labels, seed, dither=None):
            return sampler(schedule, labels, seed)

        tuned(dithering, **where, **settings)
    else:
        tuned(sampler, **{**where, **settings, **other})
    assert len(sampler.calls) > 20


def test_specs_of_other_generators_keep_apart_from_ours():
    spec = specs(EvaluationSpec)
    names = {
        fingerprint(one)
        for one in (
            spec,
            replace(spec, training=OutsideGenerator("other", "features", 10, False)),
            replace(spec, features=OutsideMetric("stand-in", "0" * 64)),
        )
    }
    assert len(names) == 3


def test_results_come_back_from_the_store_as_they_were(tmp_path):
    from autonat.storage.store import Store

    wanted = [specs(kind) for kind in KINDS]
    store = Store.open(str(tmp_path / "search.db"))
    sampler = StandIn()
    computed = OutsideFulfiller(Sampled(sampler, REFERENCE, 10), store=store).fulfil(wanted)
    asked = len(sampler.calls)
    assert OutsideFulfiller(Sampled(sampler, REFERENCE, 10), store=store).fulfil(wanted) == computed
    assert len(sampler.calls) == asked
    assert [type(result) for result in computed] == [Evaluation, Differences, Changes]
    store.close()


# What the documentation shows


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), flags=re.DOTALL)


def documented_world():
    """What the documentation leaves to the reader. T = 8."""
    optimum = maskgit_cosine(8).with_values([0.9 * value + 0.05 for value in maskgit_cosine(8).values()])

    def my_generator(labels, schedule, seed):
        count = labels if isinstance(labels, int) else len(labels)
        return np.random.default_rng(seed).normal(size=(count, 30)) + 0.3 * gaps(schedule, optimum)

    return {
        "my_generator": my_generator,
        "my_features": lambda images: images[:, ::5],
        "my_metric": lambda images: float((images.mean(axis=0) ** 2).sum()),
        "real_features": np.random.default_rng(0).normal(size=(100, 6)),
        "start": maskgit_cosine(8),
        "labels": np.arange(10),
    }


@pytest.mark.parametrize("path", ["README.md", "docs/api.md"])
def test_the_documented_lines_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = StagedSearch(
        warm_start=WarmStart(trials=4, random_trials=2, images=200),
        descent=Descent(iterations=1, images=400),
        confirmation_images=400,
    )
    monkeypatch.setattr("autonat.api.DEFAULT_SEARCH", short)  # the default settings are for real generators
    blocks = python_blocks(path)
    assert any("tune(" in block for block in blocks)
    world = documented_world()
    for block in blocks:
        assert len(block.splitlines()) <= 12
        exec(compile(block, path, "exec"), world)
    assert world["tuned"].schedule.num_steps == 8


def test_the_example_improves(capsys):
    path = ROOT / "examples" / "third_party_sampler.py"
    spec = importlib.util.spec_from_file_location("third_party_sampler", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.main()
    gain, error = result.gain
    assert gain > 20 * error
    assert result.distance < 0.6 * result.baseline.value
    assert "tuned" in capsys.readouterr().out


def test_the_package_is_light_until_a_name_is_used():
    code = "import json, sys, autonat; dir(autonat); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "numpy", "pydantic", "optuna", "sqlalchemy"} & set(json.loads(done.stdout))


def test_every_exported_name_is_there():
    assert sorted(autonat._HOME) == sorted(autonat.__all__)
    for name in autonat.__all__:
        assert getattr(autonat, name).__name__ == name
        assert name in dir(autonat)
    with pytest.raises(AttributeError, match="no attribute 'tuning'"):
        autonat.tuning  # noqa: B018
