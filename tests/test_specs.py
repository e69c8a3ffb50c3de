"""Fingerprints name results, and results survive JSON."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import schedules

from autonat import specs
from autonat.specs import (
    OUTSIDE_THE_NAME,
    CheckpointSpec,
    Differences,
    Evaluation,
    EvaluationSpec,
    FeatureChangeSpec,
    FeatureFileSpec,
    Features,
    FeatureSpec,
    GeneratorSpec,
    InceptionSpec,
    MetricSpec,
    MetricsSpec,
    OneStepSpec,
    PopulationSpec,
    ProbeSpec,
    Spec,
    Trained,
    TrainSpec,
    canonical_json,
    derived_seed,
    fingerprint,
    paired_difference,
    result_from_dict,
)
from models.data import Captions, TokenData
from models.enat import ENATConfig
from models.features import ClassifierConfig
from models.files import File
from models.mask_ratio import (
    AnyMaskRatio,
    ArccosMaskRatio,
    BetaMaskRatio,
    FixedMaskRatio,
    TruncatedGaussianMaskRatio,
)
from models.networks import NetworkConfig
from models.probes import Probe
from models.schedule import maskgit_cosine
from models.train import TrainingConfig
from models.uvit import TextUViTConfig, UViTConfig

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


def file(name):
    return File(name, f"hash of {name}")


MASK_RATIO = TruncatedGaussianMaskRatio()
PICTURES = TokenData("pictures", file("tokenizer"), 10, tokens=file("tokens"))
CAPTIONED = replace(PICTURES, captions=Captions(file("contexts")))
SHORT = replace(TRAINING, until_step=5)
UVIT_TRAINING = TrainSpec(PICTURES, UViTConfig(), TrainingConfig(), MASK_RATIO, 2, start_from=SHORT)
TEXT_TRAINING = TrainSpec(CAPTIONED, TextUViTConfig(), TrainingConfig(), ArccosMaskRatio(), 2, until_step=5)
CHECKPOINT = CheckpointSpec(replace(PICTURES, tokens=None), ENATConfig(), file("weights"), FixedMaskRatio(0.5))
INCEPTION = InceptionSpec(file("inception"), file("statistics"))
FEATURE_FILE = FeatureFileSpec("colours", file("features"), file("statistics"))
SCHEDULE = maskgit_cosine(4)
BOUNDS = tuple(SCHEDULE.values())
EVERY_SPEC = {
    "features": FEATURES,
    "inception": INCEPTION,
    "feature file": FEATURE_FILE,
    "training of an ENAT": TRAINING,
    "training of a U-ViT": UVIT_TRAINING,
    "training of a text network": TEXT_TRAINING,
    "checkpoint": CHECKPOINT,
    "evaluation": EVALUATION,
    "evaluation of files": replace(EVALUATION, training=CHECKPOINT, features=INCEPTION),
    "evaluation of a text network": replace(EVALUATION, training=TEXT_TRAINING, features=FEATURE_FILE),
    "probes": PROBE,
    "population": PopulationSpec(TRAINING, FEATURES, SCHEDULE, BOUNDS, BOUNDS, 3, 200, 100),
    "metrics": MetricsSpec(TRAINING, INCEPTION, SCHEDULE, 3, 200, 100, ("kid", "prc")),
    "one step": OneStepSpec(TRAINING, FEATURES, 0.5, 3, 200, 100),
    "feature change": FeatureChangeSpec(TRAINING, SCHEDULE, 3, 200, 100),
}

# Fields that rightly do not count, and why.
OUTSIDE = {
    "checkpoint_every_minutes": "when the state is written to disk changes no result",
    "path": "a file's contents name it, not its place",
}

# Another value of fields that take neither twice as much nor a word that nobody knows, by name.
OTHER = {
    "block_size": 50,
    "blocks": 27,
    "captions": CAPTIONED.captions,
    "decay": "cosine",
    "family": "mask_ratios",
    "start_from": SHORT,
    "tokens": file("other tokens"),
    "until_step": 7,
}


def another(value, name, hint):
    """Another value for a field, as near as there is; None where it cannot be told."""
    if name in OTHER:
        return OTHER[name]
    if get_origin(hint) is Literal and len(get_args(hint)) > 1:
        return next(choice for choice in get_args(hint) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value * (1 - 1e-15) if value else 1e-15
    if isinstance(value, int):
        return 2 * value if value else 1  # twice as much keeps widths and batch sizes divisible
    return f"other {value}" if isinstance(value, str) else None


def changed(value, name="", hint=None):
    """(name, copy) of a value, one part at a time changed, at every depth."""
    if is_dataclass(value):
        hints = get_type_hints(type(value))
        for field in fields(value):
            for inner, copy in changed(getattr(value, field.name), field.name, hints[field.name]):
                yield f"{name}.{inner}", replace(value, **{field.name: copy})
    elif isinstance(value, tuple):
        assert value, f"nothing to change in {name}"
        for place, part in enumerate(value):
            for inner, copy in changed(part, name):
                yield f"{inner}[{place}]", (*value[:place], copy, *value[place + 1 :])
    else:
        copy = another(value, name, hint)
        assert copy is not None, f"nothing known to change {name} to"
        yield name, copy


@pytest.mark.parametrize("kind", EVERY_SPEC)
def test_every_field_counts(kind):
    """At every depth, and to the last bit of a number."""
    spec = EVERY_SPEC[kind]
    copies = dict(changed(spec))
    assert len(copies) == len(list(changed(spec)))
    outside = {name for name in copies if name.rpartition(".")[2] in OUTSIDE}
    assert {name for name, copy in copies.items() if fingerprint(copy) == fingerprint(spec)} == outside
    prints = {fingerprint(copy) for name, copy in copies.items() if name not in outside}
    assert len(prints) == len(copies) - len(outside)


def test_every_kind_of_spec_and_of_what_is_in_it_was_changed():
    def within(value):
        yield type(value)
        for part in [getattr(value, field.name) for field in fields(value)] if is_dataclass(value) else []:
            yield from within(part)

    kinds = {kind for spec in EVERY_SPEC.values() for kind in within(spec)}
    for union in (Spec, GeneratorSpec, MetricSpec, NetworkConfig, AnyMaskRatio):
        assert kinds >= set(get_args(union))
    assert set(OUTSIDE) >= OUTSIDE_THE_NAME


def test_a_file_that_nobody_has_looked_at_is_named_by_its_place():
    prints = {fingerprint(replace(CHECKPOINT, weights=File(path))) for path in ("weights", "other")}
    assert len({*prints, fingerprint(CHECKPOINT)}) == 3


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
