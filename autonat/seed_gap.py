"""How far a study's held-out distance is from what its search measured: a search that fits its own seeds promises more
than fresh ones keep."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # specs bring torch along, and the dashboards read this file
    from autonat.specs import Evaluation


def seed_gap(search_time: "Evaluation", held_out: "Evaluation") -> dict[str, Any]:
    """For a summary: the tuned pair's distance as the search last measured it, and held-out minus that. The two have
    different seeds, so their variances add up."""
    return {
        "value": search_time.value,
        "standard_error": search_time.standard_error,
        "num_images": search_time.num_images,
        "gap": held_out.value - search_time.value,
        "gap_standard_error": math.hypot(held_out.standard_error, search_time.standard_error),
    }


def gap_line(summary: dict[str, Any] | None) -> str | None:
    """The gap in a sentence; None for a study without one (unfinished, or of an earlier version)."""
    found = (summary or {}).get("search_time")
    if summary is None or found is None:
        return None
    return (
        f"Tuned pair: search-time {found['value']:.3f} +- {found['standard_error']:.3f} "
        f"({found['num_images']:,} images), "
        f"held-out {summary['tuned']['value']:.3f} +- {summary['tuned']['standard_error']:.3f}, "
        f"gap {found['gap']:+.3f} +- {found['gap_standard_error']:.3f}."
    )
