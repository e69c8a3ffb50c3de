"""Searches on a simulated landscape, where the truth is known."""

import itertools
from dataclasses import replace

import pytest
import scipy.stats
from studies_for_tests import tiny_recipe

from autonat.execution.simulated import SimulatedLandscape
from autonat.orchestrator import run_program
from autonat.search import schedule_search
from autonat.search.alternation import alternate, start_of
from autonat.search.confirm import DECISIVE, LOOKS, confirm, duel, race
from autonat.search.coordinates import RANGE, coordinates_of, schedule_at
from autonat.search.descent import _Width, measure_gradient
from autonat.search.family import BETA_CENTRE, CENTRE, schedule_of
from autonat.search.mask_ratio_search import search_mask_ratio
from autonat.search.program import Phase
from autonat.search.schedule_search import tune_schedule
from autonat.search.spaces import full_space
from autonat.search_config import (
    BetaSearch,
    BlackBoxSearch,
    Descent,
    OfficialSearch,
    SPSASearch,
    StagedSearch,
    WarmStart,
)
from autonat.specs import EvaluationSpec, PopulationSpec, ProbeSpec, TrainSpec, fingerprint
from models.mask_ratio import BetaMaskRatio, FixedMaskRatio
from models.schedule import (
    BOUNDS,
    GenerationSchedule,
    autonat_initial,
    components,
    maskgit_cosine,
    muse_initial,
    resampled,
)

PHASE = Phase("test", 0)
OPTIMUM = GenerationSchedule(
    mask_ratios=(0.8, 0.3),
    sampling_temperatures=(0.8, 0.9, 0.7),
    choice_temperatures=(2.0, 1.0),
    guidance_scales=(0.2, 0.9, 1.6),
)
WARM = WarmStart(trials=12, random_trials=6, batch=4, images=400, keep=3)
DESCENT = Descent(iterations=8, images=400)
BOTH = StagedSearch(warm_start=WARM, descent=DESCENT, confirmation_images=2000)


def laboratory(seed=0, **changes):
    lab, pair = start_of(tiny_recipe(seed=seed))
    lab.block_size = 20
    return replace(lab, **changes), pair


def tuned(settings, landscape, seed, start=None):
    lab, pair = laboratory(seed)
    pair = pair if start is None else replace(pair, schedule=start)
    verdict = run_program(tune_schedule(lab, PHASE, pair, settings), landscape)
    assert lab.spent_images == landscape.asked
    return pair, verdict


def truth(landscape, pair):
    return landscape.true_distance(pair.schedule, pair.mask_ratio)


# Schedules


@pytest.mark.parametrize("seed", range(5))
def test_a_staged_search_ends_lower_than_it_began(seed):
    landscape = SimulatedLandscape(OPTIMUM)
    start, verdict = tuned(BOTH, landscape, seed)
    assert truth(landscape, verdict.pair) < truth(landscape, start) - 0.1
    assert verdict.pair.training == start.training


@pytest.mark.parametrize(("name", "share"), [("warm_start", 0.9), ("descent", 0.9)])
@pytest.mark.parametrize("seed", range(3))
def test_one_stage_alone_gains(name, share, seed):
    landscape = SimulatedLandscape(OPTIMUM)
    settings = BOTH.model_copy(update={{"warm_start": "descent", "descent": "warm_start"}[name]: None})
    start, verdict = tuned(settings, landscape, seed)
    before, after = truth(landscape, start) - landscape.floor, truth(landscape, verdict.pair) - landscape.floor
    # The descent measures gradients, the warm start none.
    assert any(isinstance(spec, ProbeSpec | PopulationSpec) for spec in landscape.fulfilled) == (name == "descent")
    assert after - 1.0 < share * (before - 1.0)  # 1.0: what the untuned mask ratio costs


