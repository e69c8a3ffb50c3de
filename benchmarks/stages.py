"""Where the time of a study goes, stage by stage, and how far each stage is from what the machine can do at best.

    python -m benchmarks.stages --size cifar_cpu

The ceiling is a large matrix product, measured in the same run and in the same precision. A stage's share of it is the
arithmetic that the stage needs (models.counts) over what the ceiling would do in its time; stages without arithmetic to
speak of have none. Then training and sampling before and after the work on speed, timed in turn: before means
PyTorch's own products and activations and the sampler that computes everything anew (benchmarks.sampling_networks).
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paired import ratio
from benchmarks.sampling_networks import plain_sample, random_network
from models import linear
from models.counts import image_counts, pass_macs, preparation_macs
from models.features import DigitClassifier
from models.frechet import Statistics
from models.mask_ratio import ArccosMaskRatio
from models.networks import ENATConfig
from models.noise import noise_on
from models.resnet import ResNet, ResNetConfig
from models.sample import Canvas, FirstStepLogits, GuidedNetwork, Knobs, advance, guided_logits, sample
from models.schedule import GenerationSchedule, maskgit_cosine
from models.tokenizer import GreyLevelTokenizer
from models.train import TrainingConfig, train
from models.vq_autoencoder import AutoencoderConfig, VQAutoencoder


@dataclass(frozen=True)
class Size:
    """A network with the numbers of images that its training and its evaluations take at a time."""

    network: ENATConfig
    training_batch: int
    images: int


SIZES = {
    "digits": Size(
        ENATConfig(64, 17, 10, 48, 4, 1, 2, embedding_std=0.2, initial_positions="sinusoidal"), 16, 100
    ),
    "cifar_cpu": Size(ENATConfig(64, 512, 10, 128, 4, 3, 2), 32, 100),
    "cifar": Size(ENATConfig(64, 512, 10, 384, 6, 6, 2), 512, 250),
    "imagenet256": Size(ENATConfig(256, 1024, 1000, 1024, 16, 22, 2), 64, 64),
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    size: Size
    num_steps: int
    guidance: float
    device: str
    precision: str
    repeats: int

    @property
    def schedule(self) -> GenerationSchedule:
        """MaskGIT's cosine with the same guidance at every step."""
        return replace(maskgit_cosine(self.num_steps), guidance_scales=(self.guidance,) * self.num_steps)

    def seconds(self, work: Callable[[], object]) -> float:
        """The least of a few runs, after one to warm up; on a CPU, where one thread does it all, of its time alone."""
        clock = time.process_time if self.device == "cpu" else time.perf_counter
        best = float("inf")
        for repeat in range(self.repeats + 1):
            started = clock()
            work()
            if self.device != "cpu":
                torch.cuda.synchronize()
            if repeat:
                best = min(best, clock() - started)
        return best

    def precisely(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()


def ceiling(bench: Bench) -> float:
    """Multiply-accumulates a second of one large product."""
    side = 2048 if bench.device == "cpu" else 8192
    dtype = torch.bfloat16 if bench.precision == "bfloat16" else torch.float32
    left, right = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
    with torch.inference_mode():
        return side**3 / bench.seconds(lambda: linear.linear(left, right))


def before() -> Any:
    """PyTorch's own products and activations."""
    return mock.patch.object(linear, "_by_onednn", return_value=False)


def training_macs(size: Size, steps: int) -> float:
    """Of a step: three passes' worth (forward, and twice that backward) at the mean of MaskGIT's mask ratios, and half
    the time the pass before whose features are reused."""
    config = size.network
    masked = round(config.num_tokens * 2 / torch.pi)
    one = pass_macs(config, masked) + preparation_macs(config)
    return size.training_batch * 3.5 * one * steps


def trained(bench: Bench, steps: int) -> Callable[[], object]:
    config = bench.size.network
    generator = torch.Generator().manual_seed(0)
    tokens_NL = torch.randint(config.codebook_size, (4096, config.num_tokens), generator=generator)
    labels_N = torch.randint(config.num_classes, (4096,), generator=generator)
    settings = TrainingConfig(
        steps=steps, batch_size=bench.size.training_batch, learning_rate=1e-4, warmup_steps=1, ratio_groups=1
    )
    arguments = (tokens_NL.to(bench.device), labels_N.to(bench.device), 0)
    return lambda: train(config, settings, ArccosMaskRatio(), *arguments, precision=bench.precision)


def stages(
    bench: Bench, decode: Callable[..., Any] | None, features: Any, steps: int
) -> list[tuple[str, float, float]]:
    """Name, seconds for one image, and the multiply-accumulates it needs (0: none to speak of)."""
    size, config, batch = bench.size, bench.size.network, bench.size.images
    network: Any = random_network(config, bench.device)
    schedule = bench.schedule
    device = torch.device(bench.device)
    labels_B = (torch.arange(batch) % config.num_classes).to(device)
    noise = noise_on(device, 0, 0, (batch, config.num_tokens, config.codebook_size))
    first = FirstStepLogits(network)

    # Every step's inputs are recorded once, so that the network's passes and the decisions can be timed apart.
    guided = GuidedNetwork(network, labels_B, first)
    recorded: list[tuple[Canvas, Any, Any, Knobs]] = []
    with torch.inference_mode(), bench.precisely():
        canvas, reused = Canvas.empty(batch, config.num_tokens, config.codebook_size, device), None
        for step in range(schedule.num_steps):
            prediction = guided.predict(canvas, reused, unconditional=bench.guidance > 0)
            knobs = Knobs.at(schedule, step)
            recorded.append((canvas, reused, prediction, knobs))
            logits = guided_logits(prediction.conditional_BNK, prediction.unconditional_BNK, bench.guidance)
            taken = advance(canvas, prediction.positions_BN, logits, knobs, noise.draw(step), noise.choice(step))
            canvas, reused = taken.canvas, prediction.reused
        tokens_BL = taken.sampled_BL
    drawn = [(noise.draw(step), noise.choice(step)) for step in range(schedule.num_steps)]

    @torch.inference_mode()
    def passes() -> None:
        again = GuidedNetwork(network, labels_B, first)
        with bench.precisely():
            for canvas, reused, _, _ in recorded:
                again.predict(canvas, reused, unconditional=bench.guidance > 0)

    @torch.inference_mode()
    def decisions() -> None:
        for (canvas, _, prediction, knobs), (draw, choice) in zip(recorded, drawn, strict=True):
            logits = guided_logits(prediction.conditional_BNK, prediction.unconditional_BNK, bench.guidance)
            advance(canvas, prediction.positions_BN, logits, knobs, draw, choice)

    macs = sum(step.macs for step in image_counts(config, schedule, first_logits=True))
    per_image = [
        ("noise", bench.seconds(lambda: [(noise.draw(t), noise.choice(t)) for t in range(bench.num_steps)]), 0.0),
        ("network's passes", bench.seconds(passes), macs * (2 if bench.guidance else 1)),
        ("draws and choices", bench.seconds(decisions), 0.0),
    ]
    if decode is not None:
        with torch.inference_mode():
            images = decode(tokens_BL)
            features_BD = features.features(images)
        for name, work in (("decoding", lambda: decode(tokens_BL)), ("features", lambda: features.features(images))):
            seconds = bench.seconds(torch.inference_mode()(work))
            per_image.append((name, seconds, convolution_macs(work) / batch))
        per_image.append(("statistics", bench.seconds(lambda: Statistics.of(features_BD)), 0.0))
    result = [(name, seconds / batch, macs) for name, seconds, macs in per_image]
    step_seconds = bench.seconds(trained(bench, 2 * steps)) - bench.seconds(trained(bench, steps))
    return [
        ("training", step_seconds / steps / size.training_batch, training_macs(size, 1) / size.training_batch),
        *result,
    ]


def convolution_macs(work: Callable[[], object]) -> float:
    """Multiply-accumulates of convolutions and plain products, by PyTorch's counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2


def decoder_and_features(name: str, device: str) -> tuple[Callable[..., Any] | None, Any]:
    """Random weights do: how long they take does not depend on what was learned."""
    if name == "digits":
        return GreyLevelTokenizer().decode, DigitClassifier().eval()
    if name.startswith("cifar"):
        codes = SIZES[name].network.codebook_size
        autoencoder = VQAutoencoder(AutoencoderConfig(codebook_size=codes)).eval().to(device)
        features = ResNet(ResNetConfig()).eval().to(device)

        def decode(tokens_BL: torch.Tensor) -> torch.Tensor:
            return (autoencoder.decode(tokens_BL.reshape(-1, 8, 8)) * 255).clamp(0, 255).to(torch.uint8)

        return decode, features
    return None, None


def before_and_after(bench: Bench, steps: int, pairs: int) -> None:
    config, batch = bench.size.network, bench.size.images
    work = trained(bench, steps)

    def training_before() -> None:
        with before():
            work()

    rate = steps * bench.size.training_batch / bench.seconds(work)
    show("training", rate, ratio(training_before, work, pairs))
    network = random_network(config, bench.device)
    schedule = bench.schedule
    labels_B = (torch.arange(batch) % config.num_classes).to(bench.device)
    noise = noise_on(bench.device, 0, 0, (batch, config.num_tokens, config.codebook_size))
    first = FirstStepLogits(network)

    def plain() -> object:
        with before(), torch.no_grad(), bench.precisely():
            return plain_sample(network, schedule, labels_B, noise)

    def ours() -> object:
        with bench.precisely():
            return sample(network, schedule, labels_B, noise, first_logits=first)

    show("sampling", batch / bench.seconds(ours), ratio(plain, ours, pairs))


def show(what: str, rate: float, measured: tuple[float, float, float]) -> None:
    median, low, high = measured
    print(f"{what}: {rate / median:.0f} images/s before, {rate:.0f} after: {median:.2f}x ({low:.2f} to {high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="cifar_cpu")
    parser.add_argument("--num-steps", type=int, default=4, help="T")
    parser.add_argument("--guidance", type=float, default=0.0)
    parser.add_argument("--precision", choices=["float32", "bfloat16"])
    parser.add_argument("--training-steps", type=int, default=20, help="of each timed training")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = options.precision or ("bfloat16" if device == "cuda" else "float32")
    bench = Bench(SIZES[options.size], options.num_steps, options.guidance, device, precision, options.repeats)
    top = ceiling(bench)
    print(f"{options.size}, T = {options.num_steps}, {device}, {precision}; ceiling {2 * top / 1e9:.0f} GFLOP/s")
    measured = stages(bench, *decoder_and_features(options.size, device), options.training_steps)
    total = sum(seconds for name, seconds, _ in measured if name != "training")
    print(f"{'stage':20} {'us an image':>12} {'of evaluation':>14} {'of the ceiling':>15}")
    for name, seconds, macs in measured:
        share = f"{seconds / total:.0%}" if name != "training" else ""
        arithmetic = f"{macs / seconds / top:.0%}" if macs else ""
        print(f"{name:20} {seconds * 1e6:12.0f} {share:>14} {arithmetic:>15}")
    before_and_after(bench, options.training_steps, options.repeats)


if __name__ == "__main__":
    main()
