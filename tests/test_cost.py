"""`autonat cost`: numbers, forms of schedules, checkpoints, and one line for bad input."""

import json

import pytest
import torch
from strategies import tiny_network
from studies_for_tests import run_cli, run_ok

from autonat.cost_command import Cost, cost_of, default_schedule, find_subject, measure
from autonat.errors import UserError
from models.checkpoint import save_network
from models.counts import image_counts
from models.official import save_official
from models.presets import PRESETS, preset
from models.schedule import GenerationSchedule

STRATEGY = """
manual_ratios: [0.9, 0.5]
manual_temp: [2.0, 1e-4]
manual_samp_temp: [1.0, 1.0, 1.0]
manual_cfg: [0.0, 0.5, 0.0]
"""


def counted(name, num_steps=8):
    subject = find_subject(name, load=False)
    return cost_of(subject, default_schedule(subject.config, num_steps))


def test_what_is_printed(tmp_path):
    text = run_ok("cost", "AutoNAT-L", "--steps", 8, "--json", tmp_path / "cost.json")
    assert "193,655,297 (774.6 MB in float32)" in text
    assert "832.1 GMACs = 1.664 TFLOPs" in text  # the official protocol of the reference
    assert "a MAC is 2 FLOPs" in text
    content = json.loads((tmp_path / "cost.json").read_text())
    assert content["official_macs"] == 832_058_265_600
    assert content["tokenizer_decoder_macs"] == 93_272_932_352
    assert content["macs"] == sum(step["macs"] for step in content["steps"])
    assert [step["num_masked"] for step in content["steps"]] == [256, 251, 236, 212, 181, 142, 97, 49]
    assert "latency" not in content


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_cost(name):
    cost = counted(name)
    assert isinstance(cost, Cost)
    assert 0 < cost.macs < cost.official_macs
    assert cost.parameter_bytes == 4 * cost.parameters
    assert all((word in cost.subject.source) == bool(PRESETS[name].guessed) for word in ("guessed: ",))


def test_a_strategy_file(tmp_path):
    path = tmp_path / "strategy.yaml"
    path.write_text(STRATEGY)
    run_ok("cost", "AutoNAT-S", "--schedule", path, "--json", tmp_path / "cost.json")
    content = json.loads((tmp_path / "cost.json").read_text())
    schedule = GenerationSchedule((0.9, 0.5), (1.0, 1.0, 1.0), (2.0, 1e-4), (0.0, 0.5, 0.0), "autonat")
    assert [step["macs"] for step in content["steps"]] == [
        step.macs for step in image_counts(preset("AutoNAT-S"), schedule, first_logits=True)
    ]
    assert [step["passes"] for step in content["steps"]] == [0, 2, 1]


@pytest.mark.parametrize("form", ["ours", "official", "folder"])
def test_checkpoints(form, tmp_path):
    network = tiny_network()
    path = tmp_path / "net.safetensors"
    if form == "ours":
        save_network(path, network)
    else:
        path = tmp_path / "100.ckpt"
        path.mkdir()
        save_official(path / "nnet_ema.pth", network)
        path = path / "nnet_ema.pth" if form == "official" else path
    cost = counted(str(path))
    assert cost.subject.config == network.config
    assert cost.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert cost.tokenizer_macs is None


def test_latency_is_measured(tmp_path):
    save_network(tmp_path / "net.safetensors", tiny_network())
    text = run_ok(
        "cost", tmp_path / "net.safetensors", "--measure", "--batch", 3, "--runs", 3, "--json", tmp_path / "c"
    )
    latency = json.loads((tmp_path / "c").read_text())["latency"]
    assert latency["batch"] == 3
    assert latency["runs"] == 3
    assert 0 < latency["seconds_a_batch"] < 60
    assert "Measured on cpu, batch 3" in text


def test_random_weights_are_made_only_for_measuring(monkeypatch):
    made = []
    monkeypatch.setattr("models.enat.ENAT.initialise", lambda self, generator: made.append(self) or self)
    cost = counted("ENAT-L")
    assert cost.subject.network is None
    assert not made
    assert measure(counted("digits", 2), "cpu", 2, runs=1).seconds_an_image > 0
    assert len(made) == 1


def test_a_text_network_is_measured_with_captions(tmp_path):
    from models.networks import build_network
    from models.uvit import TextUViTConfig

    config = TextUViTConfig(
        num_tokens=16, codebook_size=7, width=16, heads=2, blocks=3, context_tokens=3, context_width=5
    )
    save_network(tmp_path / "text.safetensors", build_network(config).initialise(torch.Generator().manual_seed(0)))
    subject = find_subject(str(tmp_path / "text.safetensors"), load=True)
    latency = measure(cost_of(subject, default_schedule(config, 3)), "cpu", 2, runs=1)
    assert latency.seconds_an_image == latency.seconds_a_batch / 2


def refused(*arguments):
    status, _, errors = run_cli("cost", *arguments)
    assert status == 2, errors
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    return lines[0]


def test_bad_input(tmp_path):
    assert "no network preset 'ENAT-M'; there are AutoNAT-S" in refused("ENAT-M")
    cut = tmp_path / "nnet_ema.pth"
    save_official(cut, tiny_network())
    cut.write_bytes(cut.read_bytes()[:-100])
    assert "nnet_ema.pth is cut off, damaged" in refused(cut)


@pytest.mark.parametrize("name", ["no/such/file", "absent.pth", "absent.safetensors", "5.ckpt"])
def test_a_path_that_is_none(name):
    with pytest.raises(UserError, match=f"there is no checkpoint {name}"):
        find_subject(name, load=False)


@pytest.mark.parametrize("device", ["tpu", "meta", "", "cuda:x", "cuda:99"])
def test_devices_that_cannot_be_used(device):
    with pytest.raises(UserError, match=r"device '.*' cannot be") as caught:
        measure(counted("digits", 1), device, 1, runs=1)
    assert "\n" not in str(caught.value)


def test_a_damaged_schedule(tmp_path):
    path = tmp_path / "strategy.yaml"
    path.write_text(STRATEGY.replace("[0.9, 0.5]", "[0.9]"))
    assert "strategy.yaml" in refused("digits", "--schedule", path)
    with pytest.raises(UserError, match="steps"):
        default_schedule(preset("digits"), 0)
