"""Equality with the official VQGAN in both directions."""

from functools import cache

import pytest
import torch
from reference import ATOL_FLOAT64, FOLDER, Recorded, assert_close, facts
from safetensors.torch import load_file

from models.vqgan import VQGAN, VQGANConfig
from models.vqgan_checkpoint import load_vqgan

pytestmark = pytest.mark.reference

NAME = "vqgan_tiny"
ATOL = {torch.float32: 2e-5, torch.float64: ATOL_FLOAT64}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])

# What tests/golden holds of each run and so must be compared; a fuller folder may hold more.
COMPARED = {"encode": {"codes", "loss"}, "encode_rect": {"codes", "encoder_out"}, "decode": {"image"}}


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


def compare(run, outcome):
    """Compare what the run holds of an outcome (what was computed and its tolerance, by the recording's name)."""
    recorded = Recorded(NAME, run)
    compared = {key for key, (actual, atol) in outcome.items() if check(recorded, key, actual, atol)}
    assert compared >= COMPARED[run]


@DTYPES
@pytest.mark.parametrize("run", ["encode", "encode_rect"])
def test_codes_and_what_is_recorded_on_the_way_to_them(run, dtype):
    """Square and rectangular images: the encoder's output of the one, the training loss of the other."""
    recorded, ours = Recorded(NAME, run), network(dtype)
    images = recorded["image"].to(dtype)
    features, codes = ours.features(images), ours.encode(images)
    quant, loss = ours.quantisation_loss(features)
    assert len(codes.unique()) > 1
    outcome = {
        "codes": (codes, 0),
        "encoder_out": (features, ATOL[dtype]),
        "loss": (loss, 5e-6),  # this and the next recorded in float32 alone
        "quant": (quant, 5e-6),
        "reconstruction": (ours.decode(codes), ATOL[dtype]),
    }
    compare(run, outcome)
    # The straight-through form gives the codebook's entry up to rounding, and so the decoder the same image.
    assert_close(quant, ours.look_up(recorded["codes"]), 1e-6, "code vectors")


@DTYPES
def test_images_of_recorded_codes(dtype):
    codes, ours = Recorded(NAME, "decode")["codes"], network(dtype)
    compare("decode", {"image": (ours.decode(codes), ATOL[dtype]), "quant": (ours.look_up(codes), 0)})


def test_the_published_size():
    with torch.device("meta"):
        full = VQGAN(VQGANConfig())
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in full.named_children()}
    assert counts == facts("counts")["VQGAN-f16"]["parameters_by_module"]
    assert full.config.downsampling == 16
