"""`autonat cost`: what a network and a schedule cost an image, counted and, if asked, measured.

The published figures do not say how they were counted. AutoNAT-S at T = 4 is given as 0.2 TFLOPs, which fits both 0.19
TMACs with the tokenizer's decoder and 0.198 TFLOPs without; so everything is printed in both units, the decoder apart.
"""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from autonat.errors import UserError
from autonat.units import with_prefix
from models.schedule import GenerationSchedule, autonat_initial, enat_linear, muse_initial

if TYPE_CHECKING:
    from models.counts import StepCount
    from models.networks import NetworkConfig

CONVENTION = (
    "1 MAC is one multiply and one add in a matrix product, a convolution or attention. Papers often print MACs as "
    "FLOPs; counted apart, a MAC is 2 FLOPs."
)


DEVICES = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class Subject:
    """What is looked at: its configuration, where that is from, and the network itself where a checkpoint was given."""

    name: str
    config: "NetworkConfig"
    source: str
    network: Any = None


@dataclass(frozen=True)
class Cost:
    """Everything about one image.

    steps: what this project's sampler runs; official_macs: the papers' protocol; tokenizer_macs: painting the tokens
    with the published VQGAN (f16), None for other codebooks; bytes at 4 bytes a number.
    """

    subject: Subject
    schedule: GenerationSchedule
    parameters: int
    parameter_bytes: int
    activation_bytes: int
    steps: "list[StepCount]"
    official_macs: int
    tokenizer_macs: int | None

    @property
    def macs(self) -> int:
        return sum(step.macs for step in self.steps)


@dataclass(frozen=True)
class Latency:
    """Medians over runs of a whole batch, in seconds; the spread is the range of the middle half."""

    device: str
    batch: int
    threads: int
    runs: int
    seconds_a_batch: float
    spread: float

    @property
    def seconds_an_image(self) -> float:
        return self.seconds_a_batch / self.batch


def find_subject(name: str, *, load: bool, told: dict[str, Any] | None = None) -> Subject:
    """A checkpoint (any path that exists) or a preset (by name).

    load: keep a checkpoint's network; told: what the caller knows of an official checkpoint, see
    ``models.official.configuration_of``. Raises UserError.
    """
    from models.checkpoint import CheckpointError
    from models.official import load_any
    from models.presets import find_preset

    path = Path(name)
    looks_like_path = path.exists() or path.suffix in (".pth", ".ckpt", ".safetensors") or "/" in name
    try:
        if looks_like_path:
            network = load_any(path, **(told or {}))
            return Subject(name, network.config, f"checkpoint {path}", network if load else None)
        found = find_preset(name)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    except ValueError as error:
        raise UserError(f"{error}; a checkpoint is named by its path") from error
    guessed = f" (guessed: {', '.join(found.guessed)})" if found.guessed else ""
    return Subject(name, found.config, found.source + guessed)


def default_schedule(config: "NetworkConfig", num_steps: int) -> GenerationSchedule:
    """The heuristic published with each kind of network: ENAT's README (256 x 256), the start of AutoNAT's search, or
    MUSE's."""
    try:
        if config.kind == "enat":
            return enat_linear(num_steps, guidance_scale=2.5, choice_temperature=1.5, sampling_temperature=6.0)
        return muse_initial(num_steps) if config.kind == "uvit_text" else autonat_initial(num_steps)
    except ValueError as error:
        raise UserError(str(error)) from error


def cost_of(subject: Subject, schedule: GenerationSchedule) -> Cost:
    from models.counts import activation_bytes, decoder_macs, image_counts, num_parameters
    from models.vqgan import VQGANConfig

    config, tokenizer = subject.config, VQGANConfig()
    side = math.isqrt(config.num_tokens) * tokenizer.downsampling
    paints = config.codebook_size == tokenizer.codebook_size and math.isqrt(config.num_tokens) ** 2 == config.num_tokens
    parameters = num_parameters(config)
    return Cost(
        subject=subject,
        schedule=schedule,
        parameters=parameters,
        parameter_bytes=4 * parameters,
        activation_bytes=activation_bytes(config),
        steps=image_counts(config, schedule, first_logits=True),
        official_macs=sum(step.macs for step in image_counts(config, schedule, "official")),
        tokenizer_macs=decoder_macs(tokenizer, side, side) if paints else None,
    )


