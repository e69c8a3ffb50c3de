"""Published and own files of a VQGAN. Nothing in a file is executed."""

from pathlib import Path
from typing import Any

import torch

from models.checkpoint import CheckpointError, load_tensors, save_tensors
from models.pickles import unpickled
from models.vqgan import VQGAN, VQGANConfig

# What training leaves in a checkpoint beside the tokenizer: the perceptual loss, the discriminator.
NOT_THE_TOKENIZER = ("loss.", "discriminator.", "colorize")


def load_vqgan(path: Path, config: VQGANConfig | None = None) -> VQGAN:
    """The network of ``vqgan_jax_strongaug.ckpt``, of a Lightning checkpoint around such weights, or of safetensors.

    Sizes come from the tensors; with ``config`` they must be those. Returned in evaluation mode, frozen, on the CPU.
    Raises CheckpointError, which names the file, for anything else.
    """
    if path.suffix == ".safetensors":
        tensors, _ = load_tensors(path)
    else:
        tensors = _state_dict(path, unpickled(path))
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(NOT_THE_TOKENIZER)}
    try:
        found = VQGANConfig.of(tensors)
        if config is not None and found != config:
            raise ValueError(f"its sizes are {found}, expected {config}")
        network = VQGAN(found)
        network.load_state_dict(tensors)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of MaskGIT's VQGAN: {' '.join(str(error).split())}"
        ) from error
    return network.eval().requires_grad_(False)


def save_vqgan(path: Path, network: VQGAN) -> None:
    """Write a safetensors file with the official key names and the configuration in its header."""
    save_tensors(path, network.state_dict(), {"network": network.config.to_dict()})


def _state_dict(path: Path, content: Any) -> dict[str, torch.Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no state dict")
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()):
        raise CheckpointError(f"{path} holds something beside tensors where its state dict should be")
    return dict(content)
