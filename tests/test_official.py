import json
import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ATOL_FLOAT64, FOLDER, arrays, assert_close, facts
from safetensors.torch import load_file
from strategies import tiny_config

from models.checkpoint import CheckpointError, save_network, save_tensors
from models.enat import ENATConfig
from models.networks import build_network
from models.official import configuration_of, load_any, load_official, read_state_dict, save_official
from models.presets import preset
from models.uvit import TextUViTConfig, UViTConfig

TINY = ("enat_tiny", "uvit_tiny", "uvit_tiny16", "uvit_text_tiny")
CONFIGS = {
    "enat": tiny_config(),
    "uvit": UViTConfig(num_tokens=9, codebook_size=7, num_classes=3, width=8, heads=2, blocks=5, qkv_bias=True),
    "uvit_text": TextUViTConfig(
        num_tokens=9, codebook_size=7, width=8, heads=2, blocks=3, context_tokens=4, context_width=6
    ),
}


def config_of(name):
    """What the recording says that its tensors do not."""
    config = facts(name)["config"]
    told = {"heads": config["num_heads"]}
    if "enc_dec" in config:
        told["encoder_blocks"] = config["enc_dec"][0]
    if "num_clip_token" in config:
        told["context_tokens"] = config["num_clip_token"]
    return told


def network_of(kind="enat", seed=0):
    return build_network(CONFIGS[kind]).initialise(torch.Generator().manual_seed(seed)).eval()


def same_weights(network, state):
    found = network.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def as_saved_by(how, state, path):
    """The state dict as the different trainers leave it."""
    if how == "module":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    if how == "position_ids":
        state = {"token_emb.position_ids": torch.arange(9)[None], **state}
    if how == "folder":
        path = path.parent / "285000.ckpt"
        path.mkdir()
        for name, content in {
            "nnet": {name: tensor + 1 for name, tensor in state.items()},
            "optimizer": {"state": {}, "param_groups": []},
            "lr_scheduler": {"last_epoch": 3},
            "step": 285000,
        }.items():
            torch.save(content, path / f"{name}.pth")
        torch.save(state, path / "nnet_ema.pth")
        return path
    torch.save(state, path, _use_new_zipfile_serialization=how != "legacy")
    return path


@pytest.mark.reference
@pytest.mark.parametrize("how", ["plain", "module", "position_ids", "folder", "legacy"])
@pytest.mark.parametrize("name", TINY)
def test_official_checkpoints_load(name, how, tmp_path):
    state = load_file(FOLDER / f"{name}.safetensors")
    path = as_saved_by(how, state, tmp_path / "nnet_ema.pth")
    network = load_any(path, **config_of(name))
    assert same_weights(network, state)
    assert not network.training
    assert sum(parameter.numel() for parameter in network.parameters()) == facts(name)["n_params"]


@pytest.mark.reference
def test_every_kind_is_recorded():
    kinds = {load_any(FOLDER / f"{name}.safetensors", **config_of(name)).config.kind for name in TINY}
    assert kinds == set(CONFIGS)


@pytest.mark.reference
def test_logits_of_a_loaded_checkpoint_are_the_recorded_ones(tmp_path):
    path = tmp_path / "nnet_ema.pth"
    torch.save(load_file(FOLDER / "enat_tiny.safetensors"), path)
    network = load_official(path, **config_of("enat_tiny")).double()
    chain = sorted(facts("enat_tiny")["chains"])[0]
    found = {key: torch.from_numpy(value) for key, value in arrays("enat_tiny").items() if key.startswith(f"{chain}/")}
    with torch.no_grad():
        state = network(found[f"{chain}/0/ids"], found[f"{chain}/0/masking"], found[f"{chain}/context"].reshape(-1))
    assert_close(network.logits(state.features_BLD), found[f"{chain}/0/logits_f64"], ATOL_FLOAT64, "logits")


@pytest.mark.parametrize("kind", CONFIGS)
def test_official_files_round_trip_bit_by_bit(kind, tmp_path):
    network = network_of(kind)
    path = tmp_path / "nnet_ema.pth"
    save_official(path, network)
    plain = torch.load(path, weights_only=True)
    assert list(plain) == list(network.state_dict())
    assert type(plain) is dict
    again = load_any(path)
    assert again.config == network.config
    assert same_weights(again, network.state_dict())
    save_official(tmp_path / "second.pth", again)
    assert (tmp_path / "second.json").read_bytes() == path.with_suffix(".json").read_bytes()
    assert same_weights(network, torch.load(tmp_path / "second.pth", weights_only=True))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "nnet_ema.json",
        "nnet_ema.pth",
        "second.json",
        "second.pth",
    ]


