"""`autonat analyze`: networks of equal cost, both standard errors, and every analysis on tiny studies."""

import html
import json
import math
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import tiny_network
from studies_for_tests import query, run_cli, run_ok, write_recipe
from test_train_features import prepared  # noqa: F401 - a fixture
from test_train_features import write_recipe as write_colours

from autonat import specs
from autonat.analyses.canvases import drawn_again_B
from autonat.analyses.equal_operations import EQUAL, as_enat, as_uvit, equal_networks, fitted, operations, schedule_for
from autonat.analyses.estimates import Measured, mean_of, verdict
from autonat.analyses.page import _ticks
from autonat.analyze_command import ANALYSES, seeds_of
from autonat.errors import UserError
from autonat.pictures import pairs_of
from autonat.specs import FeatureChangeSpec, OneStepSpec, TrainSpec, fingerprint, result_from_dict
from autonat.storage.store import Store
from autonat.verify import spec_from_json
from models.counts import image_counts
from models.enat import ENATConfig
from models.evaluate import Block, Generator
from models.mask_ratio import BetaMaskRatio
from models.presets import PRESETS, preset
from models.sample import Canvas, Step
from models.schedule import autonat_initial, maskgit_cosine
from models.tokenizer import GreyLevelTokenizer
from models.train import TrainingConfig, train
from models.uvit import UViTConfig

values = st.floats(-100, 100)


def measured(rows):
    """One seed a row; the value is the mean of its shares."""
    return Measured(tuple(math.fsum(row) / len(row) for row in rows), tuple(map(tuple, rows)))


def test_errors_by_hand():
    found = measured([[1.0, 3.0], [5.0, 5.0]])
    assert found.mean == 3.5
    assert found.over_trainings == pytest.approx(math.sqrt(4.5 / 2))  # of 2 and 5
    assert found.over_images == pytest.approx(math.sqrt(0.5 / 2))  # of 3 and 4
    assert found.error == pytest.approx(math.sqrt(2.25 + 0.25))
    assert found.as_json()["by_training"] == [2.0, 5.0]
    alone = measured([[1.0, 3.0]])
    assert math.isnan(alone.over_trainings)
    assert alone.as_json()["standard_error_over_trainings"] is None
    assert alone.error == alone.over_images == 1.0
    assert mean_of([found, found - alone_twice(alone)]).mean == pytest.approx(3.5 - 1)


def alone_twice(one):
    return Measured(one.values * 2, one.shares * 2)


@given(st.lists(st.tuples(values, values, values), min_size=2, max_size=4))
def test_what_all_share_is_no_error_of_a_difference(rows):
    """Images that are hard for every network cancel."""
    first = measured(rows)
    shifted = measured([[share + 7 for share in row] for row in rows])
    gap = shifted - first
    assert gap.mean == pytest.approx(7)
    assert gap.over_images == pytest.approx(0, abs=1e-9)
    assert gap.over_trainings == pytest.approx(0, abs=1e-9)
    assert (first - shifted).mean == pytest.approx(-gap.mean)


@pytest.mark.parametrize(
    ("gaps", "answer", "second"),
    [
        ((1.0, 1.0), "holds here", "+1.00 +- 0.10, decided"),
        ((1.0, 0.1), "is not decided here", "+0.10 +- 0.10, open"),
        ((1.0, -1.0), "does not hold here", "-1.00 +- 0.10, decided"),
    ],
)
def test_verdicts(gaps, answer, second):
    spread = 0.1 * math.sqrt(19)  # of 20 blocks whose mean has an error of 0.1
    steps = [("a - b", measured([[gap - spread, gap + spread] * 10] * 2)) for gap in gaps]
    said = verdict("The paper says so", steps)
    assert said.startswith(f"The paper says so: {answer} (a - b +1.00 +- 0.10, decided; a - b {second}; ")


