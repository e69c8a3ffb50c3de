"""Training a network on tokens (ENAT, arXiv 2411.06959, section 4; MaskGIT's objective).

B images a batch, L tokens, K codes. Every random choice has an address (seed, step), so a training resumed from its
last checkpoint ends in the same bits as one that was never interrupted.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.checkpoint import build_network
from models.compiled import compiled
from models.determinism import in_one_order
from models.mask_ratio import MaskRatio
from models.masking import draw_masked_counts, extra_masked_count, mask_from_uniform, mask_further
from models.networks import NetworkConfig
from models.random_streams import stream
from models.ranks import ALONE, Ranks
from models.training_state import adamw, optimiser_tensors, put_down, take_up, warm_cosine


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How a network is trained.

    learning_rate rises linearly over `warmup_steps` and then stays (`decay: constant`) or falls to 0 along a cosine.
    ratio_groups: a batch is cut into that many groups, each with one mask ratio: the official code draws one ratio a
    call and GPU, so 8 GPUs give 8 ratios a step.
    reuse_probability: how often a batch is preceded by a pass with further tokens masked, whose features it reuses.
    class_dropout: how often a label is replaced by the null class, which guidance needs.
    checkpoint_every_steps, checkpoint_every_minutes: how often the state is written to disk, whichever comes first;
    neither changes the result.
    devices: of one machine, each of which takes its share of every batch's groups and so of every batch. The result is
    that of one device up to the order in which gradients are added.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    steps: int = 300_000
    batch_size: int = 2048
    learning_rate: float = 4e-4
    warmup_steps: int = 5_000
    decay: str = "constant"
    weight_decay: float = 0.03
    adam_beta1: float = 0.9
    adam_beta2: float = 0.96
    ema_decay: float = 0.9999
    label_smoothing: float = 0.1
    class_dropout: float = 0.1
    reuse_probability: float = 0.5
    ratio_groups: int = 8
    checkpoint_every_steps: int = 1_000
    checkpoint_every_minutes: float = 5.0
    devices: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "ratio_groups", "checkpoint_every_steps", "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.checkpoint_every_minutes > 0:
            raise ValueError(f"checkpoint_every_minutes must be positive, got {self.checkpoint_every_minutes}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("weight_decay", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("label_smoothing", "class_dropout", "reuse_probability", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.batch_size % self.ratio_groups:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of ratio_groups {self.ratio_groups}")
        if self.ratio_groups % self.devices:
            raise ValueError(f"ratio_groups {self.ratio_groups} is not a multiple of devices {self.devices}")
        if self.decay not in ("constant", "cosine"):
            raise ValueError(f"decay must be 'constant' or 'cosine', got {self.decay!r}")


class DivergedError(ValueError):
    """A training whose loss is no longer a number."""


def learning_rate_at(config: TrainingConfig, step: int) -> float:
    """The learning rate of step 0, 1, ..."""
    if config.decay == "constant" and step >= config.warmup_steps:
        return config.learning_rate
    return warm_cosine(config.learning_rate, step, config.warmup_steps, config.steps)


def batch_indices(num_images: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Which images step `step` uses: the data set in a new order every epoch, every image once an epoch."""
    position = np.arange(step * batch_size, (step + 1) * batch_size)
    epoch, offset = position // num_images, position % num_images
    indices = np.empty(batch_size, dtype=np.int64)
    for value in np.unique(epoch):
        chosen = epoch == value
        indices[chosen] = _epoch_order(num_images, seed, int(value))[offset[chosen]]
    return indices


@lru_cache(maxsize=2)  # a batch may begin in one epoch and end in the next; sorting a million takes longer than a step
def _epoch_order(num_images: int, seed: int, epoch: int) -> np.ndarray:
    return np.argsort(stream(seed, "epoch", epoch).random(num_images), kind="stable")


