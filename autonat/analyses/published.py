"""What the papers say to each analysis: figures as far as docs/published.md has them, none made up."""

from dataclasses import dataclass

NOT_ESTABLISHED = "The paper's figures for this were not established; docs/published.md says what was."


@dataclass(frozen=True)
class Published:
    """lines: published figures, or that there are none here; source: where they are from."""

    lines: tuple[str, ...]
    source: str = "ENAT, arXiv 2411.06959"


def published(what: str) -> Published:
    """What stands beside analysis `what`. Other data and another metric than a study's: only orderings compare."""
    if what == "networks":
        return Published(
            (*_points(("AutoNAT-S", "AutoNAT-L", "ENAT-L")), f"At equal operations: {NOT_ESTABLISHED}"),
            "AutoNAT, arXiv 2406.05478 (U-ViT); ENAT, arXiv 2411.06959",
        )
    if what == "size":
        # ENAT-XL's number of steps was not established, so it is no point of the dashboards' plot.
        return Published(
            (*_points(("AutoNAT-S", "AutoNAT-L", "ENAT-L")), "ENAT-XL, ImageNet-256, T not established: FID 2.48"),
            "AutoNAT, arXiv 2406.05478; ENAT, arXiv 2411.06959",
        )
    return Published((NOT_ESTABLISHED,))


def _points(models: tuple[str, ...]) -> list[str]:
    from dashboards.published import POINTS

    return [
        f"{model}, {data}, T = {steps:g}: FID {fid:g}" for model, data, steps, _, fid, _ in POINTS if model in models
    ]
