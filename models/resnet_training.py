"""Training the residual network behind FD(cifar10-resnet), as a classifier.

N images, B a batch, S pixels a side, D features. What a step sees has an address (seed, epoch): random_streams.py.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from models.determinism import in_one_order
from models.random_streams import stream
from models.resnet import ResNet, ResNetConfig, folded, initialise
from models.train import sent

# Images that are measured at once after training.
EVALUATION_BATCH = 500


@dataclass(frozen=True, slots=True)
class ResNetTraining:
    """Stochastic gradient descent with Nesterov's momentum under one cycle of the learning rate (Smith & Topin, 2018):
    up along a line for `rising_share` of the steps, then down to 0 along a line.

    learning_rate: of a batch's mean loss, at its highest. crop_padding: images are shifted by up to so many pixels each
    way, with the border mirrored, and half of them flipped. precision: of the products, ``float32`` or ``bfloat16``.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.15
    rising_share: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    crop_padding: int = 4
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, got {self.batch_size}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        for name in ("rising_share", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must not be negative, got {self.crop_padding}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, got {self.precision!r}")


class LabelledImages(NamedTuple):
    """Images uint8 [N, 3, S, S] and their classes int64 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def sha256(self) -> str:
        """Of the pixels and the classes, whatever file they came from."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).tobytes())
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is. loss: of the last step."""

    step: int
    steps: int
    loss: float
    seconds: float


def learning_rate_at(config: ResNetTraining, step: int, steps: int) -> float:
    """The learning rate of step 0, 1, ... of `steps`."""
    rising = config.rising_share * steps
    done = step + 0.5
    share = done / rising if done < rising else (steps - done) / (steps - rising)
    return config.learning_rate * share


def train_resnet(
    network_config: ResNetConfig,
    config: ResNetTraining,
    data: LabelledImages,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    progress_every: int = 20,
) -> ResNet:
    """The trained network, folded, on the CPU, its features scaled to trace D on the training images.

    Raises ValueError where there are fewer images than one batch holds, or the loss is no longer a number.
    """
    device = in_one_order(torch.device(device))
    if len(data.images) < config.batch_size:
        raise ValueError(f"{len(data.images)} training images are fewer than one batch of {config.batch_size}")
    network = initialise(ResNet(network_config, folded=False), torch.Generator().manual_seed(seed))
    _take_pixels_in(network, data.images)
    network = network.to(memory_format=torch.channels_last).to(device).train()
    images_NHWC = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 2, 3, 1))).to(device)
    labels_N = torch.from_numpy(data.labels).to(device)
    # Scales and shifts of normalisation and biases are not decayed.
    groups = [
        {"params": [value for value in network.parameters() if value.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [value for value in network.parameters() if value.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0)
    epoch_steps = len(labels_N) // config.batch_size
    steps = epoch_steps * config.epochs
    started = time.monotonic()
    for step in range(steps):
        epoch, place = divmod(step, epoch_steps)
        if place == 0:
            views = epoch_views(seed, epoch, len(labels_N), data.images.shape[2], config.crop_padding)
        chosen = slice(place * config.batch_size, (place + 1) * config.batch_size)
        index_B, rows_BS, columns_BS = (sent(torch.from_numpy(part[chosen]), device) for part in views)
        batch_BHWC = images_NHWC[index_B[:, None, None], rows_BS[:, :, None], columns_BS[:, None, :]]
        normalised = network.normalised(batch_BHWC.permute(0, 3, 1, 2))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = F.cross_entropy(network(normalised), labels_N[index_B], label_smoothing=config.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(config, step, steps)
        optimiser.step()
        if (step + 1) % progress_every == 0 or step + 1 == steps:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ValueError(f"the loss is {value} at step {step + 1}: the learning rate is too high")
            on_progress(Progress(step + 1, steps, value, time.monotonic() - started))
    trained = folded(network).to(device)
    _scale(trained, data.images)
    return trained.cpu()


def epoch_views(seed: int, epoch: int, num_images: int, size: int, padding: int) -> tuple[np.ndarray, ...]:
    """An epoch's order of images [N], and which rows [N, S] and columns [N, S] of each are seen: shifted, mirrored at
    the border, half of them flipped."""
    draw = stream(seed, "resnet epoch", epoch)
    order = draw.permutation(num_images)
    mirrored = np.pad(np.arange(size), padding, mode="reflect" if padding < size else "edge")
    shifts = draw.integers(2 * padding + 1, size=(2, num_images, 1))
    rows, columns = (mirrored[shift + np.arange(size)] for shift in shifts)
    flipped = draw.random(num_images) < 0.5
    columns[flipped] = columns[flipped, ::-1]
    return order, rows, columns


def _take_pixels_in(network: ResNet, images: np.ndarray) -> None:
    """Mean and spread of each colour over all pixels; a colour that never changes keeps a spread of one."""
    for colour in range(3):
        plane = images[:, colour]
        network.pixel_mean[colour] = float(plane.mean(dtype=np.float64))
        network.pixel_spread[colour] = max(1.0, float(plane.std(dtype=np.float64)))


@torch.inference_mode()
def _scale(network: ResNet, images: np.ndarray) -> None:
    batches = torch.from_numpy(images).split(EVALUATION_BATCH)
    features_ND = torch.cat([network.features(batch.to(network.scale.device)) for batch in batches]).double()
    spread = features_ND.var(dim=0).sum()
    if not (torch.isfinite(spread) and spread > 0):
        raise ValueError("the trained features are the same for every image: train longer, or at a lower learning rate")
    network.scale.copy_((network.config.dimensions / spread).sqrt())


@torch.inference_mode()
def accuracy(network: ResNet, data: LabelledImages) -> float:
    """The share of images that the network, on whatever device, gives their class."""
    right, device = 0, network.scale.device
    for images, labels in zip(
        torch.from_numpy(data.images).split(EVALUATION_BATCH),
        torch.from_numpy(data.labels).split(EVALUATION_BATCH),
        strict=True,
    ):
        right += int((network(network.normalised(images.to(device))).argmax(1).cpu() == labels).sum())
    return right / len(data.labels)