def masked_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy over tokens whose target is not -1, with label smoothing a: (1 - a) nll + a mean_k(-log p_k).

    logits [..., K], targets int64 [...].
    """
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=-1, label_smoothing=label_smoothing)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; to a GPU from pinned memory, which nothing waits for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _group_loss(
    network: Any,
    average: Any,
    tokens_BL: Tensor,
    labels_B: Tensor,
    mask_ratio: MaskRatio,
    config: TrainingConfig,
    generator: np.random.Generator,
) -> Tensor:
    batch, length = tokens_BL.shape
    # ENAT computes visible and masked tokens apart and needs one count for the group; others have one an image, and
    # may have everything masked (official ImprovedNAT).
    one_count = network.needs_one_count
    counts_B = draw_masked_counts(mask_ratio, 1 if one_count else batch, length, generator, keep_one_visible=one_count)
    count = int(counts_B[0])
    reuse, extra_uniform = generator.random() < config.reuse_probability, generator.random()
    uniform_BL = torch.from_numpy(generator.random((batch, length)))
    further_BL = torch.from_numpy(generator.random((batch, length)))
    dropped_B = torch.from_numpy(generator.random(batch)) < config.class_dropout

    device = tokens_BL.device
    mask_BL = mask_from_uniform(uniform_BL, torch.as_tensor(counts_B).expand(batch))
    masked_BL = sent(mask_BL, device)
    labels_B = labels_B.masked_fill(sent(dropped_B, device), network.null_class)
    if not one_count:
        features_BLD = network(tokens_BL, masked_BL, labels_B).features_BLD
        places_M = sent(mask_BL.flatten().nonzero()[:, 0], device)  # found on the host: nothing waits for the device
        logits = network.logits(features_BLD.flatten(0, 1)[places_M][None])[0]
        return masked_cross_entropy(logits, tokens_BL.flatten()[places_M], config.label_smoothing)
    reused = None
    if reuse:
        extra = extra_masked_count(length - count, float(extra_uniform))
        earlier_BL = mask_further(masked_BL, sent(further_BL, device), extra)
        with torch.no_grad():
            reused = average(tokens_BL, earlier_BL, labels_B, None, count + extra)
    state = network(tokens_BL, masked_BL, labels_B, reused, count)
    # The loss is over masked tokens alone; their number is known, so that nothing waits for the device.
    masked_BM = torch.argsort(masked_BL.long(), dim=1, descending=True, stable=True)[:, :count]
    features = state.features_BLD.gather(1, masked_BM[..., None].expand(-1, -1, state.features_BLD.shape[-1]))
    return masked_cross_entropy(network.logits(features), tokens_BL.gather(1, masked_BM), config.label_smoothing)


def train(
    network_config: NetworkConfig,
    config: TrainingConfig,
    mask_ratio: MaskRatio,
    tokens_NL: Tensor,
    labels_N: Tensor,
    seed: int,
    *,
    start_from: Mapping[str, Tensor] | None = None,
    until_step: int | None = None,
    state_path: Path | None = None,
    precision: str = "float32",
    compile: bool = False,
    progress: Callable[[int, float], None] | None = None,
    progress_every: int = 50,
    ranks: Ranks = ALONE,
) -> tuple[Any, float]:
    """Train a network and return its EMA (evaluation mode) and the mean loss of the last tenth of the steps.

    tokens_NL: int64 codes, labels_N: int64 classes, on the device to train on. start_from: the state dict of a trained
    network to go on from, in place of random weights; ValueError where it does not fit. until_step: leave off after so
    many of the steps, so that a later call goes on. state_path: where the training state is kept now and then, and at
    the end: whoever has the weights in a safe place removes it. A readable one of the same training is continued, in
    the same bits. progress(step, loss)
    is called every `progress_every` steps. precision: ``float32``, or ``bfloat16`` for the
    products (torch.autocast; weights, moments and the average stay float32). compile: both networks through
    torch.compile (``models.compiled``). ranks: the processes that train together, each calling this; start_from,
    state_path and progress are for rank 0 alone. Raises DivergedError where the loss is no longer a number.
    """
    end = config.steps if until_step is None else until_step
    if not 1 <= end <= config.steps:
        raise ValueError(f"until_step must lie in 1 to {config.steps}, got {end}")
    device = in_one_order(tokens_NL.device)
    network = build_network(network_config).initialise(torch.Generator().manual_seed(seed)).to(device).train()
    if start_from is not None:
        try:
            network.load_state_dict(start_from)
        except RuntimeError as error:
            raise ValueError(f"the weights to start from do not fit the network: {error}") from error
    average = build_network(network_config).to(device).eval()
    average.load_state_dict(network.state_dict())
    average.requires_grad_(False)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    # The same parameters as plain tensors, for the moving average.
    values: list[Tensor] = list(trained)
    if compile:
        compiled(network)
        compiled(average)
    averaged: list[Tensor] = [
        parameter for name, parameter in average.named_parameters() if not name.startswith("prev_embedder")
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    optimiser = adamw(trained, config.learning_rate, betas, config.weight_decay)
    window = max(1, config.steps // 10)
    losses_W = torch.zeros(window, dtype=torch.float64, device=device)  # of the last steps, each at its step modulo W

    def state() -> dict[str, Tensor]:
        tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
        return tensors | optimiser_tensors(optimiser) | {"losses": losses_W}

    same_result = replace(config, checkpoint_every_steps=1, checkpoint_every_minutes=1.0)
    identity = repr((network_config, same_result, mask_ratio, seed, tuple(tokens_NL.shape), precision))
    start = 0
    if state_path is not None:
        found = take_up(state_path, identity, state(), latest=end)
        if found is None:
            state_path = None  # of a later step, which others go on from
        else:
            start = found
    start = ranks.agree(start, list(state().values()))

    groups = ranks.share(config.ratio_groups)
    rows = ranks.share(config.batch_size)
    due = time.monotonic() + 60 * config.checkpoint_every_minutes
    for step in range(start, end):
        indices = sent(torch.from_numpy(batch_indices(len(tokens_NL), config.batch_size, step, seed)[rows]), device)
        tokens_BL, labels_B = tokens_NL[indices].long(), labels_N[indices]
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            losses = [
                _group_loss(network, average, tokens, labels, mask_ratio, config, stream(seed, "train", step, group))
                for group, tokens, labels in zip(
                    range(config.ratio_groups)[groups],
                    tokens_BL.chunk(config.ratio_groups // ranks.size),
                    labels_B.chunk(config.ratio_groups // ranks.size),
                    strict=True,
                )
            ]
            loss = torch.stack(losses).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        loss = ranks.averaged(loss.detach(), trained)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(config, step)
        optimiser.step()
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, values, 1 - decay)
        losses_W[step % window] = loss.double()
        done = step + 1
        if done % progress_every == 0 or done == end:
            current = float(loss)
            if not math.isfinite(current):
                raise DivergedError(f"training diverged: the loss is {current} after {done} steps; lower learning_rate")
            if progress is not None:
                progress(done, current)
        is_due = done % config.checkpoint_every_steps == 0 or time.monotonic() >= due
        if state_path is not None and (is_due or done == end):
            put_down(state_path, identity, state(), done)
            due = time.monotonic() + 60 * config.checkpoint_every_minutes
    last = torch.arange(end - max(1, end // 10), end) % window
    total = float(losses_W.cpu()[last].cumsum(0)[-1])  # added in the order of the steps
    return average, total / len(last)
