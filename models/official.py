"""Checkpoints of the official repositories, read and written, and one loader for every checkpoint of a network.

ENAT (LeapLabTHU/ENAT), AutoNAT (LeapLabTHU/ImprovedNAT) and MUSE (nzl-thu/MUSE, baaivision/MUSE-Pytorch) publish
``nnet_ema.pth``: a pickled state dict, with a ``module.`` prefix where a distributed run saved it. Their trainers keep
folders ``<step>.ckpt`` of nnet.pth, nnet_ema.pth, optimizer.pth, lr_scheduler.pth and step.pth. Module names here are
the official ones, so only the prefix and buffers of position numbers have to go.

A state dict does not say everything: the number of heads leaves no trace in it, nor does where ENAT's encoder ends and
its decoder begins, nor how many tokens a caption has. A configuration beside the file, the caller, or a preset of the
same shapes must tell.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from models.checkpoint import CheckpointError, load_network, load_tensors
from models.enat import ENATConfig
from models.networks import NetworkConfig, build_network, network_config
from models.pickles import unpickled
from models.presets import PRESETS
from models.uvit import TextUViTConfig, UViTConfig
from models.whole_files import whole_file

# What the shapes of a network's tensors do not tell, by its kind.
UNTOLD = {"enat": ("heads", "encoder_blocks"), "uvit": ("heads",), "uvit_text": ("heads", "context_tokens")}


def load_any(
    path: Path, config: NetworkConfig | None = None, *, device: torch.device | str = "cpu", **told: int
) -> Any:
    """The network of a checkpoint, in evaluation mode: a safetensors file of ours, an official file, or an official
    training folder. Arguments as in ``load_official``; a file of ours brings its own configuration, and is refused
    where `config` is another. Raises CheckpointError."""
    path = Path(path)
    if path.is_file() and _is_safetensors(path) and "network" in load_tensors(path)[1]:
        network = load_network(path, device)
        if config is not None and network.config != config:
            raise CheckpointError(f"{path} holds another network than the one asked for: {network.config}")
        return network
    return load_official(path, config, **told).to(device)


def load_official(path: Path, config: NetworkConfig | None = None, **told: int) -> Any:
    """The network of an official checkpoint, in evaluation mode, float32.

    path: a state dict (.pth, or safetensors with official names), a folder ``<step>.ckpt``, or a folder of those, of
    which the latest is taken; the averaged weights (nnet_ema) in each case. config: where None, that of the file
    ``<name>.json`` beside it (``save_official`` writes one), else ``configuration_of`` the tensors and `told`.
    Raises CheckpointError for a file that is none, does not fit, or leaves something open.
    """
    path = weights_file(Path(path))
    state = read_state_dict(path)
    if config is None:
        config = _configuration_beside(path, told) or configuration_of(state, path, **told)
    with torch.device("meta"):
        network = build_network(config)
    _check_shapes(network, state, path)
    trained = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(trained[name])
    return network.eval()


def save_official(path: Path, network: Any) -> None:
    """Write a network's state dict under its official names, as the official code loads it (.pth), and its
    configuration as ``<name>.json`` beside it. Each file is whole or absent. Raises OSError."""
    path = Path(path)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    described = json.dumps({"network": network.config.to_dict()}, indent=2, sort_keys=True) + "\n"
    _write(path.with_suffix(".json"), lambda handle: handle.write(described.encode()))
    _write(path, lambda handle: torch.save(state, handle))


def weights_file(path: Path) -> Path:
    """The file of averaged weights that a path leads to. Raises CheckpointError where there is none."""
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}")
    if path.is_file():
        return path
    steps = {
        int(folder.stem.split("-")[-1]): folder
        for folder in path.glob("*.ckpt")
        if folder.is_dir() and folder.stem.split("-")[-1].isdecimal()
    }
    folder = steps[max(steps)] if steps else path
    found = folder / "nnet_ema.pth"
    if not found.is_file():
        raise CheckpointError(f"the folder {folder} holds no nnet_ema.pth, as an official training's checkpoint does")
    return found


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by official name, without ``module.`` and without buffers of position numbers.

    Raises CheckpointError, as ``models.pickles.unpickled`` does, and where the file holds no state dict.
    """
    content = load_tensors(path)[0] if _is_safetensors(path) else unpickled(path)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict but a value of type {type(content).__name__}")
    state = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} holds no state dict: its entry {name!r} is a {type(tensor).__name__}")
        if "position_ids" in name:
            continue
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} holds numbers of type {tensor.dtype}, not weights")
        state[name.removeprefix("module.")] = tensor
    return state


