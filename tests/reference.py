"""Reads the recordings of the official codes: tests/golden, or the folder that AUTONAT_REFERENCE names.

Every name, shape and size comes from the files, so a folder with other sizes serves as well.
"""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from models.checkpoint import load_weights
from models.enat import ENAT, ENATConfig
from models.networks import build_network
from models.uvit import TextUViTConfig, UViTConfig

FOLDER = Path(os.environ.get("AUTONAT_REFERENCE") or Path(__file__).parent / "golden")

# Largest differences that rounding explains, by what is compared: twenty times what was measured and more of float64, a
# few times that of float32.
ATOL_FLOAT64 = 1e-12
ATOL_LOGITS = {torch.float32: 3e-5, torch.float64: ATOL_FLOAT64}
ATOL_GUIDED = {torch.float32: 6e-5, torch.float64: ATOL_FLOAT64}
ATOL_TRACE = 5e-5
ATOL_MUSE_TRACE = 2e-4  # guidance up to 9.2


@cache
def facts(name):
    """The JSON file of a recording; empty where there is none."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


@cache
def arrays(name):
    """All arrays of a recording; none where there is no file."""
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


class Recorded:
    """The arrays below one prefix, as tensors."""

    def __init__(self, name, prefix):
        self._arrays, self._prefix = arrays(name), prefix

    def __contains__(self, key):
        return f"{self._prefix}/{key}" in self._arrays

    def __iter__(self):
        prefix = f"{self._prefix}/"
        return (key.removeprefix(prefix) for key in self._arrays if key.startswith(prefix))

    def __getitem__(self, key):
        return torch.from_numpy(self._arrays[f"{self._prefix}/{key}"])


@cache
def enat_config(name="enat_tiny"):
    config = facts(name)["config"]
    encoder_blocks, decoder_blocks = config["enc_dec"]
    return ENATConfig(
        num_tokens=config["input_size"] ** 2,
        codebook_size=config["codebook_size"],
        num_classes=config["num_classes"],
        width=config["hidden_size"],
        heads=config["num_heads"],
        encoder_blocks=encoder_blocks,
        decoder_blocks=decoder_blocks,
        mlp_ratio=config.get("mlp_ratio", 4.0),
    )


def enat_weights(name="enat_tiny"):
    return load_file(FOLDER / f"{name}.safetensors")


@cache
def enat_network(name="enat_tiny", dtype=torch.float64):
    network = ENAT(enat_config(name))
    load_weights(network, FOLDER / f"{name}.safetensors")
    return network.eval().to(dtype)


def uvit_config(name):
    """The configuration of a U-ViT, class- or text-conditional."""
    config = facts(name)["config"]
    sizes = {
        "num_tokens": config["img_size"] ** 2,
        "codebook_size": config["codebook_size"],
        "width": config["embed_dim"],
        "heads": config["num_heads"],
        "blocks": config["depth"] + 1,
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "qkv_bias": config.get("qkv_bias", False),
    }
    if "clip_dim" in config:
        return TextUViTConfig(**sizes, context_tokens=config["num_clip_token"], context_width=config["clip_dim"])
    return UViTConfig(**sizes, num_classes=config["num_classes"] - 1)  # the null class counts there


@cache
def uvit_network(name, dtype=torch.float64):
    network = build_network(uvit_config(name))
    load_weights(network, FOLDER / f"{name}.safetensors")
    return network.eval().to(dtype)


def cases(name):
    """The prefixes of a recording's arrays that have `ids`."""
    return sorted(key.removesuffix("/ids") for key in arrays(name) if key.endswith("/ids"))


def assert_recorded(actual, recorded, key, atol):
    """Compare with the recording of the same precision, or else the float64 one. Returns what was compared."""
    candidates = [f"{key}_f64"] if actual.dtype == torch.float64 else [key, f"{key}_f64"]
    found = [name for name in candidates if name in recorded]
    if not found:
        return []
    assert_close(actual, recorded[found[0]], atol[actual.dtype], key)
    return [key]


def check_gradients(network, name, case, others=()):
    """After ``backward``: every recorded norm, which parameters have no gradient, and every recorded gradient. Returns
    what was compared as a whole. `others`: gradients of what is no parameter, by name."""
    expected = facts(name)["gradients"][case]["grad_norm"]
    gradients = {key: parameter.grad for key, parameter in network.named_parameters()}
    norms = {key: None if value is None else float(value.norm()) for key, value in gradients.items()}
    assert norms.keys() == expected.keys()
    assert {key for key in norms if norms[key] is None} == {key for key in expected if expected[key] is None}
    for key, norm in norms.items():
        assert norm is None or abs(norm - expected[key]) <= ATOL_FLOAT64 * (1 + norm), key
    gradients |= dict(others)
    prefix, compared = f"grad/{case}/", []
    for key, value in arrays(name).items():
        if key.startswith(prefix) and not key.startswith(prefix + "loss"):
            what = key.removeprefix(prefix).removesuffix("_f64")
            assert_close(gradients[what], torch.from_numpy(value), ATOL_FLOAT64, what)
            compared.append(what)
    return compared


def assert_close(actual, expected, atol, what):
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=0, atol=atol, msg=lambda message: f"{what}: {message}"
    )


def largest_cdf_gap(histogram, pmf):
    """Between the distribution functions of a histogram and of probabilities."""
    return float(np.abs(np.cumsum(histogram) / np.sum(histogram) - np.cumsum(pmf)).max())
