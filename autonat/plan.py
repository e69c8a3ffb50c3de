"""What a study will cost, before it starts: its program run against a simulated landscape, and a short calibration."""

import time
from dataclasses import dataclass

import torch

from autonat.config import Recipe
from autonat.execution.simulated import SimulatedLandscape
from autonat.orchestrator import run_program
from autonat.search.alternation import alternate
from autonat.specs import EvaluationSpec, ProbeSpec, Spec, TrainSpec, fingerprint
from models.checkpoint import build_network
from models.evaluate import Block, Generator
from models.images import image_set
from models.sample import unconditional_steps
from models.schedule import GenerationSchedule
from models.tokenizer import tokenizer_for
from models.train import train


@dataclass(frozen=True, slots=True)
class Plan:
    """Expected work of a study. The path of a search depends on what it finds, so these are typical numbers."""

    trainings: int
    evaluations: int
    gradients: int
    images: int
    forward_passes: int
    seconds: float


def forward_passes(spec: EvaluationSpec | ProbeSpec) -> int:
    """Network passes over one image, both branches counted, summed over the spec's images.

    The first step is read from a table. A probe at step t runs the steps after t.
    """
    num_steps = spec.schedule.num_steps
    if isinstance(spec, EvaluationSpec):
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
    trainings = [spec for spec in asked.values() if isinstance(spec, TrainSpec)]
    evaluations = [spec for spec in asked.values() if isinstance(spec, EvaluationSpec)]
    gradients = [spec for spec in asked.values() if isinstance(spec, ProbeSpec)]
    measured: list[EvaluationSpec | ProbeSpec] = [*evaluations, *gradients]
    passes = sum(forward_passes(spec) for spec in measured)
    step_seconds, pass_seconds = _calibrate(recipe)
    # Trainings run side by side as far as they are asked for together; a line of the search has about three.
    seconds = len(trainings) * recipe.training.steps * step_seconds / max(1, min(workers, 3))
    seconds += passes * pass_seconds / max(1, workers)
    return Plan(
        trainings=len(trainings),
        evaluations=len(evaluations),
        gradients=len(gradients),
        images=sum(spec.images for spec in asked.values()),
        forward_passes=passes,
        seconds=seconds,
    )


def _typical_optimum(start: GenerationSchedule) -> GenerationSchedule:
    """Somewhere else than the start, so that the simulated search has a way to go."""
    guided = tuple(scale + (1.0 if scale < 10 else -1.0) for scale in start.guidance_scales)
    return GenerationSchedule(
        start.mask_ratios, start.sampling_temperatures, start.choice_temperatures, guided, start.rule
    )


def _calibrate(recipe: Recipe) -> tuple[float, float]:
    """Seconds of a training step, and of one network pass over one image with everything around it."""
    torch.set_num_threads(1)
    data, tokenizer = image_set(recipe.data), tokenizer_for(recipe.data)
    tokens, labels = tokenizer.encode(torch.from_numpy(data.train_images)), torch.from_numpy(data.train_labels)
    ends: list[float] = []
    settings = {name: getattr(recipe.training, name) for name in recipe.training.__slots__}
    short = type(recipe.training)(**{**settings, "steps": 110})
    started = time.perf_counter()

    class EnoughError(Exception):
        pass

    def stop_early(step: int, loss: float) -> None:
        ends.append(time.perf_counter())
        raise EnoughError

    try:
        train(recipe.network, short, recipe.mask_ratio, tokens, labels, recipe.seed, progress=stop_early)
    except EnoughError:
        pass
    step_seconds = (ends[0] - started) / 50
    network = build_network(recipe.network).initialise(torch.Generator().manual_seed(0)).eval()
    generator = Generator(network, tokenizer)
    schedule = recipe.schedule.build()
    block = Block(0, 1, recipe.block_size, 0)
    generator.tokens(schedule, block)
    started = time.perf_counter()
    generator.tokens(schedule, block)
    return step_seconds, (time.perf_counter() - started) / (recipe.block_size * max(1, _passes(schedule)))
