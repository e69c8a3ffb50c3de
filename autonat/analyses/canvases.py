"""Every step's canvas of some images: what is drawn, what is kept, what is masked again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autonat.analyses.estimates import Measured
from autonat.analyses.findings import Findings, Series
from autonat.analyses.subject import Subject
from autonat.execution.worker import Worker
from autonat.pictures import painted_over, png, rgb
from autonat.search.program import Program
from models.evaluate import Block, Generator
from models.sample import Step, sample
from models.schedule import GenerationSchedule

SHOWN_IMAGES = 10
NEW = np.array([0, 158, 115], dtype=np.float64)


@dataclass(frozen=True)
class Painting:
    """The steps of one block's images: tokens drawn [B, L] and, of each step, what was masked before and after."""

    steps: tuple[Step, ...]
    before: tuple[Tensor, ...]


@torch.inference_mode()
def paint(generator: Generator, schedule: GenerationSchedule, block: Block) -> Painting:
    """Paint one block and keep every step."""
    steps: list[Step] = []
    with generator.precisely():
        labels_B = generator.labels(block)
        sample(
            generator.network,
            schedule,
            labels_B,
            generator.noise(block),
            first_logits=generator.first_logits,
            observe=lambda _, taken: steps.append(taken),
        )
    first = torch.ones_like(steps[0].canvas.masked_BL)
    return Painting(tuple(steps), (first, *(step.canvas.masked_BL for step in steps[:-1])))


def drawn_again_B(earlier: Step, later: Step) -> Tensor:
    """Of each image's tokens that were masked again: the share that the next step draws the same; [B], float64."""
    again_BL = earlier.canvas.masked_BL
    same_BL = (earlier.sampled_BL == later.sampled_BL) & again_BL
    return same_BL.sum(1).double() / again_BL.sum(1).clamp(min=1)


def picture(generator: Generator, painting: Painting, count: int) -> bytes:
    """A PNG: a column an image, two rows a step: all tokens as drawn, and what goes on, with a green tint for tokens
    kept for the first time and orange for those that are masked again."""
    rows: list[list[Any]] = []
    last = len(painting.steps) - 1
    for number, (step, before_BL) in enumerate(zip(painting.steps, painting.before, strict=True)):
        images = rgb(generator.decode(step.sampled_BL[:count]))
        # What a rule masks again at the very end is not painted again.
        again_BL = step.canvas.masked_BL[:count].cpu().numpy() & (number < last)
        new_BL = before_BL[:count].cpu().numpy() & ~again_BL
        kept = painted_over(painted_over(images, new_BL, NEW, 0.35), again_BL)
        rows += [list(images), list(kept)]
    return png(rows)


def program(subject: Subject) -> Program[Findings]:
    """Train the study's network with every seed, then paint one block with each, here: it is a second's work."""
    yield from subject.train({"the study's network": subject.network})
    worker, schedule = Worker(subject.artifacts), subject.schedule(subject.network)
    size = max(2, min(subject.num_images, subject.lab.block_size))
    block = Block(0, 1, size, subject.image_seed)
    paintings, shown = [], b""
    for spec in subject.generators(subject.network):
        generator = worker.generator(spec, subject.lab.compute)
        paintings.append(paint(generator, schedule, block))
        shown = shown or picture(generator, paintings[0], min(size, SHOWN_IMAGES))
    num_steps = min(len(painting.steps) for painting in paintings)
    rows: list[dict[str, Any]] = []
    again: list[Measured] = []
    for number in range(num_steps):
        last = number == num_steps - 1
        before = _mean_count(painting.before[number] for painting in paintings)
        after = 0.0 if last else _mean_count(painting.steps[number].canvas.masked_BL for painting in paintings)
        row = {"step": number + 1, "before": f"{before:g}", "kept": f"{before - after:g}", "again": f"{after:g}"}
        if not last:
            again.append(_measured([drawn_again_B(p.steps[number], p.steps[number + 1]) for p in paintings]))
        rows.append(row | {"same": None if last else again[-1]})
    return Findings(
        title="The canvas of every step",
        num_images=size,
        reading=(
            "The same images painted under the tuned schedule with each training seed's network. The picture "
            "(the first seed's) has a column an image and two rows a step: all tokens as drawn, then what goes on, new "
            "ones green and those masked again orange."
        ),
        columns=(
            ("step", "step"),
            ("before", "masked before"),
            ("kept", "kept"),
            ("again", "masked again"),
            ("same", "drawn the same at the next step"),
        ),
        rows=tuple(rows),
        verdict="The papers say nothing of this that could be ordered.",
        axes=("step", "share of the tokens masked again that are drawn the same next"),
        series=(Series("drawn the same again", tuple(float(n + 1) for n in range(len(again))), tuple(again)),),
        pictures=(("Two rows a step: what is drawn, and what is kept of it.", shown),),
    )


def _mean_count(masks: Any) -> float:
    counts = [float(masked_BL.sum(1).double().mean()) for masked_BL in masks]
    return round(sum(counts) / len(counts), 2)


def _measured(shares: Sequence[Tensor]) -> Measured:
    return Measured(tuple(float(share_B.mean()) for share_B in shares), tuple(tuple(s.tolist()) for s in shares))
