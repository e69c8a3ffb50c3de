"""What a study will cost, before it starts: its program run against a simulated landscape, and a short calibration."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from autonat.config import Recipe
from autonat.execution.simulated import SimulatedLandscape
from autonat.execution.worker import device_of
from autonat.orchestrator import run_program
from autonat.search.alternation import alternate
from autonat.specs import MeasuredSpec, OneStepSpec, PopulationSpec, ProbeSpec, Spec, TrainSpec, fingerprint, painted
from models.data import Data, DataSizes, sizes_of
from models.evaluate import Block, Generator
from models.networks import build_network
from models.sample import unconditional_steps
from models.schedule import GenerationSchedule
from models.tokenizer import GreyLevelTokenizer, Tokenizer
from models.train import train
from models.uvit_text import TextUViT


@dataclass(frozen=True, slots=True)
class Plan:
    """Expected work of a study. The path of a search depends on what it finds, so these are typical numbers."""

    trainings: int
    evaluations: int
    gradients: int
    images: int
    forward_passes: int
    seconds: float | None  # None where this machine has no such device to calibrate on


def forward_passes(spec: MeasuredSpec) -> int:
    """Network passes over one image, both branches counted, summed over the spec's images.

    The first step is read from a table. A probe at step t runs the steps after t.
    """
    if isinstance(spec, OneStepSpec):
        return spec.num_images
    num_steps = spec.schedule.num_steps
    if isinstance(spec, PopulationSpec):  # its images have guidance scales around the schedule's
        return spec.num_images * 2 * (num_steps - 1)
    if not isinstance(spec, ProbeSpec):
        return spec.num_images * _passes(spec.schedule)
    later = sum(num_steps - 1 - probe.step for probe in spec.probes)
    return spec.num_images * 2 * (2 * (num_steps - 1) + later)


def _passes(schedule: GenerationSchedule) -> int:
    runs = unconditional_steps(schedule, reuses_features=True)[1:]
    return len(runs) + sum(runs)


def plan(recipe: Recipe, workers: int) -> Plan:
    """Count the work of a typical run and estimate its time on `workers` workers (0: the driver's process)."""
    asked: dict[str, Spec] = {}
    landscape = SimulatedLandscape(_typical_optimum(recipe.schedule.build()))
    run_program(alternate(recipe), landscape)
    for spec in landscape.fulfilled:
        asked.setdefault(fingerprint(spec), spec)
    trainings: dict[TrainSpec, int] = {}  # with the steps of each
    for spec in asked.values():
        if isinstance(spec, TrainSpec):
            trainings[spec.whole] = max(spec.steps, trainings.get(spec.whole, 0))
    measured = [spec for spec in asked.values() if isinstance(spec, MeasuredSpec)]
    gradients = [spec for spec in measured if isinstance(spec, ProbeSpec | PopulationSpec)]
    passes = sum(forward_passes(spec) for spec in painted(measured) if isinstance(spec, MeasuredSpec))
    seconds = None
    if recipe.compute.device == "cpu" or torch.cuda.is_available():
        seconds = _seconds(recipe, workers, sum(trainings.values()), passes)
    return Plan(
        trainings=len(trainings),
        evaluations=len(painted(measured)) - len(gradients),
        gradients=len(gradients),
        images=sum(spec.images for spec in painted(asked.values())),
        forward_passes=passes,
        seconds=seconds,
    )


def _seconds(recipe: Recipe, workers: int, steps: int, passes: int) -> float:
    """Estimated time of so many training steps and passes, from a short calibration."""
    step_seconds, pass_seconds = _calibrate(recipe)
    # Trainings run side by side as far as they are asked for together; a line of the search has about three.
    seconds = steps * step_seconds / max(1, min(workers, 3))
    return seconds + passes * pass_seconds / max(1, workers)


def _typical_optimum(start: GenerationSchedule) -> GenerationSchedule:
    """Somewhere else than the start, so that the simulated search has a way to go."""
    guided = tuple(scale + (1.0 if scale < 10 else -1.0) for scale in start.guidance_scales)
    return GenerationSchedule(
        start.mask_ratios, start.sampling_temperatures, start.choice_temperatures, guided, start.rule
    )


def _calibrate(recipe: Recipe) -> tuple[float, float]:
    """Seconds of a training step (0 where nothing is trained), and of one network pass over one image with everything
    around it."""
    torch.set_num_threads(1)
    device = device_of(recipe.compute)
    network = build_network(recipe.network).initialise(torch.Generator().manual_seed(0)).eval().to(device)
    generator = Generator(
        _with_captions(network, recipe.data),
        _any_tokenizer(recipe.data),
        recipe.compute.precision,
        recipe.compute.compile,
    )
    schedule = recipe.schedule.build()
    # Passes of a large network take seconds: a few images tell as much as a block.
    size = recipe.block_size if recipe.network.width <= 128 or device.type == "cuda" else 2
    block = Block(0, 1, size, 0)
    generator.tokens(schedule, block).cpu()  # waits for the device
    started = time.perf_counter()
    generator.tokens(schedule, block).cpu()
    pass_seconds = (time.perf_counter() - started) / (size * max(1, _passes(schedule)))
    return 0.0 if recipe.training is None else _training_step_seconds(recipe), pass_seconds


def _training_step_seconds(recipe: Recipe) -> float:
    """Measured on random tokens; a large batch by a small one's share of it."""
    assert recipe.training is not None
    device, sizes = device_of(recipe.compute), sizes_of(recipe.data)
    small = recipe.network.width <= 128 or device.type == "cuda"
    groups = recipe.training.ratio_groups if small else 1
    batch = recipe.training.batch_size if small else 2
    warm, measured = (50, 50) if small and device.type == "cpu" else (2, 2)
    if recipe.compute.compile:  # most of what is compiled is met in the first steps
        warm, measured = 100, 100
    short = replace(
        recipe.training, steps=warm + measured, batch_size=batch, ratio_groups=groups, checkpoint_every_steps=10**9
    )
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(sizes.codebook_size, (4 * batch, sizes.num_tokens), generator=random)
    labels = torch.randint(sizes.num_classes, (4 * batch,), generator=random)
    ends: list[float] = []
    train(
        recipe.network,
        short,
        recipe.mask_ratio,
        tokens.to(device),
        labels.to(device),
        recipe.seed,
        precision=recipe.compute.precision,
        compile=recipe.compute.compile,
        progress=lambda step, loss: ends.append(time.perf_counter()),
        progress_every=warm,
    )
    return (ends[1] - ends[0]) / measured * (recipe.training.batch_size / batch)


def _any_tokenizer(data: Data) -> Tokenizer:
    """A stand-in with the data's codebook: the calibration paints tokens and looks at no image."""
    return GreyLevelTokenizer() if isinstance(data, str) else _Codes(sizes_of(data))


class _Codes(GreyLevelTokenizer):
    def __init__(self, sizes: DataSizes) -> None:
        super().__init__(*sizes.grid)
        self.codebook_size = sizes.codebook_size


def _with_captions(network: Any, data: Data) -> Any:
    """Empty contexts in place of captions, so that no file is needed to plan."""
    if not isinstance(network, TextUViT):
        return network
    config = network.config
    contexts = torch.zeros(1).expand(sizes_of(data).num_classes, config.context_tokens, config.context_width)
    return network.with_contexts(contexts, contexts[0])