@pytest.mark.parametrize(("trainings", "answer"), [(2, "is not decided here"), (4, "holds here")])
def test_two_trainings_decide_little(trainings, answer):
    """Six standard errors: nothing much for one degree of freedom, whose 95% quantile is 12.7, and plenty for three."""
    gaps = np.linspace(-1, 1, trainings)
    gaps *= 1 / 6 / (gaps.std(ddof=1) / math.sqrt(trainings))
    difference = measured([[1 + gap] * 20 for gap in gaps])
    assert difference.mean / difference.error == pytest.approx(6)
    assert difference.margin == pytest.approx({2: 12.706, 4: 3.182}[trainings] * difference.error, rel=1e-3)
    assert verdict("The paper says so", [("a - b", difference)]).startswith(f"The paper says so: {answer}")


@given(st.lists(st.lists(values, min_size=3, max_size=3), min_size=2, max_size=5))
def test_the_margin_is_that_of_the_smaller_sample_at_most(rows):
    difference = measured(rows)
    least = min(len(rows), 3) - 1
    widest = {1: 12.7063, 2: 4.3027}[least]
    assert 1.95 * difference.error <= difference.margin <= widest * difference.error * (1 + 1e-9)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("MUSE-CC3M", "ENAT-XL")])
@pytest.mark.parametrize("schedule", [maskgit_cosine(4), autonat_initial(8)], ids=["cosine", "guided"])
def test_three_networks_of_equal_cost(name, schedule):
    config = preset(name)
    found = equal_networks(config, schedule)
    assert list(found) == ["U-ViT NAT", "plain ENAT", "ENAT with reuse"]
    assert [(each.kind, getattr(each, "reuse", None)) for each in found.values()] == [
        ("uvit", None), ("enat", False), ("enat", True),
    ]  # fmt: skip
    assert config in found.values()
    target = operations(config, schedule)
    for each in found.values():
        counted = sum(step.macs for step in image_counts(each, schedule_for(each, schedule)))
        assert abs(counted / target - 1) <= EQUAL
        assert (each.num_tokens, each.codebook_size, each.heads) == (
            config.num_tokens, config.codebook_size, config.heads,
        )  # fmt: skip


def test_sizes_that_cannot_be_met():
    config, schedule = preset("digits"), maskgit_cosine(4)
    assert fitted(config, schedule, operations(config, schedule)) == config
    with pytest.raises(UserError, match="no enat of 4 heads"):
        fitted(config, schedule, 1000)
    with pytest.raises(UserError, match="text networks"):
        as_enat(preset("MUSE-CC3M"))


def test_kinds_become_each_other():
    enat = preset("cifar10")
    assert as_enat(as_uvit(enat)).encoder_blocks == enat.encoder_blocks + 1  # blocks of a U-ViT are odd
    assert (as_uvit(enat).embedding_std, as_uvit(enat).initial_positions) == (0.2, "sinusoidal")
    assert as_enat(enat) is enat


def test_plain_enat_encodes_everything_again():
    """The sampler hands nothing on, and the network says so in its file and its name."""
    reusing, plain = tiny_network(num_tokens=64, codebook_size=17, num_classes=10), None
    plain = tiny_network(num_tokens=64, codebook_size=17, num_classes=10, reuse=False)
    plain.load_state_dict(reusing.state_dict())
    schedule, block = maskgit_cosine(4), Block(0, 2, 8, 3)
    seen = []
    plain.register_forward_hook(lambda module, inputs, output: seen.append(inputs[3] if len(inputs) > 3 else None))
    tokens = [Generator(each, GreyLevelTokenizer()).tokens(schedule, block) for each in (reusing, plain)]
    assert seen
    assert not any(seen)
    assert not torch.equal(*tokens)
    assert "reuse" not in reusing.config.to_dict()
    assert ENATConfig(**plain.config.to_dict()) == plain.config
    plain_counts = image_counts(plain.config, schedule)
    assert plain_counts == image_counts(reusing.config, schedule, reuse=False)
    assert plain_counts != image_counts(reusing.config, schedule)


