"""U-ViT NAT, plain ENAT and ENAT with reuse, at equal operations an image."""

from autonat.analyses.equal_operations import describe, equal_networks, flops_label
from autonat.analyses.estimates import verdict
from autonat.analyses.findings import Findings, Series
from autonat.analyses.subject import Subject
from autonat.search.program import Program

CLAIM = "ENAT's paper has both changes pay at the same operations: plain ENAT over U-ViT, reuse over plain"


def program(subject: Subject) -> Program[Findings]:
    """Train the three alike and measure each under the study's tuned schedule."""
    networks = equal_networks(subject.training.network, subject.tuned.schedule)
    measured = yield from subject.measure(networks)
    rows = [
        {
            "network": name,
            "sizes": describe(config),
            "operations": flops_label(config, subject.tuned.schedule),
            "rule": subject.schedule(config).rule,
            "distance": measured[name],
        }
        for name, config in networks.items()
    ]
    uvit, plain, reuse = measured.values()
    return Findings(
        title="Three networks at equal operations",
        reading=(
            "The same data, training and mask ratio for each; width and feed-forward width chosen so that an image "
            "costs the same within 5%. All paint under the schedule that was tuned for the study's network, which "
            "favours that one."
        ),
        columns=(
            ("network", "network"),
            ("sizes", "sizes"),
            ("operations", "an image"),
            ("rule", "rule"),
            ("distance", "distance"),
        ),
        rows=tuple(rows),
        verdict=verdict(CLAIM, [("U-ViT - plain", uvit - plain), ("plain - reuse", plain - reuse)]),
        axes=("network", "distance"),
        series=(Series("distance", tuple(networks), tuple(measured.values())),),
    )
