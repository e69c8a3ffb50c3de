"""What trainings with AdamW share: optimiser, learning rate, and a state on disk that goes on in the same bits."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import CheckpointError, load_tensors, save_tensors


def warm_cosine(peak: float, step: int, warmup_steps: int, steps: int) -> float:
    """The learning rate of step 0, 1, ...: up to `peak` along a line over `warmup_steps`, then to 0 along a cosine."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + float(np.cos(np.pi * progress)))


def adamw(
    parameters: Iterable[Tensor], learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW whose moments exist from the start, so that saving and loading need no special case."""
    parameters = list(parameters)
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)
    for parameter in parameters:
        optimiser.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimiser


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its moments and step counts by name, not copied."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    return {
        f"optimiser.{number}.{name}": value
        for number, parameter in enumerate(parameters)
        for name, value in optimiser.state[parameter].items()
    }


def put_down(path: Path, training: str, current: dict[str, Tensor], step: int) -> None:
    """Keep the state after so many steps. training: what it is the state of."""
    save_tensors(path, current, {"step": step, "training": training})


def take_up(path: Path, training: str, current: Mapping[str, Tensor], latest: int) -> int | None:
    """Copy the state that a file holds into the tensors of `current`, and return how many steps it has behind it.

    training: what the file must say it is the state of. 0 where there is no file; one that is half written, or another
    training's, is removed. None where it is further than step `latest`: it stays, and nothing is taken from it.
    """
    if not path.exists():
        return 0
    try:
        found, metadata = load_tensors(path)
        shapes = {name: value.shape for name, value in current.items()}
        if metadata.get("training") != training or {name: value.shape for name, value in found.items()} != shapes:
            raise CheckpointError(f"{path} is the state of another training")
        step = int(metadata["step"])
    except (CheckpointError, KeyError):
        path.unlink(missing_ok=True)
        return 0
    if step > latest:
        return None
    with torch.no_grad():
        for name, value in current.items():
            value.copy_(found[name])
    return step