@pytest.mark.parametrize("kind", CONFIGS)
def test_own_files_load_by_the_same_call(kind, tmp_path):
    network = network_of(kind)
    save_network(tmp_path / "ours.safetensors", network)
    again = load_any(tmp_path / "ours.safetensors")
    assert again.config == network.config
    assert same_weights(again, network.state_dict())
    with pytest.raises(CheckpointError, match="holds another network"):
        load_any(tmp_path / "ours.safetensors", preset("ENAT-L"))


def test_a_loaded_network_trains_as_a_built_one(tmp_path):
    network = network_of("enat")
    save_official(tmp_path / "nnet_ema.pth", network)
    again = load_official(tmp_path / "nnet_ema.pth")
    trained = {name for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("prev_embedder") for name in trained)


def test_the_latest_of_several_folders_is_taken(tmp_path):
    for step in (900, 10000):
        folder = tmp_path / f"{step}.ckpt"
        folder.mkdir()
        save_official(folder / "nnet_ema.pth", network_of(seed=step))
    assert same_weights(load_any(tmp_path), network_of(seed=10000).state_dict())


@given(
    st.builds(
        ENATConfig,
        num_tokens=st.integers(1, 9),
        codebook_size=st.integers(1, 5),
        num_classes=st.integers(1, 4),
        width=st.sampled_from([4, 8]),
        heads=st.sampled_from([1, 2]),
        encoder_blocks=st.integers(0, 2),
        decoder_blocks=st.integers(1, 2),
        mlp_ratio=st.sampled_from([1.0, 2.5, 4.0]),
    )
    | st.builds(
        UViTConfig,
        num_tokens=st.integers(1, 9),
        codebook_size=st.integers(1, 5),
        num_classes=st.integers(1, 4),
        width=st.sampled_from([4, 8]),
        heads=st.sampled_from([1, 2]),
        blocks=st.sampled_from([1, 3, 5]),
        mlp_ratio=st.sampled_from([1.0, 2.5, 4.0]),
        qkv_bias=st.booleans(),
    )
    | st.builds(
        TextUViTConfig,
        num_tokens=st.integers(1, 9),
        codebook_size=st.integers(1, 5),
        width=st.sampled_from([4, 8]),
        heads=st.sampled_from([1, 2]),
        blocks=st.sampled_from([1, 3]),
        context_tokens=st.integers(1, 4),
        context_width=st.integers(1, 6),
        qkv_bias=st.booleans(),
    )
)
@settings(max_examples=30, deadline=None)
def test_sizes_are_read_off_the_shapes(config):
    with torch.device("meta"):
        state = build_network(config).state_dict()
    told = {
        name: getattr(config, name) for name in ("heads", "encoder_blocks", "context_tokens") if hasattr(config, name)
    }
    assert configuration_of(state, "file", **told) == config


@pytest.mark.parametrize("name", ["ENAT-L", "ENAT-L-512", "AutoNAT-S", "AutoNAT-L", "MUSE-CC3M"])
def test_the_preset_of_the_same_shapes_tells_the_rest(name):
    with torch.device("meta"):
        state = build_network(preset(name)).state_dict()
    assert configuration_of(state, "file") == preset(name)


def test_a_guess_is_not_taken_for_a_fact():
    with torch.device("meta"):
        state = build_network(preset("ENAT-XL")).state_dict()
    with pytest.raises(CheckpointError, match="does not tell its heads and encoder_blocks"):
        configuration_of(state, "file")
    assert configuration_of(state, "file", heads=16, encoder_blocks=20).decoder_blocks == 8