def measure(cost: Cost, device: str, batch: int, runs: int = 5, seed: int = 0) -> Latency:
    """Time sampling of whole batches: one run to warm up, then the median of `runs`.

    Random weights where no checkpoint was given. Raises UserError for a device that is not there or too small.
    """
    import torch

    if device.split(":")[0] not in DEVICES:
        raise UserError(
            f"device {device!r} cannot be measured, expected one of {', '.join(DEVICES)}, or such as cuda:1"
        )
    try:
        return _measure(cost, torch.device(device), batch, runs, seed)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(f"a batch of {batch} does not fit into the memory of {device}") from error
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if device == "cpu" and "alloc" in str(error):
            raise UserError(f"a batch of {batch} does not fit into the memory of {device}") from error
        if device == "cpu":
            raise
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _measure(cost: Cost, device: Any, batch: int, runs: int, seed: int) -> Latency:
    import torch

    from models.networks import build_network
    from models.noise import noise_on
    from models.sample import FirstStepLogits, sample

    config, network = cost.subject.config, cost.subject.network
    if network is None:
        network = build_network(config).initialise(torch.Generator().manual_seed(seed))
    network = network.eval().to(device)
    if config.kind == "uvit_text":
        generator = torch.Generator().manual_seed(seed)
        contexts_MSC = torch.randn(batch, config.context_tokens, config.context_width, generator=generator)
        network = network.with_contexts(contexts_MSC, torch.zeros_like(contexts_MSC[0]))
    num_classes = network.config.num_classes
    labels_B = (torch.arange(batch) % num_classes).to(device)
    shape_BLK = (batch, config.num_tokens, config.codebook_size)
    noise = noise_on(device, seed, 0, shape_BLK)
    table = FirstStepLogits(network)

    def once() -> float:
        started = time.perf_counter()
        sample(network, cost.schedule, labels_B, noise, first_logits=table)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    once()
    seconds = sorted(once() for _ in range(runs))
    middle = seconds[runs // 4 : runs - runs // 4]
    return Latency(str(device), batch, torch.get_num_threads(), runs, median(seconds), middle[-1] - middle[0])


def as_json(cost: Cost, latency: Latency | None) -> dict[str, Any]:
    """Everything that is printed, for programs."""
    content = {
        "network": cost.subject.name,
        "source": cost.subject.source,
        "configuration": cost.subject.config.to_dict(),
        "schedule": asdict(cost.schedule),
        "convention": CONVENTION,
        "parameters": cost.parameters,
        "parameter_bytes_float32": cost.parameter_bytes,
        "activation_bytes_an_image_float32": cost.activation_bytes,
        "macs": cost.macs,
        "official_macs": cost.official_macs,
        "tokenizer_decoder_macs": cost.tokenizer_macs,
        "steps": [asdict(step) for step in cost.steps],
    }
    return content | ({"latency": asdict(latency)} if latency is not None else {})


def step_table(cost: Cost) -> Any:
    """A Rich table, a row a step."""
    from rich.table import Table

    table = Table(title=f"Sampling one image in {cost.schedule.num_steps} steps", title_justify="left")
    for column in ("step t", "masked before", "new", "guidance", "passes", "MACs"):
        table.add_column(column, justify="right")
    for number, step in enumerate(cost.steps):
        scale = cost.schedule.guidance_scales[number]
        passes = str(step.passes) if step.passes else "0 (table)"
        table.add_row(
            str(number + 1), str(step.num_masked), str(step.num_new), f"{scale:.3g}", passes, with_prefix(step.macs)
        )
    return table


def summary_lines(cost: Cost) -> list[str]:
    """What is printed beside the table."""

    def both(macs: int) -> str:
        return f"{with_prefix(macs)}MACs = {with_prefix(2 * macs)}FLOPs"

    lines = [
        f"{cost.subject.name}: {cost.subject.source}",
        f"  parameters          {cost.parameters:,} ({with_prefix(cost.parameter_bytes)}B in float32)",
        f"  activations         about {with_prefix(cost.activation_bytes)}B an image in float32",
        f"  an image, sampler   {both(cost.macs)}",
        f"  an image, official  {both(cost.official_macs)} (both guidance branches and all logits at every step)",
    ]
    if cost.tokenizer_macs is not None:
        with_tokenizer = cost.official_macs + cost.tokenizer_macs
        lines.append(f"  the VQGAN's decoder {both(cost.tokenizer_macs)}; official with it {both(with_tokenizer)}")
    return [*lines, f"  {CONVENTION}"]


def latency_line(latency: Latency) -> str:
    return (
        f"Measured on {latency.device}, batch {latency.batch}, {latency.threads} CPU threads: "
        f"{1e3 * latency.seconds_an_image:.4g} ms an image ({latency.seconds_a_batch:.4g} s a batch, median of "
        f"{latency.runs}, middle half within {latency.spread:.2g} s); tokens alone, no tokenizer"
    )


def schedule_of(path: Path | None, config: "NetworkConfig", num_steps: int | None) -> GenerationSchedule:
    """The schedule of a file, or the published heuristic of `num_steps` steps (8 where None). Raises UserError."""
    if path is None:
        return default_schedule(config, 8 if num_steps is None else num_steps)
    from autonat.export.formats import read_schedule

    return read_schedule(path, num_steps=num_steps)[1].schedule
