"""Every form of export: what stands in it, the way back, and what is refused."""

import json
import math
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from export_contents import PROVENANCE, content, load_module
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import MODERATE, schedules, tiny_network

from autonat.errors import UserError
from autonat.export import enat, halton, json_schedule
from autonat.export.command import export_to
from autonat.export.content import schedule_data
from autonat.export.formats import FORMATS, export, read_schedule
from models.checkpoint import load_network, save_network
from models.sample import TEMPERATURE_FLOOR, Canvas, Knobs, advance, guided_logits
from models.schedule import FAMILIES, GenerationSchedule, enat_linear

ALL_RULES = ("enat", "autonat", "muse")
SCHEDULE = GenerationSchedule(
    (0.1 + 0.2, 1 / 3, 1e-12), (1.0, 0.5, 2 / 3, 1e-3), (4.5, 0.0, 1e-7), (-0.5, 0.0, 1.0, 7.25), rule="autonat"
)
EXACT = ("improvednat", "enat", "diffusers", "python", "json")


def path_for(name, folder):
    return folder / ("schedule.py" if name == "python" else "schedule.out")


def written(name, schedule, folder, **sizes):
    path = path_for(name, folder)
    return path, export(content(schedule, **sizes), name, path)


# There and back


@settings(max_examples=15)
@given(schedule=schedules(rules=ALL_RULES))
@pytest.mark.parametrize("name", EXACT)
def test_there_and_back_to_the_last_bit(tmp_path_factory, name, schedule):
    path, _ = written(name, schedule, tmp_path_factory.mktemp("export"))
    for form in ("auto", name):
        found, imported = read_schedule(path, form, schedule.num_steps)
        assert found == name
        assert imported.schedule == (enat.falling(schedule) if name == "enat" else schedule)
        assert imported.provenance == PROVENANCE


@settings(max_examples=30)
@given(schedule=schedules(rules=ALL_RULES), num_tokens=st.integers(2, 300))
def test_counts_come_back_from_the_halton_table(tmp_path_factory, schedule, num_tokens):
    path, _ = written("halton", schedule, tmp_path_factory.mktemp("export"), num_tokens=num_tokens)
    found, imported = read_schedule(path)
    assert (found, imported.schedule.rule, imported.provenance) == ("halton", schedule.rule, PROVENANCE)
    assert enat.mask_counts(imported.schedule, num_tokens) == enat.mask_counts(schedule, num_tokens)
    assert imported.schedule.guidance_scales == schedule.guidance_scales
    assert imported.schedule.choice_temperatures == schedule.choice_temperatures
    floor = max(TEMPERATURE_FLOOR[schedule.rule], 1e-4)
    for value, back in zip(schedule.sampling_temperatures, imported.schedule.sampling_temperatures, strict=True):
        assert back == pytest.approx(max(value, floor), rel=1e-15)


@given(num_tokens=st.integers(1, 5000), data=st.data())
def test_a_ratio_gives_its_count_back(num_tokens, data):
    count = data.draw(st.integers(0, num_tokens))
    ratio = halton.ratio_for(count, num_tokens)
    assert math.floor(num_tokens * ratio) == count
    assert 0 <= ratio <= 1


def test_json_says_what_it_is(tmp_path):
    path, notes = written("json", SCHEDULE, tmp_path)
    data = json.loads(path.read_text())
    assert notes == []
    assert GenerationSchedule(**data["schedule"]) == SCHEDULE
    assert (data["format"], data["format_version"], data["num_steps"]) == ("autonat-schedule", 1, 4)
    assert set(data["meaning"]) == set(data["schedule"])
    assert data["provenance"] == PROVENANCE