def test_plain_enat_trains_without_reuse():
    config = replace(tiny_network().config, reuse=False)
    training = TrainingConfig(
        steps=3, batch_size=4, ratio_groups=1, warmup_steps=1, learning_rate=1e-2, ema_decay=0.1, reuse_probability=0.0
    )
    tokens_NL, labels_N = torch.randint(7, (8, 16), generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    network, loss = train(config, training, BetaMaskRatio(3.0, 3.0), tokens_NL, labels_N, 1)
    assert math.isfinite(loss)
    assert not network.reuses_features


def test_fields_that_came_later_change_no_name(monkeypatch):
    monkeypatch.setattr(specs, "NUMERICS_VERSION", 1)  # what the names were made with

    def named(network):
        return fingerprint(TrainSpec("digits", network, TrainingConfig(), BetaMaskRatio(3.0, 3.0), 0))

    config = preset("digits")
    assert named(replace(config, reuse=False)) != named(config)
    # As the version before these fields named them.
    assert named(ENATConfig()).startswith("5e7db4877cc6142e")
    assert named(UViTConfig()).startswith("60fe2c06e90d4a5d")
    assert named(UViTConfig(embedding_std=0.2)) != named(UViTConfig())


@pytest.mark.parametrize("bad", ["", "a", "0,-1", "1 1", "0.5", "0,,x"])
def test_seeds_that_are_none(bad):
    with pytest.raises(UserError, match="--seeds"):
        seeds_of(bad)


def test_seeds():
    assert seeds_of("0,1") == seeds_of("0 1") == seeds_of("0, 1") == (0, 1)


def test_share_drawn_again():
    masked = torch.tensor([[True, True, False, True], [True, True, True, False]])
    earlier = Step(torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]]), masked.float(), Canvas(masked.long(), masked, 3))
    later = replace(earlier, sampled_BL=torch.tensor([[1, 0, 3, 4], [0, 0, 0, 4]]))
    assert drawn_again_B(earlier, later).tolist() == pytest.approx([2 / 3, 0])


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low, width):
    ticks = _ticks(low, low + width)
    assert 1 <= len(ticks) <= 8
    assert all(low - 1e-6 * width <= tick <= low + width + 1e-6 * width for tick in ticks)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A finished tiny study of the digits."""
    folder = tmp_path_factory.mktemp("studied")
    recipe = write_recipe(folder, phases=["schedule"], search__descent=None, training__steps=4)
    run_ok("run", recipe, "--db", folder / "autonat.db", "--workers", 0)
    return folder


def analyze(folder, what, *options, study="tiny"):
    """What is printed, and the JSON."""
    page = folder / f"{what}.html"
    said = run_ok(
        "analyze", study, what, "--db", folder / "autonat.db", "--workers", 0, "--html", page, "--json",
        folder / f"{what}.json", *options,
    )  # fmt: skip
    return said, json.loads((folder / f"{what}.json").read_text())


def estimates(content):
    """Every measured quantity of all rows."""
    return [value for row in content["rows"] for value in row.values() if isinstance(value, dict)]


@pytest.mark.parametrize("what", ANALYSES)
def test_every_analysis(studied, what):
    said, content = analyze(studied, what)
    found = estimates(content)
    assert found
    assert content["training_seeds"] == [0, 1]
    for value in found:
        assert len(value["by_training"]) == (2 if value["standard_error_over_trainings"] is not None else 1)
        assert value["standard_error_over_images"] >= 0
    assert content["verdict"] in " ".join(said.split())
    assert "Published" in said
    page = (studied / f"{what}.html").read_text()
    assert content["title"] in html.unescape(page)
    assert "http://" not in page.split("<body>")[1].split("<script")[0]
    assert "<script src" not in page
    assert (studied / f"{what}.png").read_bytes().startswith(b"\x89PNG")
    # Once more: everything is recorded already.
    before = query(studied / "autonat.db", "SELECT count(*) FROM results")
    assert analyze(studied, what)[1] == content
    assert query(studied / "autonat.db", "SELECT count(*) FROM results") == before


def test_seed_0_is_the_studys_own_network(studied):
    before = query(studied / "autonat.db", "SELECT count(*) FROM results WHERE kind='TrainSpec'")[0][0]
    analyze(studied, "canvases", "--seeds", "0")
    assert query(studied / "autonat.db", "SELECT count(*) FROM results WHERE kind='TrainSpec'")[0][0] == before
    (painted, *_) = pairs_of(Store.open(str(studied / "autonat.db"), readonly=True), "tiny")
    assert (painted.training["network"]["width"], painted.training["network"].get("reuse", True)) == (8, True)


def test_recorded_tasks_can_be_verified(studied):
    analyze(studied, "one-step")
    analyze(studied, "feature-change")
    database = studied / "autonat.db"
    for kind, type_ in (("OneStepSpec", OneStepSpec), ("FeatureChangeSpec", FeatureChangeSpec)):
        name, text, result = query(database, "SELECT fingerprint, spec, result FROM results WHERE kind=?", kind)[0]
        spec = spec_from_json(kind, text)
        assert isinstance(spec, type_)
        assert fingerprint(spec) == name
        restored = result_from_dict(kind, json.loads(result))
        assert json.loads(json.dumps(asdict(restored))) == json.loads(result)
    assert "0 differ" in run_ok("verify", "tiny", "--db", database, "--count", 4, "--workers", 0)
    shown = run_ok("show", "tiny", "--db", database)
    assert "one step" in shown
    assert "feature change" in shown


def test_one_step_begins_at_the_tokenizers_own_distance(studied):
    _, content = analyze(studied, "one-step")
    real, *others = content["rows"]
    assert real["network"] == "real tokens"
    assert {(row["network"], row["ratio"]) for row in others} == {
        (network, ratio)
        for network in ("self_cross", "full", "cross", "U-ViT NAT")
        for ratio in ("0.2", "0.4", "0.6", "0.8")
    }
    assert all(row["distance"]["value"] > real["distance"]["value"] for row in others)


def test_workers_change_nothing(studied, tmp_path):
    """Other processes, in a database that lacks these results."""
    for path in studied.glob("autonat*"):  # the database has a journal beside it
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    query(tmp_path / "autonat.db", "DELETE FROM results WHERE kind IN ('OneStepSpec', 'FeatureChangeSpec')")
    expected = analyze(studied, "feature-change")[1]
    assert analyze(tmp_path, "feature-change", "--workers", 1)[1] == expected
    expected = analyze(studied, "one-step")[1]
    assert analyze(tmp_path, "one-step")[1] == expected


def test_tokens_of_a_tokenizer(prepared, tmp_path):  # noqa: F811
    """A study on codes in files, measured with a feature network from a file."""
    folder, _ = prepared
    recipe = write_colours(folder, phases=["schedule"], metrics=[])
    run_ok("run", recipe, "--db", tmp_path / "autonat.db", "--workers", 0)
    for what in ("networks", "one-step", "canvases"):
        _, content = analyze(tmp_path, what, study="colours")
        assert content["metric"].startswith("FD(cifar10-resnet")
        assert estimates(content)


def test_a_checkpoint_has_no_trainings(studied, tmp_path):
    (painted, *_) = pairs_of(Store.open(str(studied / "autonat.db"), readonly=True), "tiny")
    (weights,) = (studied / "autonat-artifacts").glob(f"**/{painted.name}*")
    recipe = write_recipe(tmp_path, phases=["schedule"], checkpoint=str(weights), training=None, search__descent=None)
    run_ok("run", recipe, "--db", tmp_path / "autonat.db", "--workers", 0)
    for what in ("one-step", "feature-change", "canvases"):
        _, content = analyze(tmp_path, what)
        assert content["training_seeds"] == []
        assert all(value["standard_error_over_trainings"] is None for value in estimates(content))
    status, _, err = run_cli("analyze", "tiny", "networks", "--db", tmp_path / "autonat.db", "--workers", 0)
    assert (status, err.count("\n")) == (2, 1)
    assert "checkpoint" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("tiny", "network"), "no analysis 'network'"),
        (("tiny", "networks", "--seeds", "0,0"), "names one twice"),
        (("tiny", "networks", "--images", "30"), "whole blocks of 20"),
        (("tiny", "networks", "--images", "20"), "two whole blocks"),
        (("nothing", "networks"), "no study 'nothing'"),
    ],
)
def test_wrong_usage(studied, arguments, complaint):
    status, _, err = run_cli("analyze", *arguments, "--db", studied / "autonat.db", "--workers", 0)
    assert (status, err.count("\n")) == (2, 1)
    assert complaint in err