def test_what_shapes_do_not_tell_is_asked_for(tmp_path):
    path = tmp_path / "nnet_ema.pth"
    torch.save(network_of("enat").state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"nnet_ema\.pth.*3 blocks of width 16.*heads and encoder_blocks: give them"
    ):
        load_official(path)
    with pytest.raises(CheckpointError, match="does not tell its encoder_blocks: give it"):
        load_official(path, heads=2)
    for told in (
        {"heads": 3, "encoder_blocks": 2},
        {"heads": 2, "encoder_blocks": 3},
        {"heads": 0, "encoder_blocks": 2},
    ):
        with pytest.raises(CheckpointError, match=r"nnet_ema\.pth does not fit what was given"):
            load_official(path, **told)
    assert load_official(path, heads=2, encoder_blocks=2).config == CONFIGS["enat"]


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle2", "pickle5", "whole network"])
def test_unsafe_pickles_are_refused(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "nnet_ema.pth"
    content = {**network_of().state_dict(), "extra": Harmful()}
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps({"extra": Harmful()}, protocol=int(how[-1])))
    elif how == "whole network":
        torch.save(network_of(), path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    for load in (load_official, load_any, read_state_dict):
        with pytest.raises(CheckpointError, match=r"nnet_ema\.pth is refused: its pickle asks for") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    if how in ("zip", "legacy"):
        assert "posix.mkdir" in str(caught.value) or "nt.mkdir" in str(caught.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=15, deadline=None)
def test_truncated_files(how, share, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "nnet_ema.pth"
    if how == "safetensors":
        save_tensors(path, network_of().state_dict(), {})
    else:
        torch.save(network_of().state_dict(), path, _use_new_zipfile_serialization=how == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"nnet_ema\.pth") as caught:
        load_any(path, CONFIGS["enat"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, this is text", "cut off, damaged or no PyTorch checkpoint"),
        (b"\x89PNG\r\n" + bytes(99), "cut off, damaged or no PyTorch checkpoint"),
        (b"", "cut off, damaged or no PyTorch checkpoint"),
        (285000, "holds no state dict but a value of type int"),
        ({}, "holds no state dict"),
        ({"state": {}, "param_groups": []}, "its entry 'state' is a dict"),
        ({"a": torch.zeros(2)}, "holds neither an ENAT nor a U-ViT"),
        ({"x_embedder.word_embeddings.weight": torch.zeros(3)}, "holds neither an ENAT nor a U-ViT"),
        ({"x_embedder.word_embeddings.weight": torch.zeros(3, 2, dtype=torch.int64)}, "not weights"),
    ],
)
def test_files_that_are_something_else(content, message, tmp_path):
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"file\.pth.*{message}") as caught:
        load_any(path)
    assert "\n" not in str(caught.value)


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_any(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match=r"holds no nnet_ema\.pth"):
        load_any(tmp_path)
    if os.geteuid():
        (tmp_path / "closed.pth").write_bytes(b"x")
        (tmp_path / "closed.pth").chmod(0)
        with pytest.raises(CheckpointError, match="cannot read"):
            load_any(tmp_path / "closed.pth")


def test_a_checkpoint_of_another_size(tmp_path):
    path = tmp_path / "nnet_ema.pth"
    torch.save(network_of("enat").state_dict(), path)
    for config in (
        tiny_config(width=32),
        tiny_config(decoder_blocks=2),
        tiny_config(encoder_blocks=1),
        CONFIGS["uvit"],
    ):
        with pytest.raises(
            CheckpointError, match=r"nnet_ema\.pth is of another size than the network asked for: "
        ) as caught:
            load_official(path, config)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", '{"network": 3}', '{"network": {"kind": "vae"}}', '{"network": {"width": -1}}', "[" * 9999]
)
def test_a_damaged_description_beside_the_file(text, tmp_path):
    path = tmp_path / "nnet_ema.pth"
    save_official(path, network_of())
    path.with_suffix(".json").write_text(text)
    with pytest.raises(CheckpointError, match=r"nnet_ema\.json does not describe the network of nnet_ema\.pth"):
        load_official(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"model_type": "other"}'])
def test_somebody_elses_description_is_left_alone(text, tmp_path):
    path = tmp_path / "nnet_ema.pth"
    torch.save(network_of().state_dict(), path)
    path.with_suffix(".json").write_text(text)
    assert load_official(path, heads=2, encoder_blocks=2).config == CONFIGS["enat"]


def test_what_is_told_counts_more_than_the_description_beside(tmp_path):
    path = tmp_path / "nnet_ema.pth"
    save_official(path, network_of())
    assert json.loads(path.with_suffix(".json").read_text())["network"]["heads"] == 2
    assert load_official(path, heads=4).config.heads == 4


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "nnet_ema.pth"
    save_official(path, network_of(seed=1))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_official(path, network_of(seed=2))
    assert same_weights(load_official(path), network_of(seed=1).state_dict())
    assert not list(tmp_path.glob(".*"))
