"""How much features change from step to step, in U-ViT and in both ENATs."""

from autonat.analyses.equal_operations import equal_networks
from autonat.analyses.estimates import Measured, mean_of, verdict
from autonat.analyses.findings import Findings, Series
from autonat.analyses.subject import Subject
from autonat.search.program import Ask, Phase, Program
from autonat.specs import FeatureChanges, FeatureChangeSpec
from models.networks import NetworkConfig

CLAIM = "ENAT's paper saw in U-ViTs that visible tokens' features all but repeat themselves while new ones' change"
MOST_IMAGES = 1000

Name = tuple[int, str, str]


def program(subject: Subject) -> Program[Findings]:
    """Train the networks of the equal-operations comparison and follow their features along the tuned schedule."""
    networks: dict[str, NetworkConfig] = {"the study's network": subject.network}
    if subject.is_trained:
        networks = equal_networks(subject.network, subject.tuned.schedule)
    yield from subject.train(networks)
    lab = subject.lab
    num_images = min(subject.num_images, lab.whole_blocks(MOST_IMAGES))
    wanted = [(name, generator) for name, network in networks.items() for generator in subject.generators(network)]
    specs = [
        FeatureChangeSpec(
            generator, subject.schedule(networks[name]), subject.image_seed, num_images, lab.block_size, lab.compute
        )
        for name, generator in wanted
    ]
    answer = yield Ask(Phase("analysis", 0, "feature change"), tuple(specs))
    assert answer is not None
    found: dict[str, list[FeatureChanges]] = {name: [] for name in networks}
    for (name, _), result in zip(wanted, answer, strict=True):
        assert isinstance(result, FeatureChanges)
        found[name].append(result)
    rows = [
        {
            "network": network,
            "step": f"{name[0]} -> {name[0] + 1}",
            "layer": name[1],
            "tokens": name[2],
            "relative": _measured(results, name, "relatives"),
            "cosine": _measured(results, name, "cosines"),
        }
        for network, results in found.items()
        for name in results[0].names
    ]
    return Findings(
        title="How much features change between steps",
        num_images=num_images,
        reading=(
            "Images are painted under the tuned schedule; every canvas goes through the network alone, "
            "nothing carried over, and each block's output is compared with that on the canvas before: |after - "
            "before| / |before| and the cosine, means over tokens. Tokens are visible at both steps, new (masked "
            "before), or masked at both; ENAT's encoder has visible ones alone, its decoder masked ones."
        ),
        columns=(
            ("network", "network"),
            ("step", "between steps"),
            ("layer", "block"),
            ("tokens", "tokens"),
            ("relative", "relative change"),
            ("cosine", "cosine"),
        ),
        rows=tuple(rows),
        verdict=_verdict(found),
        axes=("from the canvas of step t to the next", "relative change"),
        series=tuple(
            series for network, results in found.items() for series in _lines(network, results) if len(series.x)
        ),
    )


def _measured(results: list[FeatureChanges], name: Name, which: str) -> Measured:
    shares = []
    for result in results:
        column = result.names.index(name)
        shares.append(tuple(block[column] for block in getattr(result, which)))
    return Measured(tuple(sum(blocks) / len(blocks) for blocks in shares), tuple(shares))


def _lines(network: str, results: list[FeatureChanges]) -> list[Series]:
    """Visible tokens in every block, and the new ones in the last block that has them."""
    names = results[0].names
    layers = list(dict.fromkeys(layer for _, layer, group in names if group == "visible"))
    new = [layer for _, layer, group in names if group == "new"]
    wanted = [(layer, "visible") for layer in layers] + [(layer, "new") for layer in new[-1:]]
    lines = []
    for layer, group in wanted:
        chosen = [name for name in names if name[1:] == (layer, group)]
        lines.append(
            Series(
                f"{network}, {layer}, {group}",
                tuple(float(name[0]) for name in chosen),
                tuple(_measured(results, name, "relatives") for name in chosen),
            )
        )
    return lines


def _verdict(found: dict[str, list[FeatureChanges]]) -> str:
    """New against visible tokens, where both go through the same blocks."""
    for network, results in found.items():
        shared = [name for name in results[0].names if name[2] == "visible" and (*name[:2], "new") in results[0].names]
        if shared:
            new = mean_of([_measured(results, (step, layer, "new"), "relatives") for step, layer, _ in shared])
            visible = mean_of([_measured(results, name, "relatives") for name in shared])
            means = f"{network}, mean over steps and blocks: new {new.mean:.3f}, visible {visible.mean:.3f}"
            return verdict(CLAIM, [(f"{means}, new - visible", new - visible)])
    return (
        "No network here has new and visible tokens in the same block at two steps, so the paper's observation cannot "
        "be looked at."
    )
