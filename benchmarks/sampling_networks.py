"""Tokens a second of the sampler against the plain rule, same weights, same noise, same tokens.

Plain: at every step both guidance branches, one after the other, logits for all positions, everything computed anew
at every step, first step included (what the official codes do; ENAT reuses features in both). Ours: ``models.sample``.
On a GPU, where there is one, ours runs in bfloat16 with a CUDA graph as well.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.paired import ratio, show
from models import linear
from models.graphed import GraphedSampler
from models.networks import ENATConfig, NetworkConfig, UViTConfig, build_network
from models.noise import Noise, noise_on
from models.sample import Canvas, FirstStepLogits, Knobs, advance, guided_logits, sample
from models.schedule import GenerationSchedule, enat_linear

NUM_STEPS, NUM_TOKENS, CODES, CLASSES = 8, 256, 1024, 1000
GUIDANCE, CHOICE, DRAW = 1.5, 4.5, 1.0


def config(kind: str, width: int) -> NetworkConfig:
    """ENAT with the released one's 22 + 2 blocks, U-ViT with AutoNAT-S's 13."""
    if kind == "ENAT":
        return ENATConfig(NUM_TOKENS, CODES, CLASSES, width, width // 64, encoder_blocks=22, decoder_blocks=2)
    return UViTConfig(NUM_TOKENS, CODES, CLASSES, width, width // 64, blocks=13)


def random_network(config: NetworkConfig, device: str) -> Any:
    """Every weight random: as initialised, ENAT's gates are shut and nothing depends on the context."""
    network = build_network(config)
    generator = torch.Generator().manual_seed(0)
    network.initialise(generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return network.eval().to(device)


def plain_sample(network: Any, schedule: GenerationSchedule, labels_B: Tensor, noise: Noise) -> Tensor:
    config = network.config
    canvas = Canvas.empty(len(labels_B), config.num_tokens, config.codebook_size, labels_B.device)
    null_B = torch.full_like(labels_B, network.null_class)
    everywhere_BL = torch.arange(config.num_tokens, device=labels_B.device).expand(len(labels_B), -1)
    states = [None, None]
    for step in range(schedule.num_steps):
        logits = []
        for branch, branch_labels_B in enumerate((labels_B, null_B)):
            state = network(canvas.tokens_BL, canvas.masked_BL, branch_labels_B, states[branch], canvas.num_masked)
            logits.append(network.logits(state.features_BLD))
            states[branch] = state if network.reuses_features else None
        knobs = Knobs.at(schedule, step)
        guided = guided_logits(logits[0], logits[1], knobs.guidance_scale)
        taken = advance(canvas, everywhere_BL, guided, knobs, noise.draw(step), noise.choice(step))
        canvas = taken.canvas
    return taken.sampled_BL


def measure(kind: str, width: int, batch: int, guidance: float, device: str, repeats: int) -> None:
    """One network at one batch size."""
    network = random_network(config(kind, width), device)
    schedule = enat_linear(NUM_STEPS, guidance_scale=guidance, choice_temperature=CHOICE, sampling_temperature=DRAW)
    labels_B = torch.arange(batch, device=device) * 37 % CLASSES
    shape = (batch, NUM_TOKENS, CODES)
    noise = noise_on(device, 0, 0, shape)
    first_logits = FirstStepLogits(network)

    def on_device(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The same, waiting for the device."""

        def timed() -> Tensor:
            tokens_BL = work()
            if device != "cpu":
                torch.cuda.synchronize()
            return tokens_BL

        return timed

    @on_device
    def plain() -> Tensor:
        with torch.no_grad(), mock.patch.object(linear, "_by_onednn", return_value=False):
            return plain_sample(network, schedule, labels_B, noise)

    def plain_with_our_products() -> Tensor:
        with torch.inference_mode():
            return plain_sample(network, schedule, labels_B, noise)

    @on_device
    def ours() -> Tensor:
        return sample(network, schedule, labels_B, noise, first_logits=first_logits)

    # On a GPU both branches in one pass may round otherwise than one after the other, and a near tie then flips.
    same = float((plain() == ours()).double().mean())
    assert same == 1 or (device != "cpu" and same > 0.99), f"only {same:.4f} of the tokens are the same in float32"
    what = f"{kind} {width}, {batch} images, {device}" + (f" (equal tokens: {same:.4f})" if same < 1 else "")
    started = time.perf_counter()
    ours()
    rate = batch * NUM_TOKENS / (time.perf_counter() - started)
    show(f"{what}, float32 ({rate:.0f} tokens/s)", ratio(plain, ours, repeats))
    if device != "cpu":
        graphed = GraphedSampler(network, schedule, batch, first_logits=first_logits)
        assert torch.equal(ours(), graphed(labels_B, noise)), "a graph paints what its steps paint"
        show(f"{what}, float32, CUDA graph", ratio(plain, on_device(lambda: graphed(labels_B, noise)), repeats))
        half = random_network(config(kind, width), device).bfloat16()
        half_graphed = GraphedSampler(half, schedule, batch, first_logits=FirstStepLogits(half))
        same = float((plain() == half_graphed(labels_B, noise)).double().mean())
        what = f"{what}, bfloat16, CUDA graph (equal tokens: {same:.3f})"
        show(what, ratio(plain, on_device(lambda: half_graphed(labels_B, noise)), repeats))
    else:
        show("  of which without the faster matrix products", ratio(plain_with_our_products, ours, repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="scale at the last step; 0: none")
    parser.add_argument("--kinds", nargs="+", default=["ENAT", "U-ViT"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for kind in arguments.kinds:
        for width in arguments.widths:
            for batch in arguments.batches or ([2] if device == "cpu" else [64]):
                measure(kind, width, batch, arguments.guidance, device, arguments.repeats)


if __name__ == "__main__":
    main()
