"""Networks of other kinds that cost an image the same operations as a study's own."""

import math
from dataclasses import replace
from typing import Any

from autonat.errors import UserError
from autonat.units import with_prefix
from models.counts import image_counts
from models.enat import ENATConfig
from models.networks import NetworkConfig
from models.schedule import GenerationSchedule
from models.uvit import TextUViTConfig, UViTConfig

# Operations count as equal within this share of each other.
EQUAL = 0.05
# How far the feed-forward width may be bent to meet the operations, as a share of the network's own.
LEAST_MLP, MOST_MLP = 0.5, 2.0


def schedule_for(config: NetworkConfig, schedule: GenerationSchedule) -> GenerationSchedule:
    """The schedule under a rule that the kind of network can follow: ENAT needs one count in a batch, so no rule that
    masks ties; for a U-ViT AutoNAT's own."""
    if config.kind == "enat":
        return replace(schedule, rule="enat")
    return replace(schedule, rule="autonat") if schedule.rule == "enat" else schedule


def operations(config: NetworkConfig, schedule: GenerationSchedule) -> int:
    """Multiply-accumulates of one image, every step of it counted (``models.counts``, the sampler's protocol)."""
    return sum(step.macs for step in image_counts(config, schedule_for(config, schedule)))


def flops_label(config: NetworkConfig, schedule: GenerationSchedule) -> str:
    """The operations of one image as text: 2 FLOPs a multiply-accumulate."""
    return f"{with_prefix(2 * operations(config, schedule))}FLOPs"


def as_enat(config: NetworkConfig) -> ENATConfig:
    """An ENAT with the sizes of a class-conditional network: two of its blocks decode, as in ENAT-L."""
    if isinstance(config, ENATConfig):
        return config
    config = _with_classes(config)
    decoder_blocks = min(2, config.blocks)
    return ENATConfig(encoder_blocks=config.blocks - decoder_blocks, decoder_blocks=decoder_blocks, **_shared(config))


def as_uvit(config: NetworkConfig) -> UViTConfig:
    """A U-ViT with the sizes of a class-conditional network; its blocks are odd, so there may be one more."""
    if not isinstance(config, ENATConfig):
        return _with_classes(config)
    return UViTConfig(blocks=(config.encoder_blocks + config.decoder_blocks) | 1, **_shared(config))


def _with_classes(config: UViTConfig | TextUViTConfig) -> UViTConfig:
    if isinstance(config, TextUViTConfig):
        raise UserError("this analysis compares networks that are trained here, and text networks are not")
    return config


def _shared(config: ENATConfig | UViTConfig) -> dict[str, Any]:
    names = ("num_tokens", "codebook_size", "num_classes", "width", "heads", "mlp_ratio")
    return {name: getattr(config, name) for name in (*names, "embedding_std", "initial_positions")}


def width_unit(config: Any) -> int:
    """What a network's width must be a multiple of."""
    return math.lcm(config.heads, 4) if config.initial_positions == "sinusoidal" else int(config.heads)


def fitted(config: Any, schedule: GenerationSchedule, target: int) -> Any:
    """The configuration with another width, and the feed-forward width bent a little, so that an image costs `target`
    multiply-accumulates within EQUAL. Depth and heads stay. Raises UserError where no width comes near enough."""
    if abs(operations(config, schedule) / target - 1) <= EQUAL:
        return config
    unit = width_unit(config)
    nearest = sorted(
        (replace(config, width=width) for width in range(unit, 4 * config.width + 1, unit)),
        key=lambda candidate: abs(operations(candidate, schedule) - target),
    )
    for candidate in nearest[:2]:
        bent = _bent(candidate, schedule, target)
        if bent is not None:
            return bent
    raise UserError(
        f"no {config.kind} of {config.heads} heads has {target:,} operations an image within {100 * EQUAL:g}%"
    )


def _bent(config: Any, schedule: GenerationSchedule, target: int) -> Any | None:
    """The feed-forward width that meets `target`, in steps of 1/16 of a width; None where none in bounds does."""
    usual = config.mlp_ratio
    base, more = (operations(replace(config, mlp_ratio=ratio), schedule) for ratio in (usual, usual + 1))
    ratio = round(16 * (usual + (target - base) / (more - base))) / 16
    ratio = min(max(ratio, LEAST_MLP * usual), MOST_MLP * usual)
    bent = replace(config, mlp_ratio=ratio)
    return bent if abs(operations(bent, schedule) / target - 1) <= EQUAL else None


def equal_networks(config: NetworkConfig, schedule: GenerationSchedule) -> dict[str, Any]:
    """U-ViT, plain ENAT and ENAT with reuse, each at the operations of `config`, which is among them as it is."""
    target = operations(config, schedule)
    enat, uvit = as_enat(config), as_uvit(config)
    return {
        "U-ViT NAT": fitted(uvit, schedule, target),
        "plain ENAT": fitted(replace(enat, reuse=False), schedule, target),
        "ENAT with reuse": fitted(replace(enat, reuse=True), schedule, target),
    }


def describe(config: Any) -> str:
    """Width and depth in a few words."""
    depth = f"{config.encoder_blocks} + {config.decoder_blocks}" if config.kind == "enat" else str(config.blocks)
    return f"width {config.width}, {depth} blocks, MLP x{config.mlp_ratio:g}"
