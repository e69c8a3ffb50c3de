"""The held-out report's further metrics as columns of a table."""

from typing import Any

# Heading, torch-fidelity's key, whether a deviation stands beside it, decimals.
COLUMNS = (
    ("IS", "inception_score", True, 2),
    ("KID", "kernel_inception_distance", True, 5),
    ("KID, Gaussian", "kernel_inception_distance_rbf", True, 5),
    ("precision", "precision", False, 3),
    ("recall", "recall", False, 3),
    ("variety", "within_class_variance", False, 2),
)

# A pair with less than this share of the baseline's variety is remarked upon, unless the recipe has a share of its own.
LOST_VARIETY = 0.9
# The error of a held-out variety, about: what is within it of the share has kept it.
MARGIN = 0.01


def headings(summary: dict[str, Any]) -> list[str]:
    """Columns that a study's summary has numbers for."""
    return [heading for heading, *_ in _present(summary)]


def cells(summary: dict[str, Any], pair: str) -> list[str]:
    """A pair's numbers, one a column; empty for the real images."""
    values = ((summary.get("metrics") or {}).get(pair) or {}).get("values", {})
    found = []
    for _, key, deviates, decimals in _present(summary):
        mean = values.get(f"{key}_mean" if deviates else key)
        text = "" if mean is None else f"{mean:.{decimals}f}"
        found.append(f"{text} +- {values[f'{key}_std']:.{decimals}f}" if text and deviates else text)
    return found


def caption(summary: dict[str, Any]) -> str:
    """What the columns were measured on; nothing without any."""
    metrics = summary.get("metrics")
    if not metrics:
        return ""
    entry = metrics["tuned"]
    text = f" Further metrics: features of {entry['sampled_images']:,} generated"
    if entry["reference_images"]:
        text += f" and {entry['reference_images']:,} real images"
    if entry["kid_subset_images"]:
        text += f", KID in subsets of {entry['kid_subset_images']:,}"
    if "within_class_variance" in entry["values"]:
        text += ", variety: variance of the features within a class"
    return text + "; their +- is the deviation over subsets or splits."


def variety_line(summary: dict[str, Any] | None) -> str | None:
    """A sentence where a tuned pair's images vary less within a class than the baseline's; None where they do not, or
    where it was not measured.

    A distance can fall by painting each class's typical picture again and again, which this tells and it does not.
    """
    metrics = (summary or {}).get("metrics") or {}
    varieties = {pair: entry["values"].get("within_class_variance") for pair, entry in metrics.items()}
    before, after = varieties.get("baseline"), varieties.get("tuned")
    share = (summary or {}).get("keep_variety") or LOST_VARIETY
    if before is None or after is None or after >= (share - MARGIN) * before:
        return None
    return (
        f"Variety within classes fell from {before:.3g} to {after:.3g}: the tuned pair's distance may have been bought "
        "with it. Look at its samples before using it."
    )


def _present(summary: dict[str, Any]) -> list[tuple[str, str, bool, int]]:
    metrics = summary.get("metrics")
    values = metrics["tuned"]["values"] if metrics else {}
    return [column for column in COLUMNS if (f"{column[1]}_mean" if column[2] else column[1]) in values]
