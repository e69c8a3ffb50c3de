"""Who attends to whom in ENAT's decoder: `self_cross`, `full`, `cross`."""

from dataclasses import replace

from autonat.analyses.equal_operations import as_enat, flops_label
from autonat.analyses.estimates import verdict
from autonat.analyses.findings import Findings, Series
from autonat.analyses.subject import Subject
from autonat.search.program import Program
from models.enat import ENATConfig

CLAIM = "ENAT's paper chose self_cross over full and cross"
MEANINGS = {
    "self_cross": "visible and masked -> masked",
    "full": "visible and masked -> both",
    "cross": "visible -> masked",
}


def decoder_networks(subject: Subject) -> dict[str, ENATConfig]:
    """The study's network (as an ENAT, if it is a U-ViT) with each decoder attention."""
    enat = as_enat(subject.training.network)
    return {
        "self_cross": replace(enat, decoder_attention="self_cross"),
        "full": replace(enat, decoder_attention="full"),
        "cross": replace(enat, decoder_attention="cross"),
    }


def program(subject: Subject) -> Program[Findings]:
    """Train the three alike and measure each under the study's tuned schedule."""
    networks = decoder_networks(subject)
    measured = yield from subject.measure(networks)
    rows = [
        {
            "attention": name,
            "meaning": MEANINGS[name],
            "operations": flops_label(config, subject.tuned.schedule),
            "distance": measured[name],
        }
        for name, config in networks.items()
    ]
    chosen = measured["self_cross"]
    return Findings(
        title="The decoder's attention",
        reading=(
            "The same sizes, data, training and mask ratio for each, painted under the study's tuned schedule. The "
            "weights have the same shapes; the operations differ."
        ),
        columns=(
            ("attention", "decoder attention"),
            ("meaning", "who sees whom"),
            ("operations", "an image"),
            ("distance", "distance"),
        ),
        rows=tuple(rows),
        verdict=verdict(
            CLAIM,
            [("full - self_cross", measured["full"] - chosen), ("cross - self_cross", measured["cross"] - chosen)],
        ),
        axes=("decoder attention", "distance"),
        series=(Series("distance", tuple(networks), tuple(measured.values())),),
    )