def test_json_follows_its_schema(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(json_schedule.schema())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for rule in ALL_RULES:
        path, _ = written("json", replace(SCHEDULE, rule=rule), tmp_path)
        data = json.loads(path.read_text())
        validator.validate(data)
        assert data["$schema"] == schema["$id"]
    data["schedule"]["mask_ratios"][0] = 1.5
    data["schedule"]["rule"] = "mine"
    assert len(list(validator.iter_errors(data))) == 2


@pytest.mark.parametrize("schedule", [SCHEDULE, GenerationSchedule((), (1.0,), (), (0.0,))])
def test_strategy_file_holds_four_keys_and_numbers(tmp_path, schedule):
    """Plain YAML reads 1e-12 as text for want of a point; the official code reads plain YAML."""
    path, _ = written("improvednat", schedule, tmp_path)
    data = yaml.safe_load(path.read_text())
    assert data == {
        "manual_ratios": list(schedule.mask_ratios),
        "manual_temp": list(schedule.choice_temperatures),
        "manual_samp_temp": list(schedule.sampling_temperatures),
        "manual_cfg": list(schedule.guidance_scales),
    }
    steps = schedule.num_steps
    assert [len(values) for values in data.values()] == [steps - 1, steps - 1, steps, steps]
    assert {type(value) for values in data.values() for value in values} == {float}


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "checkpoint"])
def test_provenance_stands_in_every_form(tmp_path, name):
    path, _ = written(name, SCHEDULE, tmp_path)
    for file in FORMATS[name].outputs(path):
        # diffusers has it in the configuration, not in the module
        says_so = "FD(digits-cnn:12345678)" in file.read_text()
        assert says_so == (file.name not in ("schedule.schema.json", "scheduling_autonat.py"))
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == sorted(FORMATS[name].outputs(path))


def test_another_rule_than_the_targets_is_said(tmp_path):
    for rule in ALL_RULES:
        schedule = replace(SCHEDULE, rule=rule)
        assert bool(written("improvednat", schedule, tmp_path)[1]) == (rule != "autonat")
        assert any("rule" in note for note in written("enat", schedule, tmp_path)[1]) == (rule != "enat")


# ENAT's three scalars


@given(st.integers(2, 20), *[st.floats(low, high) for low, high in ((0, 20), (0, 20), (0.01, 20))])
def test_scalars_come_back_from_their_schedule(steps, guidance, choice, sampling):
    schedule = enat_linear(steps, guidance_scale=guidance, choice_temperature=choice, sampling_temperature=sampling)
    fit = enat.nearest(schedule)
    for (_, largest), value in zip(fit.residual.values(), (1, sampling, choice, guidance), strict=True):
        assert largest <= 1e-11 * value
    assert fit.scalars["cfg_scale"] == pytest.approx(guidance, rel=1e-11, abs=1e-300)
    assert fit.scalars["mask_temp"] == pytest.approx(choice, rel=1e-11, abs=1e-300)


@given(schedules(max_steps=8), st.floats(-0.5, 0.5))
def test_no_other_scalar_is_nearer(schedule, change):
    fit = enat.nearest(schedule)
    keys = {"cfg_scale": "guidance_scales", "mask_temp": "choice_temperatures", "samp_temp": "sampling_temperatures"}
    for key, family in keys.items():
        for moved in (fit.scalars[key] + change, fit.scalars[key] * (1 + change)):
            arguments = {enat.SCALARS[name]: value for name, value in {**fit.scalars, key: moved}.items()}
            try:
                other = enat_linear(schedule.num_steps, **arguments)
            except ValueError:
                continue  # out of bounds
            gaps = np.subtract(getattr(schedule, family), getattr(other, family))
            rms = math.sqrt(float(np.mean(gaps**2))) if len(gaps) else 0.0
            assert fit.residual[family][0] <= rms * (1 + 1e-9) + 1e-12


def test_the_residual_is_stated_in_file_and_notes(tmp_path):
    path, notes = written("enat", SCHEDULE, tmp_path)
    data = yaml.safe_load(path.read_text())
    fit = enat.nearest(enat.falling(SCHEDULE))
    assert set(data["residual"]) == set(FAMILIES)
    for family in FAMILIES:
        assert data["residual"][family]["root_mean_square"] == fit.residual[family][0] > 0
        assert any(family in note and f"{fit.residual[family][1]:.4g}" in note for note in notes)
    official = enat_linear(4, **{enat.SCALARS[key]: data[key] for key in enat.SCALARS})
    assert fit.schedule == official