def test_without_noise_a_descent_arrives():
    landscape = SimulatedLandscape(OPTIMUM, noise=0.0)
    settings = StagedSearch(warm_start=None, descent=Descent(iterations=60, images=40), confirmation_images=40)
    start, verdict = tuned(settings, landscape, 0)
    rest = truth(landscape, verdict.pair) - landscape.floor - 1.0
    assert rest < 0.02 * (truth(landscape, start) - landscape.floor - 1.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_kept_whatever_the_search_saw(seed):
    """With noise this high the search meets values below the optimum's own; on fresh seeds they do not last."""
    landscape = SimulatedLandscape(OPTIMUM, noise=40.0, private=1.0)
    settings = BOTH.model_copy(
        update={"confirmation_images": 20_000, "warm_start": WARM.model_copy(update={"keep": 1})}
    )
    start, verdict = tuned(settings, landscape, seed, OPTIMUM)
    assert truth(landscape, verdict.pair) <= truth(landscape, start) + 0.2


def test_a_lucky_winner_is_caught_on_fresh_seeds():
    """One of the warm starts above its own noise: the winner of the search loses the confirmation."""
    lucky = 0
    for seed in range(6):
        landscape = SimulatedLandscape(OPTIMUM, noise=40.0, private=1.0)
        lab, pair = laboratory(seed)
        pair = replace(pair, schedule=OPTIMUM)
        seen = []

        class Witness:
            def asked(self, ask):
                pass

            def decided(self, decision):
                pass

            def answered(self, ask, results, seen=seen):
                if ask.phase.purpose == "warm start":
                    seen += [result.value for result in results]

        settings = StagedSearch(
            warm_start=WarmStart(trials=12, random_trials=6, batch=4, images=40, keep=1),
            descent=None,
            confirmation_images=20_000,
        )
        verdict = run_program(tune_schedule(lab, PHASE, pair, settings), landscape, Witness())
        assert len(seen) == 12
        if min(seen) < truth(landscape, pair):
            lucky += 1
            assert verdict.pair == pair
    assert lucky >= 3


@pytest.mark.parametrize("seed", range(20))
def test_confirm_never_keeps_what_is_much_worse(seed):
    landscape = SimulatedLandscape(OPTIMUM)
    lab, pair = laboratory(seed)
    good = replace(pair, schedule=OPTIMUM)
    bad = [replace(pair, schedule=autonat_initial(3, "enat")), replace(pair, schedule=maskgit_cosine(3))]
    program = confirm(lab, PHASE, good, bad, num_images=400, address=(seed,))
    assert run_program(program, landscape).pair == good
    verdict = run_program(confirm(lab, PHASE, bad[0], [bad[1], good], num_images=400, address=(seed,)), landscape)
    assert verdict.pair == good
    assert verdict.gain > 0


def test_confirm_measures_each_pair_once_and_a_tie_keeps_the_incumbent():
    landscape = SimulatedLandscape(OPTIMUM, noise=0.0)
    lab, pair = laboratory()
    other = replace(pair, schedule=OPTIMUM)
    verdict = run_program(confirm(lab, PHASE, other, [other, pair, pair], num_images=40, address=(1,)), landscape)
    assert len(landscape.fulfilled) == 2
    assert verdict.pair == other
    assert (verdict.gain, verdict.gain_standard_error) == (0.0, 0.0)


def test_a_race_ends_with_the_best_and_doubles_its_images():
    landscape = SimulatedLandscape(OPTIMUM, noise=0.5)
    lab, pair = laboratory()
    good = replace(pair, schedule=OPTIMUM)
    others = [replace(pair, schedule=autonat_initial(3, rule)) for rule in ("enat", "autonat")]
    others += [replace(pair, schedule=maskgit_cosine(3, rule)) for rule in ("enat", "autonat")]
    assert run_program(race(lab, PHASE, [*others, good], 40, ("race",)), landscape) == good
    assert [spec.num_images for spec in landscape.fulfilled] == [40] * 5 + [80] * 3 + [160] * 2
    assert len({spec.seed for spec in landscape.fulfilled}) == 3


@pytest.mark.parametrize(("noise", "least"), [(0.0, 1), (200.0, LOOKS)])
def test_a_duel_looks_again_while_it_is_undecided(noise, least):
    looked = []
    for number in range(10):
        landscape = SimulatedLandscape(OPTIMUM, noise=noise, private=1.0)
        lab, pair = laboratory()
        program = duel(lab, PHASE, pair, replace(pair, schedule=OPTIMUM), 40, ("duel", number))
        change, error, _, _ = run_program(program, landscape)
        looked.append(len({spec.seed for spec in landscape.fulfilled}))
        if looked[-1] < LOOKS:
            assert abs(change) > DECISIVE * error
    # Noise alone is decisive now and then.
    assert sorted(looked)[len(looked) // 2] == max(looked) == least


@pytest.mark.parametrize("estimator", ["population", "probes"])
def test_a_gradient_takes_images_until_its_direction_is_known(estimator):
    def portions(noise, **changes):
        landscape = SimulatedLandscape(OPTIMUM, noise=noise)
        lab, pair = laboratory()
        settings = Descent(estimator=estimator, images=40, **changes)
        gradient, _ = run_program(measure_gradient(lab, PHASE, pair, settings, ("gradient",)), landscape)
        assert len({spec.seed for spec in landscape.fulfilled}) == len(landscape.fulfilled)
        return len(landscape.fulfilled), gradient

    few, known = portions(0.1, max_images=400)
    assert (few, known.direction_cosine() > 0.7) == (1, True)
    many, unknown = portions(100.0, max_images=400)
    assert (many, unknown.direction_cosine() < 0.7) == (10, True)
    assert portions(100.0)[0] == 1  # no more unless the recipe allows it
    # Ten portions have a tenth of the variance of one.
    assert unknown.standard_errors[0] < 0.6 * portions(100.0)[1].standard_errors[0]


@pytest.mark.parametrize("estimator", ["population", "probes"])
def test_both_estimators_agree_where_there_is_no_noise(estimator):
    landscape = SimulatedLandscape(OPTIMUM, noise=0.0)
    lab, pair = laboratory()
    gradient, _ = run_program(
        measure_gradient(lab, PHASE, pair, Descent(estimator=estimator, images=40), ("gradient",)), landscape
    )
    # The bowl is (x - x*)^2 / n in the coordinates, of which a unit of the family's scale is one step.
    expected = []
    names = components(3)
    here, there = coordinates_of(pair.schedule), coordinates_of(OPTIMUM)
    for (family, _), at, optimum in zip(names, here, there, strict=True):
        expected.append(2 * (at - optimum) / len(names) * Descent().scales[family])
    inside = [index for index, (family, _) in enumerate(names) if family != "choice_temperatures"]
    assert [gradient.values[index] for index in inside] == pytest.approx(
        [expected[index] for index in inside], rel=1e-6
    )


def test_forward_differences_take_half_the_probes():
    """Of a bowl they are off by its curvature times the difference, and at a range's upper end they look back."""
    landscape = SimulatedLandscape(OPTIMUM, noise=0.0)
    lab, pair = laboratory()
    pair = replace(pair, schedule=replace(pair.schedule, guidance_scales=(0.0, RANGE["guidance_scales"][1], 1.0)))
    settings = Descent(estimator="probes", images=40)
    central, forward = (
        run_program(
            measure_gradient(lab, PHASE, pair, settings.model_copy(update={"sides": sides}), (sides,)), landscape
        )[0]
        for sides in ("central", "forward")
    )
    probes = [len(spec.probes) for spec in landscape.fulfilled]
    assert probes == [2 * len(components(3)), len(components(3))]
    edge = components(3).index(("guidance_scales", 1))
    for index, (family, _) in enumerate(components(3)):
        if index != edge and family != "choice_temperatures":
            curvature = settings.difference * settings.scales[family] ** 2 / len(components(3))
            assert forward.values[index] - central.values[index] == pytest.approx(curvature, rel=1e-6)
    assert forward.values[edge] > 0  # downhill is downwards, towards the optimum


def test_a_walk_that_is_confirmed_worse_goes_back():
    """A rate far too bold: without checks the walk ends far out, with them it returns."""

    def end(check_every):
        landscape = SimulatedLandscape(OPTIMUM, noise=0.1)
        settings = StagedSearch(
            warm_start=None,
            descent=Descent(iterations=8, images=400, learning_rate=30.0, check_every=check_every),
            confirmation_images=400,
        )
        start = replace(OPTIMUM, mask_ratios=(0.75, 0.35))
        lab, pair = laboratory()
        pair = replace(pair, schedule=start)
        visited = []

        class Witness:
            asked = answered = lambda *_: None

            def decided(self, decision):
                if "iteration" in decision.facts:
                    visited.append(truth(landscape, replace(pair, schedule=decision.facts["schedule"])))

        run_program(tune_schedule(lab, PHASE, pair, settings), landscape, Witness())
        return visited

    assert min(end(2)[-2:]) < min(end(0)[-2:])


@pytest.mark.parametrize(("max_images", "first_limit"), [(None, 400), (1000, 1000)])
def test_a_descent_after_a_fruitless_one_has_half_the_rate_and_twice_the_images(monkeypatch, max_images, first_limit):
    """From the optimum no descent gains; after so many without a gain there is no further one."""
    seen, original = [], schedule_search.descend

    def descend(lab, phase, start, settings, address):
        seen.append((settings.learning_rate, settings.max_images))
        return original(lab, phase, start, settings, address)

    monkeypatch.setattr(schedule_search, "descend", descend)
    descent = Descent(iterations=2, images=400, learning_rate=0.2, max_images=max_images)
    settings = StagedSearch(warm_start=None, descents=9, descent=descent, confirmation_images=2000)
    tuned(settings, SimulatedLandscape(OPTIMUM, noise=0.1), 0, OPTIMUM)
    assert seen == [(0.2, max_images), (0.1, 2 * first_limit)]
    assert len(seen) == schedule_search.FRUITLESS
    assert schedule_search.gentler(descent, 0) == descent
    gentlest = schedule_search.gentler(descent, 2)
    assert (gentlest.learning_rate, gentlest.max_images) == (0.05, 4 * first_limit)


FAR = GenerationSchedule((0.1, 0.1), (2.5, 2.5, 2.5), (5.0, 5.0), (-0.3, -0.3, -0.3))


@pytest.mark.parametrize("method", ["tpe", "cmaes", "gp", "random"])
@pytest.mark.parametrize("space", ["values", "family"])
def test_every_black_box_method_gains_and_spends_what_it_says(method, space):
    landscape = SimulatedLandscape(OPTIMUM, noise=0.5)
    settings = BlackBoxSearch(method=method, space=space, trials=24, random_trials=8, images=40, confirmation_images=40)
    start, verdict = tuned(settings, landscape, 0, FAR)
    assert truth(landscape, verdict.pair) < truth(landscape, start) - 1
    trials = [spec for spec in landscape.fulfilled if spec.seed == landscape.fulfilled[0].seed]
    assert len(trials) == 24
    again = SimulatedLandscape(OPTIMUM, noise=0.5)
    assert tuned(settings, again, 0, FAR)[1] == verdict
    assert again.fulfilled == landscape.fulfilled


def test_mask_ratios_along_a_beta_distribution():
    """The other shape of the smooth family: 1 - F(s), at the ends of a search as anywhere."""
    landscape = SimulatedLandscape(OPTIMUM)
    settings = BOTH.model_copy(update={"warm_start": WARM.model_copy(update={"ratio_shape": "beta_cdf"})})
    start, verdict = tuned(settings, landscape, 0)
    assert truth(landscape, verdict.pair) < truth(landscape, start) - 0.1
    ratios = schedule_of({**BETA_CENTRE, **CENTRE}, 4, "enat", "beta_cdf").mask_ratios
    expected = [1 - scipy.stats.beta.cdf(step / 4, BETA_CENTRE["ratio_alpha"], BETA_CENTRE["ratio_beta"])
                for step in (1, 2, 3)]  # fmt: skip
    assert ratios == pytest.approx(expected)


def test_differences_grow_while_a_direction_is_lost_in_noise():
    """Twice as wide at a time up to `widest`, never further where the images get clearly worse, and back once clear."""
    width = _Width.of(Descent(difference=0.3, widest=4.0))
    for expected in (0.6, 1.2, 1.2):
        assert not width.is_too_wide(1.0)
        width.refocus(is_known=False)
        assert width.current == pytest.approx(expected)
    assert width.is_too_wide(1.3)
    assert width.current == width.widest == pytest.approx(0.6)
    width.refocus(is_known=False)
    assert width.current == pytest.approx(0.6)
    for _ in range(3):
        width.refocus(is_known=True)
    assert width.current == pytest.approx(0.3)
    assert not width.is_too_wide(9.0)  # what is asked for is never left out


def test_spsa_gains_with_two_evaluations_a_step():
    landscape = SimulatedLandscape(OPTIMUM, noise=0.5)
    start, verdict = tuned(SPSASearch(iterations=60, images=40, confirmation_images=400), landscape, 0)
    assert truth(landscape, verdict.pair) < truth(landscape, start) - 0.05
    steps = [spec for spec in landscape.fulfilled if spec.num_images == 40]
    assert len(steps) == 120
    assert len({spec.seed for spec in steps}) == 60


def test_a_front_tunes_every_number_of_steps_from_its_neighbour():
    landscape_by_steps = {steps: autonat_initial(steps, "enat") for steps in (1, 2, 3, 4)}

    class Several(SimulatedLandscape):
        def true_distance(self, schedule, mask_ratio):
            self.optimum = landscape_by_steps[schedule.num_steps]
            return super().true_distance(schedule, mask_ratio) + 1 / schedule.num_steps

    landscape = Several(landscape_by_steps[2], noise=0.1)
    summary = run_program(alternate(whole(front=[4, 1, 3], phases=["schedule"])), landscape)
    assert [point["num_steps"] for point in summary["front"]] == [1, 2, 3, 4]
    values = [point["value"] for point in summary["front"]]
    assert values == sorted(values, reverse=True)
    assert summary["front"][1]["schedule"] == summary["schedule"]
    asked = [spec.schedule.num_steps for spec in landscape.fulfilled if hasattr(spec, "schedule")]
    assert asked.index(3) < asked.index(4)
    spent = {point["num_steps"]: point["images_spent"] for point in summary["front"]}
    images = {entry["phase"]: entry["images"] for entry in summary["phases"]}
    assert spent[2] == images["schedule"]
    assert spent[1] == spent[2] + images["front T=1"]
    assert spent[4] == spent[3] + images["front T=4"] == spent[2] + images["front T=3"] + images["front T=4"]


def test_a_plan_with_a_front_has_one_landscape_for_all_numbers_of_steps():
    landscape = SimulatedLandscape(OPTIMUM, noise=0.1)
    summary = run_program(alternate(whole(front=[1, 4], phases=["schedule"])), landscape)
    assert [point["num_steps"] for point in summary["front"]] == [1, 2, 4]
    best = landscape.true_distance(resampled(OPTIMUM, 5), BetaMaskRatio(12, 3))
    assert best == pytest.approx(landscape.true_distance(OPTIMUM, BetaMaskRatio(12, 3)))
    assert landscape.true_distance(autonat_initial(5, "enat"), BetaMaskRatio(12, 3)) > best


EDGES = GenerationSchedule((1.0, 0.0), (0.05, 10.0, 100.0), (0.0, 50.0), (-1.0, 20.0, 100.0))
OPPOSITE_EDGES = GenerationSchedule((0.0, 1.0), (100.0, 0.05, 0.0), (50.0, 0.0), (100.0, -1.0, -1.0))


@pytest.mark.parametrize("optimum", [EDGES, OPPOSITE_EDGES])
@pytest.mark.parametrize("learning_rate", [0.15, 50.0])
def test_a_descent_stays_in_range(optimum, learning_rate):
    landscape = SimulatedLandscape(optimum, noise=0.5)
    settings = StagedSearch(
        warm_start=None, descent=Descent(iterations=12, images=40, learning_rate=learning_rate), confirmation_images=40
    )
    tuned(settings, landscape, 0)
    places = []
    for spec in landscape.fulfilled:
        names = components(spec.schedule.num_steps)
        places += [(family, value) for (family, _), value in zip(names, spec.schedule.values(), strict=True)]
        if isinstance(spec, ProbeSpec):
            places += [(probe.family, probe.value) for probe in spec.probes]
        if isinstance(spec, PopulationSpec):
            places += [
                (family, end) for ends in (spec.lows, spec.highs) for (family, _), end in zip(names, ends, strict=True)
            ]
    assert len(places) > 300
    assert all(RANGE[family][0] <= value <= RANGE[family][1] for family, value in places)
    if learning_rate > 1:
        assert {value for _, value in places} & {0.995, 0.005, 10.0, 20.0, -0.9}


@pytest.mark.parametrize("num_steps", [1, 2, 8])
def test_any_number_of_steps(num_steps):
    landscape = SimulatedLandscape(autonat_initial(num_steps, "enat"))
    _, verdict = tuned(BOTH, landscape, 0, maskgit_cosine(num_steps))
    assert verdict.pair.schedule.num_steps == num_steps


# Published search


@pytest.mark.parametrize("iterations", [1, 4])
def test_official_search_spends_what_it_says(iterations):
    landscape = SimulatedLandscape(OPTIMUM)
    settings = OfficialSearch(iterations=iterations, images=60)
    start, verdict = tuned(settings, landscape, 0)
    recorded = 1 + (verdict.pair != start)
    per_iteration = 4 * start.schedule.num_steps - 2 + 1
    evaluations = [spec for spec in landscape.fulfilled if isinstance(spec, EvaluationSpec)]
    assert len(evaluations) == len(landscape.fulfilled) == iterations * per_iteration + recorded
    assert landscape.asked == 60 * len(evaluations)
    assert all(spec.labels == "random" for spec in evaluations[:-recorded])
    assert len({spec.seed for spec in evaluations}) == len(evaluations) - (recorded - 1)
    for spec in evaluations:
        names = components(spec.schedule.num_steps)
        assert all(
            BOUNDS[family][0] <= value <= BOUNDS[family][1]
            for (family, _), value in zip(names, spec.schedule.values(), strict=True)
        )


def test_official_search_descends_where_there_is_no_noise():
    landscape = SimulatedLandscape(OPTIMUM, noise=0.0)
    start, verdict = tuned(OfficialSearch(iterations=20, images=40), landscape, 0)
    assert truth(landscape, verdict.pair) < truth(landscape, start) - 0.05


def test_official_search_ends_with_the_budget():
    landscape = SimulatedLandscape(OPTIMUM)
    lab, pair = laboratory(budget_images=1500)
    run_program(tune_schedule(lab, PHASE, pair, OfficialSearch(iterations=20, images=60)), landscape)
    assert 3 * 11 * 60 + 60 <= landscape.asked <= 3 * 11 * 60 + 120


# Mask ratios


@pytest.mark.parametrize(("alpha", "beta"), [(12.0, 3.0), (1.5, 3.0), (6.0, 0.75), (24.0, 12.0), (10.0, 2.0)])
@pytest.mark.parametrize("start", [None, BetaMaskRatio(6.0, 3.0)])
def test_beta_search_finds_the_neighbourhood_of_the_optimum(alpha, beta, start):
    landscape = SimulatedLandscape(OPTIMUM, alpha=alpha, beta=beta, noise=0.1)
    lab, pair = laboratory()
    pair = pair if start is None else replace(pair, training=replace(pair.training, mask_ratio=start))
    found = run_program(search_mask_ratio(lab, PHASE, pair, BetaSearch(max_trainings=30, images=400)), landscape).pair
    assert found.schedule == pair.schedule
    assert isinstance(found.mask_ratio, BetaMaskRatio)
    # On a grid of factors of two the nearest point is within a factor of the square root of two.
    assert 0.7 < found.mask_ratio.alpha / alpha < 1.42
    assert 0.7 < found.mask_ratio.beta / beta < 1.42


@pytest.mark.parametrize("most", range(1, 9))
@pytest.mark.parametrize("start", [None, BetaMaskRatio(6.0, 3.0), FixedMaskRatio(0.5)])
def test_beta_search_never_trains_more_than_allowed(most, start):
    landscape = SimulatedLandscape(OPTIMUM, alpha=100.0, beta=0.1)
    lab, pair = laboratory()
    pair = pair if start is None else replace(pair, training=replace(pair.training, mask_ratio=start))
    run_program(search_mask_ratio(lab, PHASE, pair, BetaSearch(max_trainings=most, images=40)), landscape)
    trainings = [spec for spec in landscape.fulfilled if isinstance(spec, TrainSpec)]
    assert len(trainings) == len(set(trainings))
    # A Beta at the start counts as measured.
    assert most - isinstance(pair.mask_ratio, BetaMaskRatio) <= len(trainings) <= most
    # Nothing is measured before it is trained.
    trained = {pair.training}
    for spec in landscape.fulfilled:
        if isinstance(spec, TrainSpec):
            trained.add(spec)
        else:
            assert spec.training in trained


def test_beta_search_keeps_an_incumbent_that_nothing_beats():
    landscape = SimulatedLandscape(OPTIMUM, alpha=6.0, beta=3.0)
    lab, pair = laboratory()
    pair = replace(pair, training=replace(pair.training, mask_ratio=BetaMaskRatio(6.0, 3.0)))
    settings = BetaSearch(max_trainings=8, images=2000)
    assert run_program(search_mask_ratio(lab, PHASE, pair, settings), landscape).pair == pair


def test_close_calls_are_trained_again_with_another_seed():
    """A flat landscape: points differ by noise alone, so the best of a line is often within an error of its centre."""

    class Flat(SimulatedLandscape):
        def true_distance(self, schedule, mask_ratio):
            return 1.0

    def trainings(repeats, seed):
        landscape = Flat(OPTIMUM, noise=1.0)
        lab, pair = laboratory(seed)
        pair = replace(pair, training=replace(pair.training, mask_ratio=BetaMaskRatio(6.0, 3.0)))
        settings = BetaSearch(max_trainings=12, images=400, repeats=repeats)
        run_program(search_mask_ratio(lab, PHASE, pair, settings), landscape)
        specs = [spec for spec in landscape.fulfilled if isinstance(spec, TrainSpec)]
        assert len(specs) == len(set(specs)) <= 12
        return specs

    repeated = 0
    for seed in range(30):
        (own,) = {spec.seed for spec in trainings(0, seed)}
        others = [spec for spec in trainings(2, seed) if spec.seed != own]
        if others:
            repeated += 1
            assert len(others) >= 2  # the best and the centre, both
            assert len({spec.mask_ratio for spec in others}) >= 2
    assert repeated >= 3


class Lucky(SimulatedLandscape):
    """Flat but for the luck of trainings: `luck` by mask ratio, of the first training and of all later ones."""

    def __init__(self, first_seed, luck):
        super().__init__(OPTIMUM, noise=5.0)
        self.first_seed, self.luck = first_seed, luck

    def true_distance(self, schedule, mask_ratio):
        return 1.0

    def _noisy(self, value, spec, private_address):
        first, later = self.luck.get((spec.training.mask_ratio.alpha, spec.training.mask_ratio.beta), (1.5, 1.5))
        value = first if spec.training.seed == self.first_seed else later
        return super()._noisy(value, spec, private_address)


@pytest.mark.parametrize(("later", "adopted"), [(0.2, True), (1.05, False)])
def test_repeated_trainings_decide_by_their_mean(later, adopted):
    """A first training that is no better than the incumbent's within its error, and what its repeats say."""
    lab, pair = laboratory()
    pair = replace(pair, training=replace(pair.training, mask_ratio=BetaMaskRatio(6.0, 3.0)))
    landscape = Lucky(pair.training.seed, {(6.0, 3.0): (1.0, 1.0), (12.0, 3.0): (0.975, later)})
    seen = []

    class Witness:
        asked = answered = lambda *_: None

        def decided(self, decision):
            seen.extend(decision.facts["candidates"])

    settings = BetaSearch(max_trainings=10, images=2000, repeats=3)
    verdict = run_program(search_mask_ratio(lab, PHASE, pair, settings), landscape, Witness())
    (point,) = [one for one in seen if one["mask_ratio"] == BetaMaskRatio(12.0, 3.0)]
    assert point["trainings"] >= 2
    assert point["standard_error"] > 0.01  # holds the trainings' own spread
    assert (verdict.pair != pair) == adopted
    if adopted:
        assert verdict.pair.mask_ratio == BetaMaskRatio(12.0, 3.0)
        assert verdict.pair.training.seed != pair.training.seed  # the network that measured best
        assert verdict.gain == pytest.approx(1.0 - point["distance"], abs=0.1)


# The whole study


def whole(seed=0, **changes):
    settings = {
        "schedule__num_steps": 2,
        "search__warm_start": {"trials": 4, "random_trials": 2, "batch": 2, "images": 400, "keep": 2},
        "search__descent": {"iterations": 2, "images": 400},
        "search__confirmation_images": 2000,
        "beta__images": 2000,
        "beta__max_trainings": 6,
        "beta__retune": None,
        "held_out_images": 2000,
        "rounds": 3,
    }
    return tiny_recipe(seed=seed, **{**settings, **changes})


SMALL_OPTIMUM = GenerationSchedule((0.6,), (0.8, 0.7), (2.0,), (0.2, 1.6))


def reported(recipe, summary):
    """Images of the held-out report and of the gap."""
    gap = summary["search_time"]
    return 3 * recipe.held_out_images + (gap["num_images"] if gap else 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_study_finds_a_better_pair_and_counts_what_it_spent(seed):
    landscape = SimulatedLandscape(SMALL_OPTIMUM)
    recipe = whole(seed)
    summary = run_program(alternate(recipe), landscape)
    assert summary["tuned"]["value"] < summary["tuned_schedule"]["value"] < summary["baseline"]["value"]
    assert summary["mask_ratio"]["kind"] == "beta"
    *held_out, fresh = landscape.fulfilled[-4:]  # three pairs, and the best once more for the gap
    assert len({spec.seed for spec in held_out}) == 1
    assert not {spec.seed for spec in landscape.fulfilled[:-4]} & {held_out[0].seed, fresh.seed}
    assert summary["images_spent"] + reported(recipe, summary) == landscape.asked
    assert summary["baseline_schedule"] == {
        name: getattr(recipe.schedule.build(), name) for name in recipe.schedule.build().__slots__
    }


def test_alternation_stops_where_a_round_brings_nothing():
    """The landscape's best network is the baseline's own: nothing beats it, so one round is enough."""

    class Contented(SimulatedLandscape):
        def true_distance(self, schedule, mask_ratio):
            return super().true_distance(schedule, BetaMaskRatio(self.alpha, self.beta)) + (mask_ratio.kind == "beta")

    landscape = Contented(SMALL_OPTIMUM, noise=0.1)
    summary = run_program(alternate(whole(rounds=9)), landscape)
    assert summary["rounds"] == 1
    assert summary["mask_ratio"] == {"kind": "arccos"}
    assert summary["tuned"] == summary["tuned_schedule"]


def test_alternation_stops_after_its_rounds_and_without_a_mask_ratio_search():
    assert run_program(alternate(whole(rounds=1)), SimulatedLandscape(SMALL_OPTIMUM))["rounds"] == 1
    summary = run_program(alternate(whole(phases=["schedule"])), SimulatedLandscape(SMALL_OPTIMUM))
    assert summary["rounds"] == 0
    assert summary["tuned"] == summary["tuned_schedule"]


BUDGETS = [1, 1_000, 4_000, 10_000, 14_000, 20_000, 24_000, 26_000, 30_000, 40_000, 50_000]


# What was asked for in one piece when the budget ended, and the confirmations that follow.
BEYOND_A_BUDGET = 12_000


def spent_with(budget, **changes):
    """Images that a study with a budget spent, which are those that the landscape was asked for."""
    recipe, landscape = whole(budget_images=budget, **changes), SimulatedLandscape(SMALL_OPTIMUM)
    summary = run_program(alternate(recipe), landscape)
    assert summary["images_spent"] == landscape.asked - reported(recipe, summary)
    assert summary["tuned"]["value"] > 0
    return summary["images_spent"]


def test_alternation_stops_with_its_budget():
    """Whatever the budget ends in, the study ends, with all of the budget spent or nothing left to do, and little
    more than the budget."""
    unlimited = spent_with(None, rounds=9)
    spent = [spent_with(budget, rounds=9) for budget in BUDGETS]
    for value, budget in zip(spent, BUDGETS, strict=True):
        assert min(budget, unlimited) <= value <= budget + BEYOND_A_BUDGET
    assert spent == sorted(spent)
    assert BUDGETS[0] + BEYOND_A_BUDGET < unlimited <= BUDGETS[-1]
    assert spent[-1] == unlimited


def test_no_stage_begins_without_a_budget():
    lab, pair = laboratory(budget_images=12 * 400)
    landscape = SimulatedLandscape(OPTIMUM)
    run_program(tune_schedule(lab, PHASE, pair, BOTH), landscape)
    assert not [spec for spec in landscape.fulfilled if isinstance(spec, PopulationSpec)]
    # Twelve trials, and one race and one duel among their best.
    assert lab.spent_images <= 12 * 400 + 3 * 500 + 2 * 1000 + 6 * 2000


def test_a_front_without_a_budget_is_not_said_to_be_tuned():
    recipe = tiny_recipe(phases=["schedule"], front=[1, 2, 4], budget_images=40)
    summary = run_program(alternate(recipe), SimulatedLandscape(OPTIMUM))
    assert [point["num_steps"] for point in summary["front"]] == [3]
    assert summary["front_left_out"] == [1, 2, 4]
    tuned_too = run_program(alternate(tiny_recipe(phases=["schedule"], front=[2])), SimulatedLandscape(OPTIMUM))
    assert tuned_too["front_left_out"] == []


def test_a_black_box_can_go_back_to_its_start():
    """MUSE's published start lies outside the box, and its last sampling temperature outside any descent's range."""
    start = muse_initial(3)
    space = full_space(start)
    assert space.schedule(space.start) == start
    for name, (low, high) in space.parameters.items():
        assert low <= space.start[name] <= high
    coordinates = coordinates_of(start)
    assert schedule_at(coordinates, start).values() == pytest.approx(start.values())
    assert schedule_at(coordinates, start).sampling_temperatures[-1] == 0.0
    assert schedule_at([value + 0.5 for value in coordinates], start).sampling_temperatures[-1] > 0.05
    assert schedule_at([value - 0.5 for value in coordinates], start).sampling_temperatures[-1] == 0.0


def test_the_published_search_says_what_it_gained():
    landscape = SimulatedLandscape(OPTIMUM)
    start, verdict = tuned(OfficialSearch(iterations=6, images=400), landscape, 1)
    base, found = landscape.fulfilled[-2:]
    assert (base.schedule, found.schedule, base.seed) == (start.schedule, verdict.pair.schedule, found.seed)
    assert verdict.gain_standard_error > 0
    expected = truth(landscape, start) - truth(landscape, verdict.pair)
    assert abs(verdict.gain - expected) < 4 * verdict.gain_standard_error


def test_the_budget_may_end_with_any_request():
    """A budget that ends with each of the requests in turn is spent, with little beyond it."""
    landscape = SimulatedLandscape(SMALL_OPTIMUM)
    run_program(alternate(whole(rounds=1)), landscape)
    ends = sorted(set(itertools.accumulate(spec.images for spec in landscape.fulfilled[:-4])) - {0})
    assert len(ends) > 20
    assert ends[0] + BEYOND_A_BUDGET < ends[-1]
    for budget in ends:
        assert budget <= spent_with(budget, rounds=1) <= budget + BEYOND_A_BUDGET


def test_an_official_study():
    recipe = whole(search={"method": "official", "iterations": 2, "images": 60}, phases=["schedule"])
    landscape = SimulatedLandscape(SMALL_OPTIMUM)
    summary = run_program(alternate(recipe), landscape)
    assert summary["images_spent"] == (2 * 7 + 2) * 60
    assert landscape.asked == summary["images_spent"] + reported(recipe, summary)


# Running a program again


class Recorder:
    """Answers from a memo; stops after so many answered requests."""

    def __init__(self, memo, limit=None):
        self.memo, self.limit = memo, limit
        self.landscape = SimulatedLandscape(SMALL_OPTIMUM)
        self.asked, self.computed = [], []

    def fulfil(self, requests):
        if self.limit is not None and len(self.asked) >= self.limit:
            raise KeyboardInterrupt
        names = [fingerprint(spec) for spec in requests]
        self.asked.append(names)
        for name, spec in zip(names, requests, strict=True):
            if name not in self.memo:
                self.computed.append(name)
                (self.memo[name],) = self.landscape.fulfil([spec])
        return [self.memo[name] for name in names]


def journal_of(fulfiller, recipe):
    entries = []
    try:
        summary = run_program(alternate(recipe), fulfiller, journal=entries.extend)
    except KeyboardInterrupt:
        summary = None
    return summary, entries


REPLAYED = {
    "rounds": 1,
    "beta__max_trainings": 3,
    "beta__retune": {"trials": 4, "random_trials": 2, "batch": 2, "images": 400, "keep": 1},
}


@pytest.fixture(scope="module")
def in_one_go():
    recorder = Recorder({})
    return recorder, *journal_of(recorder, whole(**REPLAYED))


def test_a_program_asks_the_same_again(in_one_go):
    recorder, summary, entries = in_one_go
    again = Recorder({})
    assert journal_of(again, whole(**REPLAYED)) == (summary, entries)
    assert again.asked == recorder.asked
    other = Recorder({})
    journal_of(other, whole(seed=1, **REPLAYED))
    assert not {name for names in other.asked for name in names} & {name for names in again.asked for name in names}


def test_a_crash_after_any_request_is_made_good(in_one_go):
    recorder, summary, entries = in_one_go
    assert len(recorder.asked) > 10
    for answered in range(len(recorder.asked)):
        memo = {}
        first = Recorder(memo, limit=answered)
        cut, cut_entries = journal_of(first, whole(**REPLAYED))
        assert cut is None
        assert first.asked == recorder.asked[:answered]
        assert cut_entries == entries[: len(cut_entries)]
        second = Recorder(memo)
        assert journal_of(second, whole(**REPLAYED)) == (summary, entries)
        assert first.computed + second.computed == recorder.computed


def test_the_answers_and_nothing_else_decide():
    """Another answer to one request leads elsewhere: replays above agree because the answers do."""
    memo = {}
    first = Recorder(memo)
    journal_of(first, whole(**REPLAYED))
    warm_start = [name for names in first.asked[1:3] for name in names]
    worst = max(warm_start, key=lambda name: memo[name].value)
    memo[worst] = replace(memo[worst], value=memo[worst].value - 5)
    second = Recorder(memo)
    journal_of(second, whole(**REPLAYED))
    assert second.asked[:3] == first.asked[:3]
    assert second.asked != first.asked
    assert second.computed