def configuration_of(state: Mapping[str, Tensor], path: Path, **told: int) -> NetworkConfig:
    """The configuration of a state dict, read off its shapes.

    told: what shapes do not tell, see UNTOLD; where left out, from the preset of the same shapes, unless that preset
    only guesses it. Raises CheckpointError, which says what to give, where something stays open.
    """
    try:
        sizes = _sizes(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} holds neither an ENAT nor a U-ViT nor a text-conditional U-ViT (its tensors lack {error})"
        ) from error
    for known in PRESETS.values():
        if _same_weights(known.config, sizes):
            from_preset = {
                name: getattr(known.config, name) for name in UNTOLD[sizes.kind] if name not in known.guessed
            }
            told = {**from_preset, **told}
    missing = [name for name in UNTOLD[sizes.kind] if name not in told]
    if missing:
        raise CheckpointError(
            f"{path} ({_blocks(sizes)} blocks of width {sizes.width}) has the size of no preset and does not tell its "
            f"{' and '.join(missing)}: give {'it' if len(missing) == 1 else 'them'}"
        )
    if "encoder_blocks" in told:
        told["decoder_blocks"] = _blocks(sizes) - told["encoder_blocks"]
    try:
        return network_config(sizes.to_dict() | told)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} does not fit what was given for it: {error}") from error


def _sizes(state: Mapping[str, Tensor]) -> NetworkConfig:
    """All that shapes tell: as if there were one head, one token a caption, and no encoder."""

    def rows(name: str) -> int:
        return state[name].shape[0]

    def blocks(prefix: str) -> int:
        return len({name.split(".")[1] for name in state if name.startswith(prefix + ".")})

    if "x_embedder.word_embeddings.weight" in state:
        width = state["x_embedder.word_embeddings.weight"].shape[1]
        return ENATConfig(
            num_tokens=rows("x_embedder.position_embeddings.weight"),
            codebook_size=rows("x_embedder.word_embeddings.weight") - 1,
            num_classes=rows("y_embedder.embedding_table.weight") - 1,
            width=width,
            heads=1,
            encoder_blocks=0,
            decoder_blocks=blocks("blocks"),
            mlp_ratio=rows("blocks.0.mlp.fc1.weight") / width,
        )
    width = state["token_emb.word_embeddings.weight"].shape[1]
    shared: dict[str, Any] = {
        "num_tokens": rows("token_emb.position_embeddings.weight"),
        "codebook_size": rows("token_emb.word_embeddings.weight") - 1,
        "width": width,
        "heads": 1,
        "blocks": blocks("in_blocks") + 1 + blocks("out_blocks"),
        "mlp_ratio": rows("mid_block.mlp.fc1.weight") / width,
        "qkv_bias": "mid_block.attn.qkv.bias" in state,
    }
    if "context_embed.word_embeddings.weight" in state:
        return UViTConfig(num_classes=rows("context_embed.word_embeddings.weight") - 1, **shared)
    return TextUViTConfig(context_tokens=1, context_width=state["context_embed.weight"].shape[1], **shared)


def _blocks(config: NetworkConfig) -> int:
    return config.encoder_blocks + config.decoder_blocks if isinstance(config, ENATConfig) else config.blocks


def _same_weights(known: NetworkConfig, sizes: NetworkConfig) -> bool:
    """Whether two configurations have the same parameters, whatever shapes do not tell."""
    aside = {"heads", "encoder_blocks", "decoder_blocks", "decoder_attention", "context_tokens"}
    aside |= {"embedding_std", "initial_positions", "reuse"}
    rest = [{key: value for key, value in config.to_dict().items() if key not in aside} for config in (known, sizes)]
    return rest[0] == rest[1] and _blocks(known) == _blocks(sizes)


def _configuration_beside(path: Path, told: dict[str, int]) -> NetworkConfig | None:
    described = path.with_suffix(".json")
    if not described.is_file():
        return None
    try:
        content = json.loads(described.read_text())
        if not isinstance(content, dict) or "network" not in content:
            return None  # somebody else's file
        return network_config(content["network"] | told)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{described} does not describe the network of {path.name}: {error}") from error


def _check_shapes(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    wrong = [
        f"{name} is {tuple(state[name].shape)} in the file and {shape} in the network"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    wrong += [f"{name} is missing" for name in expected if name not in state]
    wrong += [f"{name} is unknown to the network" for name in state if name not in expected]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckpointError(f"{path} is of another size than the network asked for: {wrong[0]}{more}")


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of length, then a JSON header."""
    try:
        with open(path, "rb") as handle:
            return handle.read(9)[8:] == b"{"
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def _write(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    with whole_file(path) as temporary, open(temporary, "wb") as handle:
        fill(handle)