def test_scalars_alone_need_the_number_of_steps(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("cfg_scale: 2.5\nmask_temp: 1.5\nsamp_temp: 6\n")
    with pytest.raises(UserError, match="give --steps"):
        read_schedule(path)
    expected = enat_linear(8, guidance_scale=2.5, choice_temperature=1.5, sampling_temperature=6.0)
    assert read_schedule(path, num_steps=8) == ("enat", read_schedule(path, "enat", 8)[1])
    assert read_schedule(path, num_steps=8)[1].schedule == expected


# Mask ratios that rise


@given(schedule=schedules(rules=ALL_RULES), num_tokens=st.integers(1, 300))
def test_the_enat_table_masks_no_visible_token_again(schedule, num_tokens):
    """The official loop masks floor(L r) tokens of all. The counts are ours, where the rule is theirs."""
    official = [math.floor(num_tokens * ratio) for ratio in enat.table(enat.falling(schedule))["mask_ratio"]]
    assert official == sorted(official, reverse=True)
    if schedule.rule == "enat":
        assert official == enat.mask_counts(schedule, num_tokens)
    assert enat.mask_counts(enat.falling(schedule), num_tokens) == enat.mask_counts(schedule, num_tokens)


def test_a_rising_ratio_is_said(tmp_path):
    rising = replace(SCHEDULE, mask_ratios=(0.5, 0.75, 0.25), rule="enat")
    path, notes = written("enat", rising, tmp_path)
    assert yaml.safe_load(path.read_text())["table"]["mask_ratio"] == [0.5, 0.5, 0.25, 0.0]
    assert any("running minimum" in note for note in notes)
    _, notes = written("enat", enat.falling(rising), tmp_path)
    assert not any("running minimum" in note for note in notes)
    _, notes = written("halton", rising, tmp_path)
    assert any("no new token is kept at step 1 " in note for note in notes)
    _, notes = written("halton", replace(rising, mask_ratios=(1.0, 0.0, 0.0)), tmp_path)
    assert any("no new token is kept at step 0, 2, 3 " in note for note in notes)
    _, notes = written("halton", replace(rising, mask_ratios=(0.75, 0.5, 0.25)), tmp_path)
    assert not any("no new token" in note for note in notes)


# The conventions of Halton-MaskGIT


@settings(max_examples=30)
@given(schedules(bounds=MODERATE, rules=ALL_RULES), st.integers(0, 2**31))
def test_halton_conventions(schedule, seed):
    """Their formulas on our columns against our sampler's, in float64."""
    columns = halton.columns(schedule, 16)
    generator = np.random.default_rng(seed)
    cond, uncond = torch.from_numpy(generator.normal(size=(2, 5, 7)) * 3)
    assert sum(columns["tokens_predicted"]) == columns["tokens_known"][-1] == 16
    masked = 16
    for step in range(schedule.num_steps):
        knobs = Knobs.at(schedule, step)
        w = columns["w"][step]
        theirs = (1 + w) * cond - w * uncond
        ours = guided_logits(cond, uncond, knobs.guidance_scale)
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-9)
        temperature = max(knobs.sampling_temperature, TEMPERATURE_FLOOR[schedule.rule], 1e-4)
        torch.testing.assert_close(
            (theirs * columns["sm_temp"][step]).softmax(-1), (ours / temperature).softmax(-1), rtol=0, atol=1e-6
        )
        assert columns["r_temp"][step] == knobs.choice_temperature
        after = enat.mask_counts(schedule, 16)[step] if step < schedule.num_steps - 1 else 0
        assert columns["tokens_predicted"][step] == masked - after
        assert columns["tokens_known"][step] == 16 - after
        masked = after


