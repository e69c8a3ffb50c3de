"""How far a study's held-out distance is from what its search measured: a search that fits its own seeds promises more
than fresh ones keep."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # specs bring torch along, and the dashboards read this file
    from autonat.specs import Evaluation


def seed_gap(search_time: "Evaluation", fresh: "Evaluation") -> dict[str, Any]:
    """For a summary: the tuned pair's distance as the search last measured it, the same on as many images of a seed
    that nothing has seen, and that minus the first. The seeds differ, so the variances add up.

    Raises ValueError where the numbers of images differ: a distance of fewer reads higher.
    """
    if fresh.num_images != search_time.num_images:
        raise ValueError(f"a gap of {fresh.num_images} and {search_time.num_images} images would be of their numbers")
    return {
        "value": search_time.value,
        "standard_error": search_time.standard_error,
        "num_images": search_time.num_images,
        "fresh_value": fresh.value,
        "fresh_standard_error": fresh.standard_error,
        "gap": fresh.value - search_time.value,
        "gap_standard_error": math.hypot(fresh.standard_error, search_time.standard_error),
    }


def gap_line(summary: dict[str, Any] | None) -> str | None:
    """The gap in a sentence; None for a study without one (unfinished, or of an earlier version)."""
    found = (summary or {}).get("search_time")
    if found is None or "fresh_value" not in found:  # which compared distances of different numbers of images
        return None
    return (
        f"Tuned pair on {found['num_images']:,} images: as the search saw it {found['value']:.3f} +- "
        f"{found['standard_error']:.3f}, on fresh seeds {found['fresh_value']:.3f} +- "
        f"{found['fresh_standard_error']:.3f}, gap {found['gap']:+.3f} +- {found['gap_standard_error']:.3f}."
    )
