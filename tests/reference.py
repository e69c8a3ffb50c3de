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

FOLDER = Path(os.environ.get("AUTONAT_REFERENCE") or Path(__file__).parent / "golden")

# Largest differences of float32 that rounding explains, by what is compared; and of float64.
ATOL_LOGITS = {torch.float32: 1e-4, torch.float64: 1e-8}
ATOL_TRACE = 3e-4


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


def assert_close(actual, expected, atol, what):
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=0, atol=atol, msg=lambda message: f"{what}: {message}"
    )


def largest_cdf_gap(histogram, pmf):
    """Between the distribution functions of a histogram and of probabilities."""
    return float(np.abs(np.cumsum(histogram) / np.sum(histogram) - np.cumsum(pmf)).max())
