"""Sample grids: PNG pictures of what a study's baseline and its tuned pair generate from the same noise."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from autonat.execution.worker import Worker
from autonat.specs import EvaluationSpec
from autonat.storage.artifacts import Artifacts
from models.evaluate import Block

GAP = 2


def sample_grid(
    artifacts: Artifacts, specs: list[EvaluationSpec], *, per_class: int, seed: int, scale: int = 4
) -> bytes:
    """One PNG: a row a class; a group of `per_class` columns for each spec's pair, all from the same noise."""
    worker = Worker(artifacts.address)
    panels = []
    for spec in specs:
        generator = worker.generator(spec.training)
        num_classes = generator.network.config.num_classes
        block = Block(0, 1, per_class * num_classes, seed)
        images = generator.images(spec.schedule, block)  # sample i has class i modulo C
        panels.append(_arrange(images, num_classes))
    height, _, channels = panels[0].shape
    gap = np.full((height, 4 * GAP, channels), 255, dtype=np.uint8)
    whole = panels[0]
    for panel in panels[1:]:
        whole = np.concatenate([whole, gap, panel], axis=1)
    picture = Image.fromarray(whole[..., 0] if channels == 1 else whole)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _arrange(images: torch.Tensor, rows: int) -> np.ndarray[Any, Any]:
    """Images [N, C, H, W] to one picture [rows of them, columns, C]; image i goes to row i modulo rows."""
    count, channels, height, width = images.shape
    columns = count // rows
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), 255, dtype=np.uint8)
    for index, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        top, left = (index % rows) * (height + GAP), (index // rows) * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    return canvas
