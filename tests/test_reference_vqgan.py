"""Equality with the official VQGAN in both directions."""

from functools import cache

import pytest
import torch
from reference import FOLDER, Recorded, assert_close, facts
from safetensors.torch import load_file

from models.vqgan import VQGAN, VQGANConfig
from models.vqgan_checkpoint import load_vqgan

pytestmark = pytest.mark.reference

NAME = "vqgan_tiny"
ATOL = {torch.float32: 5e-5, torch.float64: 1e-8}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
SHAPES = pytest.mark.parametrize("run", ["encode", "encode_rect"])


@cache
def network(dtype):
    # Loaded anew for each type: the same weights, cast.
    return load_vqgan(FOLDER / f"{NAME}.safetensors").to(dtype)


def check(recorded, key, actual, atol):
    """Against float64 where it was recorded: float32 differs from it by rounding alone. False where neither was."""
    for name in (f"{key}_f64", key):
        if name in recorded:
            assert_close(actual, recorded[name], atol if name.endswith("_f64") else max(atol, 5e-6), key)
            return True
    return False


def test_sizes_and_keys_are_the_official_ones():
    recorded = facts(NAME)
    config, sizes = recorded["config"], recorded["config"]["ddconfig"]
    assert VQGANConfig.of(load_file(FOLDER / f"{NAME}.safetensors")) == VQGANConfig(
        codebook_size=config["n_embed"],
        code_width=config["embed_dim"],
        channels=sizes["ch"],
        multipliers=tuple(sizes["ch_mult"]),
        blocks_per_level=sizes["num_res_blocks"],
        image_channels=sizes["in_channels"],
    )
    ours = network(torch.float32)
    assert {name: list(tensor.shape) for name, tensor in ours.state_dict().items()} == recorded["keys"]
    assert sum(tensor.numel() for tensor in ours.parameters()) == recorded["n_params"]
    assert ours.config.downsampling == recorded["downsample_factor"]


@DTYPES
@SHAPES
def test_encode(run, dtype):
    recorded, ours = Recorded(NAME, run), network(dtype)
    images = recorded["image"].to(dtype)
    check(recorded, "encoder_out", ours.features(images), ATOL[dtype])
    codes = ours.encode(images)
    assert torch.equal(codes, recorded["codes"])
    assert "codes_flat" not in recorded or torch.equal(codes.flatten(), recorded["codes_flat"])
    assert len(codes.unique()) > 1


@DTYPES
@SHAPES
def test_quantise_and_reconstruct(run, dtype):
    recorded, ours = Recorded(NAME, run), network(dtype)
    quant, loss = ours.quantisation_loss(ours.features(recorded["image"].to(dtype)))
    check(recorded, "quant", quant, 5e-6)  # recorded in float32 alone
    check(recorded, "loss", loss, 5e-6)
    # The straight-through form gives the codebook's entry up to rounding, and so the decoder the same image.
    assert_close(quant, ours.look_up(recorded["codes"]), 1e-6, "code vectors")
    check(recorded, "reconstruction", ours.decode(recorded["codes"]), ATOL[dtype])


@DTYPES
def test_decode(dtype):
    recorded, ours = Recorded(NAME, "decode"), network(dtype)
    assert check(recorded, "image", ours.decode(recorded["codes"]), ATOL[dtype])
    check(recorded, "quant", ours.look_up(recorded["codes"]), 0)


def test_every_kind_of_number_is_recorded_somewhere():
    assert any("encoder_out_f64" in Recorded(NAME, run) for run in ("encode", "encode_rect"))
    assert any("loss" in Recorded(NAME, run) for run in ("encode", "encode_rect"))


def test_the_published_size():
    with torch.device("meta"):
        full = VQGAN(VQGANConfig())
    modules = facts("counts").get("VQGAN-f16", {}).get("parameters_by_module", {})
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in full.named_children()}
    assert counts == (modules or {"encoder": 23775104, "decoder": 30478339, "quantize": 262144})
    assert full.config.downsampling == 16
