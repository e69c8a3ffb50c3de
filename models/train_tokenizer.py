"""Training the autoencoder of models/vq_autoencoder.py on images, and how well it gives them back.

B images a batch, C channels, H x W pixels, N = B h w places, D width of a code's vector, K codes. Every random choice
has an address (seed, step), so a training resumed from its last state ends in the same bits as one never interrupted.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from models.determinism import in_one_order
from models.quantizers import VectorQuantizer
from models.random_streams import stream
from models.tokenizer import Tokenizer
from models.train import batch_indices, sent
from models.training_state import adamw, optimiser_tensors, put_down, take_up, warm_cosine
from models.vq_autoencoder import AutoencoderConfig, VQAutoencoder


@dataclass(frozen=True, slots=True)
class TokenizerTraining:
    """How the autoencoder is trained: AdamW, the rate rising over `warmup_steps` and falling to 0 along a cosine.

    The loss is the pixels' mean squared error on the scale [-1, 1], plus `absolute_weight` times their mean absolute
    error, plus `commitment` times the distance of the encoder's vectors to their codes. flips: half of the images are
    seen mirrored. codebook_decay, dead_below: see VectorQuantizer. checkpoint_every_steps: how often the state is
    written to disk; does not change the result.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    steps: int = 4_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    absolute_weight: float = 0.0
    commitment: float = 0.25
    codebook_decay: float = 0.99
    dead_below: float = 0.1
    flips: bool = True
    checkpoint_every_steps: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, value in asdict(self).items():
            if not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("warmup_steps", "weight_decay", "absolute_weight", "commitment"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("adam_beta1", "adam_beta2", "codebook_decay", "dead_below"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")


class _Training:
    """What a step changes, and how it is kept on disk."""

    def __init__(
        self,
        config: AutoencoderConfig,
        training: TokenizerTraining,
        seed: int,
        device: torch.device,
        precision: str,
        compiled: bool,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = VQAutoencoder(config)
        self.network.to(memory_format=torch.channels_last).to(device).train()
        self._encode: Callable[..., Tensor] = self.network.features
        self._paint: Callable[..., Tensor] = self.network.paint
        if compiled:
            self._encode, self._paint = torch.compile(self._encode), torch.compile(self._paint)
        self._autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bfloat16")
        self._grid = (config.image_size // config.downsampling,) * 2
        self.training = training
        betas = (training.adam_beta1, training.adam_beta2)
        self.optimiser = adamw(self.network.parameters(), training.learning_rate, betas, training.weight_decay)

    def step(self, number: int, images_BCHW: Tensor, order_N: Tensor) -> Tensor:
        """One step on float images in [0, 1], dead codes revived in the order given; returns the mean squared error."""
        training, quantizer = self.training, self.network.quantizer
        with self._autocast():
            vectors_ND = self._encode(images_BCHW)
        vectors_ND = vectors_ND.float()
        if isinstance(quantizer, VectorQuantizer):
            quantizer.revive(vectors_ND.detach(), order_N, training.dead_below)
        codes_ND, commitment = quantizer(vectors_ND)
        with self._autocast():
            painted_BCHW = self._paint(codes_ND, self._grid)
        error = painted_BCHW.float() - images_BCHW
        squared = error.square().mean()
        loss = 4 * squared + 2 * training.absolute_weight * error.abs().mean() + training.commitment * commitment
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = warm_cosine(training.learning_rate, number, training.warmup_steps, training.steps)
        self.optimiser.step()
        if isinstance(quantizer, VectorQuantizer):
            quantizer.follow(vectors_ND.detach(), training.codebook_decay)
        return squared.detach()

    def tensors(self) -> dict[str, Tensor]:
        network = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        return network | optimiser_tensors(self.optimiser)


def train_tokenizer(
    config: AutoencoderConfig,
    training: TokenizerTraining,
    images_NCHW: Tensor,
    seed: int,
    *,
    state_path: Path | None = None,
    precision: str = "float32",
    compiled: bool = False,
    on_start: Callable[[int], None] | None = None,
    progress: Callable[[int, float], None] | None = None,
    progress_every: int = 50,
) -> VQAutoencoder:
    """Train an autoencoder and return it in evaluation mode, frozen.

    images_NCHW: uint8, on the device to train on. state_path: where the training's state is kept now and then, and at
    the end: whoever has the weights in a safe place removes it. A readable one of the same training is continued, in
    the same bits, any other is replaced. precision: ``float32``, or
    ``bfloat16`` for the convolutions (torch.autocast; weights and codebook stay float32). compiled: with torch.compile,
    worth its minute on a GPU. on_start is told how many steps an earlier run has behind it, then progress(step, mean
    squared error of pixels in [0, 1]) is called every `progress_every` steps. Raises ValueError for images that do
    not fit.
    """
    size, channels = config.image_size, config.image_channels
    if images_NCHW.dtype != torch.uint8 or tuple(images_NCHW.shape[1:]) != (channels, size, size):
        raise ValueError(
            f"need uint8 images [N, {channels}, {size}, {size}], got {images_NCHW.dtype} {tuple(images_NCHW.shape)}"
        )
    if not len(images_NCHW):
        raise ValueError("there are no images to train on")
    device = in_one_order(images_NCHW.device)
    state = _Training(config, training, seed, device, precision, compiled)
    same_result = replace(training, checkpoint_every_steps=1)
    identity = repr((config, same_result, seed, precision, compiled, _digest(images_NCHW)))
    start = 0
    if state_path is not None:
        found = take_up(state_path, identity, state.tensors(), latest=training.steps)
        start = found or 0  # never None: a state of more steps has another identity
    if on_start is not None:
        on_start(start)
    num_places = training.batch_size * (size // config.downsampling) ** 2
    for step in range(start, training.steps):
        indices = sent(torch.from_numpy(batch_indices(len(images_NCHW), training.batch_size, step, seed)), device)
        images_BCHW = images_NCHW[indices]
        if training.flips:
            mirrored = stream(seed, "flip", step).random(training.batch_size) < 0.5
            mirrored_B = sent(torch.from_numpy(mirrored), device)
            images_BCHW = torch.where(mirrored_B[:, None, None, None], images_BCHW.flip(-1), images_BCHW)
        order_N = sent(torch.from_numpy(stream(seed, "revive", step).permutation(num_places)), device)
        squared = state.step(step, images_BCHW.float() / 255, order_N)
        done = step + 1
        if progress is not None and (done % progress_every == 0 or done == training.steps):
            progress(done, float(squared))
        is_due = done % training.checkpoint_every_steps == 0 or done == training.steps
        if state_path is not None and is_due:
            put_down(state_path, identity, state.tensors(), done)
    return state.network.eval().requires_grad_(False)


def _digest(images_NCHW: Tensor) -> str:
    import hashlib

    return hashlib.sha256(images_NCHW.cpu().numpy().tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """How well images come back. squared_error: mean over pixels in [0, 1]; codes_used: share of the codebook that the
    images use at all; perplexity: exp of the entropy of its use, at most the number of codes."""

    num_images: int
    squared_error: float
    codes_used: float
    perplexity: float

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of all pixels together, in decibels; infinite for no error."""
        return math.inf if self.squared_error == 0 else -10 * math.log10(self.squared_error)


def reconstruct(
    tokenizer: Tokenizer,
    images_NCHW: Tensor,
    on_reconstruction: Callable[[Tensor], None] | None = None,
    batch_size: int = 500,
) -> Reconstruction:
    """Encode and decode uint8 images with a tokenizer (models/tokenizer.py) and compare, as saved images hold them.

    on_reconstruction is given each batch's reconstructions, uint8 [B, C, H, W]. Raises ValueError for no images.
    """
    if not len(images_NCHW):
        raise ValueError("there are no images to reconstruct")
    counts_K = np.zeros(tokenizer.codebook_size, dtype=np.int64)
    total = 0.0
    for images_BCHW in images_NCHW.split(batch_size):
        tokens_BL = tokenizer.encode(images_BCHW)
        painted_BCHW = tokenizer.decode(tokens_BL)
        total += float((painted_BCHW.double() - images_BCHW.double()).square().sum())
        counts_K += np.bincount(tokens_BL.flatten().cpu().numpy(), minlength=len(counts_K))
        if on_reconstruction is not None:
            on_reconstruction(painted_BCHW)
    shares = counts_K[counts_K > 0] / counts_K.sum()
    return Reconstruction(
        num_images=len(images_NCHW),
        squared_error=total / images_NCHW.numel() / 255**2,
        codes_used=float((counts_K > 0).mean()),
        perplexity=float(np.exp(-(shares * np.log(shares)).sum())),
    )
