"""Distance against width and depth."""

from dataclasses import replace
from typing import Any

from autonat.analyses.equal_operations import describe, flops_label, operations, width_unit
from autonat.analyses.estimates import verdict
from autonat.analyses.findings import Findings, Series
from autonat.analyses.subject import Subject
from autonat.search.program import Program
from models.counts import num_parameters

CLAIM = "In both papers larger networks of a kind are better (AutoNAT-S to L, ENAT-L to XL)"
WIDTHS = (0.5, 1.0, 1.5)


def widths(config: Any) -> dict[str, Any]:
    """The network at half, its own and one and a half times its width."""
    unit = width_unit(config)
    found = sorted({max(unit, round(factor * config.width / unit) * unit) for factor in WIDTHS})
    return {f"width {width}": replace(config, width=width) for width in found}


def depths(config: Any) -> dict[str, Any]:
    """The network at half, its own, and twice its depth (ENAT: encoder; at least one block; U-ViT: odd)."""
    if config.kind == "enat":
        blocks = config.encoder_blocks
        found = sorted({max(1, blocks // 2), blocks, max(2, 2 * blocks)})
        return {f"{n} + {config.decoder_blocks} blocks": replace(config, encoder_blocks=n) for n in found}
    found = sorted({config.blocks // 2 | 1, config.blocks, 2 * config.blocks | 1})
    return {f"{blocks} blocks": replace(config, blocks=blocks) for blocks in found}


def program(subject: Subject) -> Program[Findings]:
    """Train every size alike and measure each under the study's tuned schedule."""
    config: Any = subject.training.network
    by_width, by_depth = widths(config), depths(config)
    measured = yield from subject.measure({**by_width, **by_depth})
    schedule = subject.tuned.schedule
    rows = [
        {
            "size": name,
            "sizes": describe(network),
            "parameters": num_parameters(network),
            "operations": flops_label(network, schedule),
            "distance": measured[name],
        }
        for name, network in {**by_width, **by_depth}.items()
    ]
    steps = []
    for names in (list(by_width), list(by_depth)):
        if len(names) > 1:
            steps.append((f"{names[0]} - {names[-1]}", measured[names[0]] - measured[names[-1]]))
    return Findings(
        title="Distance against width and depth",
        reading=(
            "The study's network with other widths (heads stay) and other depths, trained and painted alike: neither "
            "the training's length nor the schedule was tuned for these sizes."
        ),
        columns=(
            ("size", "changed"),
            ("sizes", "sizes"),
            ("parameters", "parameters"),
            ("operations", "an image"),
            ("distance", "distance"),
        ),
        rows=tuple(rows),
        verdict=verdict(CLAIM, steps),
        axes=("MFLOPs an image", "distance"),
        series=tuple(
            Series(
                name,
                tuple(2e-6 * operations(network, schedule) for network in networks.values()),
                tuple(measured[size] for size in networks),
            )
            for name, networks in (("width", by_width), ("depth", by_depth))
        ),
    )