# The module that needs numpy alone


CLEAN = """
import importlib.abc, json, sys
class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "scipy", "models", "autonat", "yaml", "pydantic"):
            raise ImportError(name)
sys.meta_path.insert(0, Only())
sys.path.insert(0, sys.argv[1])
import numpy, schedule
predict = lambda step, tokens: (numpy.cos(numpy.arange(4 * 16 * 7.0)).reshape(4, 16, 7), numpy.zeros((4, 16, 7)))
tokens = schedule.decode(predict, num_tokens=16, mask_token=7, batch=4, rng=numpy.random.default_rng(0))
print(json.dumps([schedule.table(64), schedule.mask_counts(49), tokens.tolist()]))
"""


@pytest.mark.parametrize("rule", ALL_RULES)
def test_module_in_a_clean_interpreter(tmp_path, rule):
    schedule = replace(SCHEDULE, rule=rule)
    written("python", schedule, tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-c", CLEAN, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    table, counts, tokens = json.loads(done.stdout)
    assert [row["masked_after"] for row in table] == enat.mask_counts(schedule, 64)
    assert counts == enat.mask_counts(schedule, 49)
    for key, values in {
        "mask_ratio": [*schedule.mask_ratios, 0.0],
        "choice_temperature": [*schedule.choice_temperatures, 0.0],
        "sampling_temperature": list(schedule.sampling_temperatures),
        "guidance_scale": list(schedule.guidance_scales),
    }.items():
        assert [row[key] for row in table] == values
    assert np.shape(tokens) == (4, 16)
    assert 0 <= np.min(tokens) <= np.max(tokens) < 7


@settings(max_examples=20)
@given(schedule=schedules(bounds=MODERATE, rules=ALL_RULES, max_steps=4), seed=st.integers(0, 2**31))
def test_module_decodes_as_our_sampler(tmp_path_factory, schedule, seed):
    folder = tmp_path_factory.mktemp("module")
    path, _ = written("python", schedule, folder)
    module = load_module(path, "exported_schedule")
    generator = np.random.default_rng(seed)
    canvas, tokens, masked = Canvas.empty(2, 9, 5), np.full((2, 9), 5), np.ones((2, 9), dtype=bool)
    positions = torch.arange(9).expand(2, 9)
    for step in range(schedule.num_steps):
        logits = generator.normal(size=(2, 9, 5)) * 3
        draw, choice = generator.gumbel(size=(2, 9, 5)), generator.gumbel(size=(2, 9))
        arrays = [torch.from_numpy(array) for array in (logits, draw, choice)]
        taken = advance(canvas, positions, arrays[0], Knobs.at(schedule, step), *arrays[1:])
        canvas = taken.canvas
        tokens, masked, confidence = module.advance(step, tokens, masked, logits, draw, choice)
        np.testing.assert_array_equal(tokens, taken.sampled_BL.numpy())
        np.testing.assert_allclose(confidence, taken.confidence_BL.numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(masked, canvas.masked_BL.numpy())
        assert module.guided(step, 2.0, 1.0) == 2.0 + schedule.guidance_scales[step]


def test_module_says_where_it_comes_from(tmp_path):
    path, _ = written("python", SCHEDULE, tmp_path)
    lines = load_module(path, "exported_schedule").__doc__.splitlines()
    for key, value in PROVENANCE.items():
        assert f"    {key}: {json.dumps(value)}" in lines


def test_module_is_read_without_being_run(tmp_path):
    path, _ = written("python", SCHEDULE, tmp_path)
    path.write_text("import pathlib\npathlib.Path('executed').touch()\n" + path.read_text())
    assert read_schedule(path)[1].schedule == SCHEDULE
    path.write_text("import pathlib\npathlib.Path('executed').touch()\nSCHEDULE = {}\n")
    with pytest.raises(UserError, match="it is not run to find out"):
        read_schedule(path, "python")
    with pytest.raises(UserError, match="none of the forms"):
        read_schedule(path)
    assert not list(tmp_path.rglob("executed"))
    with pytest.raises(UserError, match=r"ends in \.py"):
        export(content(SCHEDULE), "python", tmp_path / "schedule.txt")


# A checkpoint's folder


def test_checkpoint_folder_loads_back_bit_by_bit(tmp_path):
    from models.official import load_official

    network = tiny_network()
    save_network(tmp_path / "weights.safetensors", network)
    whole = replace(content(SCHEDULE), network=network.config, weights=tmp_path / "weights.safetensors")
    folder = tmp_path / "folder"
    assert export(whole, "checkpoint", folder) == []
    assert {file.name for file in folder.iterdir()} == {file.name for file in FORMATS["checkpoint"].outputs(folder)}
    expected = network.state_dict()
    official = torch.load(folder / "nnet_ema.pth", weights_only=True)
    found = {
        "ours": load_network(folder / "network.safetensors"),
        "official folder": load_official(folder),
        "official file": load_official(folder / "nnet_ema.pth"),
    }
    for loaded in (*[one.state_dict() for one in found.values()], official):
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert all(one.config == network.config for one in found.values())
    assert json.loads((folder / "config.json").read_text())["network"] == network.config.to_dict()
    assert read_schedule(folder)[0] == "checkpoint"
    assert read_schedule(folder)[1].schedule == SCHEDULE
    assert {"mlm_layer.bias", "x_embedder.word_embeddings.weight"} <= official.keys()


def test_a_damaged_or_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no trained network"):
        export(content(SCHEDULE), "checkpoint", tmp_path / "folder")
    (tmp_path / "broken").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    broken = replace(content(SCHEDULE), weights=tmp_path / "broken")
    with pytest.raises(UserError, match="broken"):
        export(broken, "checkpoint", tmp_path / "folder")


# Refused


def test_unknown_format(tmp_path):
    with pytest.raises(UserError, match="unknown export format 'xml'"):
        export(content(SCHEDULE), "xml", tmp_path / "xml")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "checkpoint"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, name):
    path = path_for(name, tmp_path)
    if name != "diffusers":
        path.write_text("x" * 100_000)
    export(content(SCHEDULE), name, path)
    assert read_schedule(path)[1].schedule.num_steps == 4
    with pytest.raises(UserError, match="cannot"):
        export(content(SCHEDULE), name, path_for(name, tmp_path / "none" / "deeper"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", [*EXACT, "halton"])
def test_another_number_of_steps(tmp_path, name):
    path, _ = written(name, SCHEDULE, tmp_path)
    with pytest.raises(UserError, match="for T = 4 steps, not for T = 5"):
        read_schedule(path, num_steps=5)


# Files that are not ours


@pytest.mark.parametrize(
    ("name", "to", "theirs"),
    [
        ("python", "config.py", "config.json"),
        ("python", "config.py", "config.schema.json"),
        ("diffusers", "folder", "folder/scheduler_config.json"),
        ("diffusers", "folder", "folder/scheduling_autonat.py"),
        ("checkpoint", "folder", "folder/config.json"),
        ("checkpoint", "folder", "folder/nnet_ema.pth"),
        ("checkpoint", "folder", "folder/schedule.json"),
    ],
)
def test_another_s_file_that_the_path_does_not_name_is_kept(tmp_path, name, to, theirs):
    network = tiny_network()
    save_network(tmp_path / "weights.safetensors", network)
    whole = replace(content(SCHEDULE), network=network.config, weights=tmp_path / "weights.safetensors")
    file = tmp_path / theirs
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"format": "mine"}')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="no export in format") as error:
        export_to(whole, name, tmp_path / to)
    assert str(file) in str(error.value)
    assert file.read_text() == '{"format": "mine"}'
    assert sorted(tmp_path.rglob("*")) == before
    file.unlink()
    notes = export_to(whole, name, tmp_path / to)
    files = [file for file in FORMATS[name].outputs(tmp_path / to) if file != tmp_path / to]
    assert [note for note in notes if note.startswith("wrote ")] == [f"wrote {file}" for file in files]
    assert len(files) >= 2
    # What an export wrote, whole or in part, the next one replaces.
    other = replace(whole, schedule=replace(SCHEDULE, guidance_scales=(1.0, 1.0, 1.0, 1.0)))
    export_to(other, name, tmp_path / to)
    assert read_schedule(tmp_path / to)[1].schedule == other.schedule
    files[-1].unlink()
    export_to(whole, name, tmp_path / to)
    assert read_schedule(tmp_path / to)[1].schedule == SCHEDULE


def test_a_module_needs_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"ends in \.py"):
        export(content(SCHEDULE), "python", Path("."))


STRATEGY = {"manual_ratios": [0.5], "manual_temp": [1.0], "manual_samp_temp": [1.0, 1.0], "manual_cfg": [0.0, 1.0]}
JSON = {"format": "autonat-schedule", "format_version": 1, "schedule": schedule_data(SCHEDULE)}


def halton_data(**changes):
    columns = halton.columns(SCHEDULE, 16)
    return {"format": halton.KIND, "format_version": 1, "num_tokens": 16, "table": {**columns, **changes}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "none of the forms"),
        ("just words", "none of the forms"),
        ("- a list", "none of the forms"),
        ("[1, 2]", "none of the forms"),
        ("{}", "none of the forms"),
        ("{broken", "none of the forms"),
        ("\x00\x01", "none of the forms"),
        ("a: !!python/object/apply:os.mkdir [executed]", "none of the forms"),
        ("[" * 5_000, "none of the forms"),
        ('{"a":' * 5_000, "none of the forms"),
        (yaml.safe_dump({**STRATEGY, "manual_cfg": [1.0]}), "need 2 values, got 1"),
        (yaml.safe_dump({**STRATEGY, "manual_ratios": [1.5]}), "outside"),
        (yaml.safe_dump({**STRATEGY, "manual_ratios": ["half"]}), "not a number"),
        (yaml.safe_dump({**STRATEGY, "manual_ratios": [True]}), "not a number"),
        (yaml.safe_dump({**STRATEGY, "manual_ratios": [[0.5]]}), "not a number"),
        (yaml.safe_dump({**STRATEGY, "manual_ratios": 0.5}), "no list"),
        (yaml.safe_dump({**STRATEGY, "manual_ratios": [float("nan")]}), "not finite"),
        (yaml.safe_dump({**STRATEGY, "manual_ratios": [10**400]}), "not finite"),
        (yaml.safe_dump({**STRATEGY, "manual_samp_temp": []}), "at least one step"),
        (yaml.safe_dump({key: value for key, value in STRATEGY.items() if key != "manual_temp"}), "is missing"),
        (yaml.safe_dump({**STRATEGY, "manual_more": [1]}), "unknown key 'manual_more'"),
        (f"? 0x{'f' * 5_000}\n: 1", "none of the forms"),
        (yaml.safe_dump(STRATEGY) + f"? 0x{'f' * 5_000}\n: 1", "unknown key a huge number"),
        ("# decoding_rule: mine\n" + yaml.safe_dump(STRATEGY), "unknown decoding rule 'mine'"),
        (json.dumps({**JSON, "format_version": 2}), "format_version 2 is unknown"),
        (json.dumps({**JSON, "num_steps": 5}), "num_steps says 5"),
        (json.dumps({**JSON, "schedule": [1]}), "no object"),
        (json.dumps({**JSON, "schedule": {**JSON["schedule"], "rule": "mine"}}), "unknown decoding rule"),
        (json.dumps({**JSON, "schedule": {**JSON["schedule"], "rule": ["enat"]}}), "unknown decoding rule"),
        (json.dumps({**JSON, "provenance": 3}), "no object"),
        (json.dumps(halton_data(tokens_known=[1, 2, 3, 15])), "must end at num_tokens"),
        (json.dumps(halton_data(tokens_known=[1, 2, 3, 16])), "not the differences"),
        (json.dumps(halton_data(sm_temp=[0, 1, 1, 1])), "must be positive"),
        (json.dumps(halton_data(w=[1])), "one length"),
        (json.dumps({**halton_data(), "num_tokens": "many"}), "not a count"),
        (json.dumps({"_class_name": "AmusedScheduler", "mask_token_id": 3}), "none of the forms"),
        (json.dumps({"_class_name": "AutoNATScheduler", "rule": "enat"}), "is missing"),
        ("table: annealed_samp_temp", "none of the forms"),
        ("cfg_scale: 1\nmask_temp: 1\nsamp_temp: hot\nsample_steps: 4", "not a number"),
        ("cfg_scale: 1\nmask_temp: 1\nsamp_temp: 1\nsample_steps: 0", "for how many steps"),
        ("cfg_scale: 1\nmask_temp: -1\nsamp_temp: 1\nsample_steps: 4", "outside"),
        ("table: {annealed_samp_temp: [1], mask_ratio: [0], annealed_temp: [], cfg_scale: [1]}", "differ in length"),
        ("table: {annealed_samp_temp: [], mask_ratio: [], annealed_temp: [], cfg_scale: []}", "no steps"),
        ("table: {annealed_samp_temp: [1], mask_ratio: [0.5], annealed_temp: [0], cfg_scale: [1]}", "must be 0"),
    ],
)
def test_what_is_no_schedule(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_schedule(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11))


