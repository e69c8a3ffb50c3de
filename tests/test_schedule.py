import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import RULES, schedules

from models.schedule import (
    BOUNDS,
    FAMILIES,
    PRESETS,
    GenerationSchedule,
    autonat_initial,
    components,
    enat_linear,
    family_length,
    maskgit_cosine,
    resampled,
)


def with_family(schedule, family, values):
    families = {name: getattr(schedule, name) for name in FAMILIES}
    return GenerationSchedule(**{**families, family: tuple(values)}, rule=schedule.rule)


@given(schedules())
def test_values_round_trip(schedule):
    values = schedule.values()
    assert len(values) == 4 * schedule.num_steps - 2
    assert schedule.with_values(values) == schedule
    assert hash(schedule.with_values(values)) == hash(schedule)


@given(schedules(), st.data())
def test_with_values_puts_each_value_where_components_says(schedule, data):
    values = schedule.values()
    position = data.draw(st.integers(0, len(values) - 1))
    family, step = components(schedule.num_steps)[position]
    assert values[position] == getattr(schedule, family)[step]
    low, high = BOUNDS[family]
    values[position] = data.draw(st.floats(low, high))
    altered = schedule.with_values(values)
    assert getattr(altered, family)[step] == values[position]
    assert altered.values() == values
    assert altered.rule == schedule.rule


@given(schedules(), st.integers(-5, 5).filter(bool))
def test_with_values_refuses_other_numbers_of_values(schedule, surplus):
    values = schedule.values() + [0.5] * max(0, surplus)
    assume(len(values) + min(0, surplus) >= 0)
    values = values[: len(values) + min(0, surplus)]
    assume(len(values) != 4 * schedule.num_steps - 2)
    with pytest.raises(ValueError, match="need"):
        schedule.with_values(values)


@given(schedules(), st.sampled_from(["mask_ratios", "choice_temperatures", "guidance_scales"]), st.booleans())
def test_wrong_lengths_are_refused(schedule, family, longer):
    values = list(getattr(schedule, family))
    assume(longer or values)
    with pytest.raises(ValueError, match=family):
        with_family(schedule, family, [*values, 0.5] if longer else values[:-1])


@given(schedules(), st.data())
def test_values_out_of_range_are_refused(schedule, data):
    family, step = data.draw(st.sampled_from(components(schedule.num_steps)))
    low, high = BOUNDS[family]
    outside = st.floats(max_value=low, exclude_max=True) | st.floats(min_value=high, exclude_min=True)
    values = list(getattr(schedule, family))
    values[step] = data.draw(outside | st.just(math.nan))
    with pytest.raises(ValueError, match=rf"{family}\[{step}\]"):
        with_family(schedule, family, values)


@given(schedules(), st.data())
def test_bounds_themselves_are_allowed(schedule, data):
    family, step = data.draw(st.sampled_from(components(schedule.num_steps)))
    values = list(getattr(schedule, family))
    values[step] = data.draw(st.sampled_from(BOUNDS[family]))
    assert list(getattr(with_family(schedule, family, values), family)) == values


def test_no_steps_and_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="at least one step"):
        GenerationSchedule((), (), (), ())
    with pytest.raises(ValueError, match="rule"):
        GenerationSchedule((), (1.0,), (), (0.0,), rule="maskgit")


@given(schedules())
def test_nothing_is_masked_again_after_the_last_step(schedule):
    last = schedule.num_steps - 1
    assert schedule.mask_ratio(last) == 0
    assert schedule.choice_temperature(last) == 0
    assert [schedule.mask_ratio(step) for step in range(last)] == list(schedule.mask_ratios)
    assert [schedule.choice_temperature(step) for step in range(last)] == list(schedule.choice_temperatures)


@given(st.sampled_from(sorted(PRESETS)), st.integers(1, 64), st.sampled_from(RULES))
def test_presets_are_valid_and_their_ratios_fall(name, num_steps, rule):
    schedule = PRESETS[name](num_steps, rule)
    assert (schedule.num_steps, schedule.rule) == (num_steps, rule)
    ratios = [1.0, *schedule.mask_ratios, 0.0]
    assert all(before > after for before, after in itertools.pairwise(ratios))


@pytest.mark.parametrize("num_steps", [0, -1])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_refuse_no_steps(name, num_steps):
    with pytest.raises(ValueError, match="at least 1"):
        PRESETS[name](num_steps, "enat")


def test_presets_hold_the_published_values():
    schedule = maskgit_cosine(4)
    assert schedule.mask_ratios == pytest.approx([math.cos(math.pi / 8 * step) for step in (1, 2, 3)])
    assert schedule.choice_temperatures == pytest.approx([4.5 * 3 / 4, 4.5 / 2, 4.5 / 4])
    assert autonat_initial(4).guidance_scales == pytest.approx([0.5, 1.0, 1.5, 2.0])
    linear = enat_linear(4, guidance_scale=2.0, choice_temperature=3.0, sampling_temperature=1.0)
    assert linear.guidance_scales == pytest.approx([0.0, 0.5, 1.0, 1.5])
    assert linear.choice_temperatures == pytest.approx([2.25, 1.5, 0.75])
    assert linear.sampling_temperatures == pytest.approx([0.75, 0.5, 0.25, 0.001])


@given(st.integers(1, 12))
def test_components_names_every_value_once(num_steps):
    named = components(num_steps)
    assert len(set(named)) == len(named) == 4 * num_steps - 2
    assert {family: sum(name == family for name, _ in named) for family in FAMILIES} == {
        family: family_length(family, num_steps) for family in FAMILIES
    }


@given(schedules(max_steps=9), st.integers(1, 12))
def test_resampling_keeps_the_number_of_steps_asked_for_and_the_range(schedule, num_steps):
    found = resampled(schedule, num_steps)
    assert (found.num_steps, found.rule) == (num_steps, schedule.rule)
    for family in FAMILIES:
        known = [*getattr(schedule, family), *([0.0, 1.0] if family == "mask_ratios" else [])] or [0.0]
        assert all(min(known) <= value <= max(known) for value in getattr(found, family))


@given(schedules(max_steps=6))
def test_resampling_to_its_own_length_changes_nothing(schedule):
    assert resampled(schedule, schedule.num_steps).values() == pytest.approx(schedule.values(), abs=1e-12)


def test_resampling_puts_values_where_the_same_share_of_the_steps_is_done():
    schedule = GenerationSchedule((0.5,), (1.0, 2.0), (3.0,), (0.0, 4.0))
    found = resampled(schedule, 4)
    assert found.mask_ratios == pytest.approx((0.75, 0.5, 0.25))
    assert found.sampling_temperatures == pytest.approx((1.0, 1.0, 1.5, 2.0))
    assert found.guidance_scales == pytest.approx((0.0, 0.0, 2.0, 4.0))


def test_resampling_to_no_steps():
    with pytest.raises(ValueError, match="at least 1"):
        resampled(maskgit_cosine(4), 0)
