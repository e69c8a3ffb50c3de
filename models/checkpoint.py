"""Weights on disk: safetensors with the configuration in the file's own header. Nothing in a file is executed."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from models.networks import build_network as build_network
from models.networks import network_config
from models.whole_files import whole_file


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file."""


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
    """Write atomically: a temporary name beside the target, flushed to disk, then renamed."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with whole_file(path) as temporary:
            save_file(contiguous, temporary, metadata={"autonat": json.dumps(metadata, sort_keys=True)})
    except SafetensorError as error:  # safetensors wraps the operating system's errors, a full disk among them
        raise OSError(f"cannot write {path}: {error}") from error


def load_metadata(path: Path) -> dict[str, Any]:
    """Metadata of ``save_tensors`` alone, {} for others' files. Raises CheckpointError for what is not safetensors."""
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = json.loads((handle.metadata() or {}).get("autonat", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path} has a header that is not this project's")
    return metadata


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of ``save_tensors``. Raises CheckpointError for a file that is not one."""
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = json.loads((handle.metadata() or {}).get("autonat", "{}"))
            return {name: handle.get_tensor(name) for name in handle.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def save_network(path: Path, network: Any) -> None:
    """Weights, official key names, with the configuration (and its kind of network) in the header."""
    save_tensors(path, network.state_dict(), {"network": network.config.to_dict()})


def load_network(path: Path, device: torch.device | str = "cpu") -> Any:
    """The network of a file, of whichever kind it is, in evaluation mode. Raises CheckpointError where the file or its
    shapes are wrong."""
    tensors, metadata = load_tensors(path)
    try:
        network = build_network(network_config(metadata["network"]))
        network.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold a network of this project: {error}") from error
    return network.eval().to(device)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a plain state dict, official key names, into a network. Raises CheckpointError where it does not fit."""
    tensors, _ = load_tensors(path)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit this network: {error}") from error
