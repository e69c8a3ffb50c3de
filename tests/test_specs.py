"""Fingerprints name results, and results survive JSON."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import schedules

from autonat import specs
from autonat.specs import (
    OUTSIDE_THE_NAME,
    Differences,
    Evaluation,
    EvaluationSpec,
    Features,
    FeatureSpec,
    PopulationSpec,
    ProbeSpec,
    Trained,
    TrainSpec,
    canonical_json,
    derived_seed,
    fingerprint,
    paired_difference,
    result_from_dict,
)
from models.enat import ENATConfig
from models.features import ClassifierConfig
from models.mask_ratio import ArccosMaskRatio, BetaMaskRatio
from models.probes import Probe
from models.schedule import maskgit_cosine
from models.train import TrainingConfig

FEATURES = FeatureSpec("digits", ClassifierConfig(), 1)
TRAINING = TrainSpec("digits", ENATConfig(), TrainingConfig(), BetaMaskRatio(6.0, 3.0), 2)
EVALUATION = EvaluationSpec(TRAINING, FEATURES, maskgit_cosine(4), 3, 200, 100)
PROBE = ProbeSpec(TRAINING, FEATURES, maskgit_cosine(4), (Probe("guidance_scales", 0, 0.5),), 3, 200, 100)
SPECS = [FEATURES, TRAINING, EVALUATION, PROBE]

# Changes only together with NUMERICS_VERSION or a field of a spec: every recorded result is forgotten then.
GOLDEN = "2b2ff279e4d9b8eb9ae5471198f927a8a23c289d0a40cc4141b3fd37b4bf07ef"


def test_a_known_fingerprint():
    assert fingerprint(FEATURES) == GOLDEN


def test_new_numerics_rename_every_kind(monkeypatch):
    """Also a kind that had a number of its own before."""
    values = tuple(maskgit_cosine(4).values())
    population = PopulationSpec(TRAINING, FEATURES, maskgit_cosine(4), values, values, 3, 200, 100)
    before = [fingerprint(spec) for spec in (*SPECS, population)]
    monkeypatch.setattr(specs, "NUMERICS_VERSION", max(specs.NUMERICS_OF_KINDS.values()) + 1)
    assert not set(before) & {fingerprint(spec) for spec in (*SPECS, population)}


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_fingerprints_are_the_same_in_every_process(hash_seed):
    code = "import test_specs\nfor spec in test_specs.SPECS: print(test_specs.fingerprint(spec))"
    path = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
    )
    assert done.stdout.split() == [fingerprint(spec) for spec in SPECS]


OTHER = {"data": "other", "labels": "random", "mask_ratio": ArccosMaskRatio(), "decay": "cosine", "rule": "autonat"}
TWINS = {
    "num_images": 300,
    "block_size": 50,
    "probes": (Probe("guidance_scales", 0, 0.25),),
    "schedule": maskgit_cosine(5),
    "heads": 8,
    "ratio_groups": 4,
}


def changed(value):
    """(name, copy) of a dataclass value, one field at a time changed, at every depth."""
    for field in fields(value):
        old = getattr(value, field.name)
        if field.name in OUTSIDE_THE_NAME:
            continue
        if field.name in TWINS or field.name in OTHER:
            yield field.name, replace(value, **{field.name: TWINS.get(field.name, OTHER.get(field.name))})
        elif is_dataclass(old):
            for name, new in changed(old):
                yield f"{field.name}.{name}", replace(value, **{field.name: new})
        elif isinstance(old, float):
            yield field.name, replace(value, **{field.name: old * (1 - 1e-15) if old else 1e-15})
        elif isinstance(old, int):
            # Twice as much keeps widths and batch sizes divisible.
            yield field.name, replace(value, **{field.name: 2 * old if old else 1})


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_every_field_counts(spec):
    copies = dict(changed(spec))
    assert len(copies) >= {"FeatureSpec": 6, "TrainSpec": 20}.get(type(spec).__name__, 30)
    prints = {name: fingerprint(copy) for name, copy in copies.items()}
    assert fingerprint(spec) not in prints.values()
    assert len(set(prints.values())) == len(prints)


def test_kinds_of_specs_with_equal_fields_differ():
    assert len({fingerprint(spec) for spec in SPECS}) == len(SPECS)


@given(schedules(), st.data())
def test_any_change_of_a_schedule_changes_the_fingerprint(schedule, data):
    spec = replace(EVALUATION, schedule=schedule)
    assert fingerprint(replace(EVALUATION, schedule=schedule.with_values(schedule.values()))) == fingerprint(spec)
    values = schedule.values()
    place = data.draw(st.integers(0, len(values) - 1))
    values[place] = values[place] / 2 if values[place] else 0.25
    if values != schedule.values():
        assert fingerprint(replace(spec, schedule=schedule.with_values(values))) != fingerprint(spec)


def test_numbers_that_json_has_no_word_for_are_refused():
    with pytest.raises(ValueError):
        canonical_json({"x": float("nan")})


@pytest.mark.parametrize(("num_images", "block_size"), [(100, 100), (0, 100), (150, 100), (-200, 100), (2, 1), (4, 0)])
@pytest.mark.parametrize("spec", [EVALUATION, PROBE], ids=lambda spec: type(spec).__name__)
def test_whole_blocks_and_at_least_two(spec, num_images, block_size):
    with pytest.raises(ValueError, match="at least two whole blocks"):
        replace(spec, num_images=num_images, block_size=block_size)


def test_images_that_a_spec_costs():
    assert [spec.images for spec in SPECS] == [0, 0, 200, 600]


def test_derived_seeds():
    seeds = [
        derived_seed(seed, *address) for seed in (0, 1) for address in [(), ("a",), ("a", 1), ("a", "1"), (1, "a")]
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, "a", 1) == derived_seed(0, "a", 1)


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers, st.lists(numbers, min_size=2, max_size=5))
def test_results_come_back_from_json_to_the_last_bit(value, error, shares):
    blocks = tuple((share, value) for share in shares)
    results = {
        "FeatureSpec": Features(value, error, value, 500),
        "TrainSpec": Trained(value),
        "EvaluationSpec": Evaluation(value, error, 200, "FD", 2**62 + 1, tuple(shares)),
        "ProbeSpec": Differences(value, "FD", 200, blocks),
    }
    for kind, result in results.items():
        back = result_from_dict(kind, json.loads(json.dumps(asdict(result))))
        assert type(back) is type(result)
        assert repr(back) == repr(result)


def test_paired_difference():
    base = Evaluation(5.0, 1.0, 200, "FD", 3, (4.0, 6.0, 5.0))
    other = replace(base, value=4.0, shares=(3.5, 4.5, 4.0))
    change, error = paired_difference(other, base)
    gaps = [-0.5, -1.5, -1.0]
    assert change == -1.0
    assert error == pytest.approx((sum((gap + 1) ** 2 for gap in gaps) / 2 / 3) ** 0.5)
    # Noise that both share cancels.
    assert paired_difference(replace(base, value=6.0, shares=(5.0, 7.0, 6.0)), base) == (1.0, 0.0)


@pytest.mark.parametrize("mixture", [{"metric": "other"}, {"seed": 4}, {"num_images": 400}, {"shares": (1.0, 2.0)}])
def test_paired_difference_refuses_mixtures(mixture):
    base = Evaluation(5.0, 1.0, 200, "FD", 3, (4.0, 6.0, 5.0))
    assert paired_difference(replace(base, value=6.0), base)[0] == 1.0
    with pytest.raises(ValueError, match="do not compare"):
        paired_difference(replace(base, **mixture), base)


def test_the_metric_names_its_features():
    assert FEATURES.metric == f"FD(digits-cnn:{fingerprint(FEATURES)[:8]})"
    assert replace(FEATURES, seed=9).metric != FEATURES.metric