@pytest.mark.parametrize("last", ["table: *a10", "manual_ratios: [*a10]", "decoding_rule: *a10"])
@pytest.mark.parametrize("name", ["auto", "enat", "improvednat"])
def test_aliases_are_refused_before_they_multiply(tmp_path, name, last):
    path = tmp_path / "file"
    path.write_text(f"{ALIASES}{last}\n")
    with pytest.raises(UserError, match=r"has the YAML alias '\*a") as error:
        read_schedule(path, name)
    assert len(str(error.value)) < len(str(path)) + 100


def test_nested_aliases_on_the_command_line(tmp_path):
    """In a process of its own that may not grow: without the refusal they fill all memory."""
    path = tmp_path / "file.yaml"
    path.write_text(f"{ALIASES}table: *a10\n")
    done = subprocess.run(
        [sys.executable, "-m", "autonat", "import", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33)),
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr[-500:]
    assert "YAML alias '*a0'" in done.stderr


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("content", [b"", b"text", b"{}", bytes(range(256)), b"\xff" * 5_000_000])
def test_any_form_refuses_any_rubbish(tmp_path, name, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    for form in (name, "auto"):
        with pytest.raises(UserError):
            read_schedule(path, form)
    with pytest.raises(UserError):
        read_schedule(tmp_path, name)
    with pytest.raises(UserError, match="there is no"):
        read_schedule(tmp_path / "nowhere", name)


ANY = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=10)


@settings(max_examples=40)
@given(value=ANY, key=st.sampled_from(sorted(JSON["schedule"])))
def test_a_damaged_value_is_refused_or_valid(value, key):
    data = {**JSON, "schedule": {**JSON["schedule"], key: value}}
    try:
        schedule = json_schedule.from_data(json.loads(json.dumps(data)), "file").schedule
    except UserError:
        return
    assert schedule_data(schedule)[key] == pytest.approx(value)


def test_text_that_spells_a_number_is_one(tmp_path):
    """YAML 1.1 reads 1e-4 as text, and people write it."""
    path = tmp_path / "file"
    path.write_text("manual_ratios: [1e-4]\nmanual_temp: [1]\nmanual_samp_temp: [1E+1, 1]\nmanual_cfg: [0, 1]\n")
    schedule = read_schedule(path)[1].schedule
    assert schedule.mask_ratios == (1e-4,)
    assert schedule.sampling_temperatures == (10.0, 1.0)
