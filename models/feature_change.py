"""How much a network's features change from one decoding step to the next, block by block.

ENAT (arXiv 2411.06959) rests on what was seen in U-ViTs: from step to step the features of tokens that were visible
already hardly move. Images are painted as ever; then every canvas on the way goes through the network once more, alone
(nothing is carried over), and the outputs of every block are compared with those on the canvas before.

A token belongs to one of three groups: `visible` at both steps, `new` (masked at the earlier one), `masked` at both.
ENAT's encoder has visible tokens alone, its decoder masked ones (all of them under `full`), so not every block has
every group.

Shapes: B images, L tokens, D width, R rows of a block's output.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.evaluate import Block, Generator
from models.sample import Canvas, Step, sample
from models.schedule import GenerationSchedule

GROUPS = ("visible", "new", "masked")


@dataclass(frozen=True, slots=True)
class Change:
    """Between the canvases that steps `step` and `step + 1` see (1 is the first step, on an empty canvas).

    layer: which block's output; cosine: mean cosine similarity of a token's features at both; relative: mean of
    |after - before| / |before|; num_tokens: how many tokens these are means of.
    """

    step: int
    layer: str
    group: str
    cosine: float
    relative: float
    num_tokens: int


@dataclass(frozen=True)
class LayerOutput:
    """A block's output features [B, L, D] at the positions [B, L] that it has."""

    features_BLD: Tensor
    present_BL: Tensor


def layers_of(network: Any) -> list[tuple[str, Any]]:
    """Names and modules of all blocks in the order in which they run."""
    config = network.config
    if config.kind == "enat":
        names = [f"encoder {n + 1}" for n in range(config.encoder_blocks)]
        names += [f"decoder {n + 1}" for n in range(config.decoder_blocks)]
        return list(zip(names, network.blocks, strict=True))
    blocks = [*network.in_blocks, network.mid_block, *network.out_blocks]
    return [(f"block {n + 1}", block) for n, block in enumerate(blocks)]


def layer_outputs(network: Any, canvas: Canvas, labels_B: Tensor) -> dict[str, LayerOutput]:
    """Every block's output on a canvas that is seen for the first time; blocks that do not run are left out."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.__setitem__(name, output))
        for name, module in layers_of(network)
    ]
    try:
        network(canvas.tokens_BL, canvas.masked_BL, labels_B, None, canvas.num_masked)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _placed(network, name, output, canvas.masked_BL) for name, output in seen.items()}


def _placed(network: Any, name: str, output_BRD: Tensor, masked_BL: Tensor) -> LayerOutput:
    """Rows back at their positions."""
    length = masked_BL.shape[1]
    if network.config.kind != "enat":  # rows: context, then all positions
        return LayerOutput(output_BRD[:, -length:], torch.ones_like(masked_BL))
    # Rows: visible positions, then masked ones, each in position order; a part of them.
    order_BL = torch.argsort(masked_BL.long(), dim=1, stable=True)
    rows = output_BRD.shape[1]
    order_BR = order_BL[:, :rows] if name.startswith("encoder") else order_BL[:, length - rows :]
    features_BLD = output_BRD.new_zeros(len(masked_BL), length, output_BRD.shape[2])
    features_BLD.scatter_(1, order_BR[..., None].expand_as(output_BRD), output_BRD)
    return LayerOutput(features_BLD, torch.zeros_like(masked_BL).scatter(1, order_BR, True))


def compare(step: int, layer: str, before: LayerOutput, after: LayerOutput, groups: dict[str, Tensor]) -> list[Change]:
    """The change of one block's output; groups: positions [B, L] by name. Groups that the block lacks are left out."""
    earlier, later = before.features_BLD.float(), after.features_BLD.float()
    cosine_BL = F.cosine_similarity(earlier, later, dim=-1)
    relative_BL = (later - earlier).norm(dim=-1) / earlier.norm(dim=-1).clamp(min=1e-12)
    found = []
    for name, group_BL in groups.items():
        both_BL = group_BL & before.present_BL & after.present_BL
        if both_BL.any():
            cosine, relative = float(cosine_BL[both_BL].mean()), float(relative_BL[both_BL].mean())
            found.append(Change(step, layer, name, cosine, relative, int(both_BL.sum())))
    return found


@torch.inference_mode()
def feature_changes(generator: Generator, schedule: GenerationSchedule, block: Block) -> list[Change]:
    """The changes on the way of one block's images, painted under `schedule`: by step, block of the network, group."""
    labels_B = generator.labels(block)
    config = generator.network.config
    canvases = [Canvas.empty(len(labels_B), config.num_tokens, config.codebook_size, generator.device)]

    def observe(step: int, taken: Step) -> None:
        if step < schedule.num_steps - 1 and taken.canvas.masked_BL.any():  # else no further step looks at it
            canvases.append(taken.canvas)

    with generator.precisely():
        sample(generator.network, schedule, labels_B, generator.noise(block), observe=observe)
        changes: list[Change] = []
        outputs = layer_outputs(generator.network, canvases[0], labels_B)
        for step, (before, after) in enumerate(itertools.pairwise(canvases), 1):
            later = layer_outputs(generator.network, after, labels_B)
            was_BL, is_BL = before.masked_BL, after.masked_BL
            groups = {"visible": ~was_BL & ~is_BL, "new": was_BL & ~is_BL, "masked": was_BL & is_BL}
            for layer in outputs.keys() & later.keys():
                changes += compare(step, layer, outputs[layer], later[layer], groups)
            outputs = later
    order = {name: number for number, (name, _) in enumerate(layers_of(generator.network))}
    return sorted(changes, key=lambda change: (change.step, order[change.layer], GROUPS.index(change.group)))
