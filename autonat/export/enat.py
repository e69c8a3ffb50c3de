"""ENAT's way to say a schedule (LeapLabTHU/ENAT): three scalars on a fixed form, and beside them the table itself.

With s = (t+1)/T, t = 0 .. T-1, the official loop has mask ratio cos(pi s / 2), re-masking noise mask_temp (1 - s),
softmax temperature max(samp_temp (1 - s), 0.001) and guidance cfg_scale t/T. A tuned schedule is not of this form in
general: the file holds the nearest scalars, how far off they are, and a table by the loop's own variable names that is
the schedule exactly, but for mask ratios that rise (see ``falling``).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from autonat.errors import UserError
from autonat.export.content import Content, Format, Imported, one_file
from autonat.export.reading import build, number, numbers, object_under, parse_yaml, peek, read_text
from autonat.storage.files import write_atomically
from models.sample import Knobs, count_to_mask
from models.schedule import BOUNDS, FAMILIES, GenerationSchedule, enat_linear

SCALARS = {
    "cfg_scale": "guidance_scale",
    "mask_temp": "choice_temperature",
    "samp_temp": "sampling_temperature",
}
SAMPLING_FLOOR = 1e-3  # under the sampling temperature, in the official loop and in ``enat_linear``
TABLE = ("mask_ratio", "annealed_temp", "annealed_samp_temp", "cfg_scale")


@dataclass(frozen=True)
class Nearest:
    """The nearest schedule of ENAT's form. residual: by family (root mean square, largest difference)."""

    scalars: dict[str, float]
    schedule: GenerationSchedule
    residual: dict[str, tuple[float, float]]


def nearest(schedule: GenerationSchedule) -> Nearest:
    """Least squares, family by family; each family hangs on one scalar. Mask ratios have none: their residual is what
    it is."""
    steps = schedule.num_steps
    falling = [1 - (step + 1) / steps for step in range(steps)]
    rising = [step / steps for step in range(steps)]
    scalars = {
        "cfg_scale": _slope(rising, schedule.guidance_scales, BOUNDS["guidance_scales"]),
        "mask_temp": _slope(falling[:-1], schedule.choice_temperatures, BOUNDS["choice_temperatures"]),
        "samp_temp": _slope(
            falling, schedule.sampling_temperatures, BOUNDS["sampling_temperatures"], floor=SAMPLING_FLOOR
        ),
    }
    fitted = _from_scalars(steps, scalars)
    residual = {}
    for family in FAMILIES:
        gaps = [abs(a - b) for a, b in zip(getattr(schedule, family), getattr(fitted, family), strict=True)]
        mean_square = math.fsum(gap * gap for gap in gaps) / max(len(gaps), 1)
        residual[family] = (math.sqrt(mean_square), max(gaps, default=0.0))
    return Nearest(scalars, fitted, residual)


def _slope(
    shape: Sequence[float], values: Sequence[float], bounds: tuple[float, float], *, floor: float | None = None
) -> float:
    """The a that minimises the sum of (value - a shape)^2, or with a floor of (value - max(a shape, floor))^2, and
    keeps a shape within the bounds.

    With a floor the sum is a parabola in a between the points where a shape crosses it, so the least value lies at the
    vertex of one of these parabolas or at such a point. 0 where the shape is 0 throughout.
    """

    def loss(a: float) -> float:
        heights = [a * x if floor is None else max(a * x, floor) for x in shape]
        return math.fsum((y - height) ** 2 for y, height in zip(values, heights, strict=True))

    pairs = sorted(((x, y) for x, y in zip(shape, values, strict=True) if x > 0), reverse=True)
    if not pairs:
        return 0.0
    above = range(1, len(pairs) + 1) if floor is not None else [len(pairs)]
    candidates = [
        math.fsum(x * y for x, y in pairs[:count]) / math.fsum(x * x for x, _ in pairs[:count]) for count in above
    ]
    if floor is not None:
        candidates = [0.0, *(floor / x for x, _ in pairs), *candidates]
    # A schedule that was made from scalars gives them back, not their last bit's neighbours.
    candidates = [float(f"{a:.12g}") for a in candidates] + candidates
    # A hair inside, as the product with the shape rounds.
    low, high = (bound / pairs[0][0] * (1 - 1e-12) for bound in bounds)
    return min((min(max(a, low), high) for a in candidates), key=loss)


def _from_scalars(steps: int, scalars: dict[str, float]) -> GenerationSchedule:
    return enat_linear(steps, **{SCALARS[key]: value for key, value in scalars.items()})


def mask_counts(schedule: GenerationSchedule, num_tokens: int) -> list[int]:
    """How many of L tokens are masked again after each step."""
    counts, masked = [], num_tokens
    for step in range(schedule.num_steps):
        masked = count_to_mask(Knobs.at(schedule, step), num_tokens, masked)
        counts.append(masked)
    return counts


def falling(schedule: GenerationSchedule) -> GenerationSchedule:
    """The schedule with the running minimum of its mask ratios, which masks as many tokens (but for ties).

    Ratios are searched one by one, so they may rise. Our rule then masks no visible token again; the official loop has
    no such clamp, and its network, which goes on from the features of visible tokens, asserts.
    """
    return replace(schedule, mask_ratios=tuple(accumulate(schedule.mask_ratios, min)))


def table(schedule: GenerationSchedule) -> dict[str, list[float]]:
    """The four variables of the official loop, T values each. The guidance is that of the step itself (the official
    loop sets it for the next step, so its first is 0)."""
    steps = range(schedule.num_steps)
    return {
        "mask_ratio": [schedule.mask_ratio(step) for step in steps],
        "annealed_temp": [schedule.choice_temperature(step) for step in steps],
        "annealed_samp_temp": list(schedule.sampling_temperatures),
        "cfg_scale": list(schedule.guidance_scales),
    }


def residual_notes(schedule: GenerationSchedule, num_tokens: int) -> list[str]:
    """What the three scalars leave out, in lines for a person."""
    fit = nearest(schedule)
    lines = ["nearest scalars: " + ", ".join(f"{key} {value:.6g}" for key, value in fit.scalars.items())]
    for family, (mean_square, largest) in fit.residual.items():
        lines.append(f"residual of {family}: {mean_square:.4g} root mean square, {largest:.4g} at most")
    ours, theirs = (mask_counts(one, num_tokens) for one in (schedule, fit.schedule))
    gap = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    lines.append(f"masked tokens after a step: off by {gap} of {num_tokens} at most; the table has no residual")
    if schedule.rule != "enat":
        lines.append(f"tuned under the {schedule.rule} rule: ENAT's loop floors L r without a clamp and cuts otherwise")
    return lines


HEADER = """# Schedule found by autonat, for LeapLabTHU/ENAT.
# cfg_scale, mask_temp, samp_temp are the nearest values of the official command line; `residual` says how far off.
# For the schedule itself, read `table` and begin each step of NATSchedule.generate with
#     mask_ratio, annealed_temp = table["mask_ratio"][step], table["annealed_temp"][step]
#     annealed_samp_temp, cfg_scale = max(table["annealed_samp_temp"][step], 1e-3), table["cfg_scale"][step]
# in place of its formulas, and drop the line that sets cfg_scale at the end of the step.
"""


def write(content: Content, path: Path) -> list[str]:
    import yaml

    schedule = falling(content.schedule)
    fit = nearest(schedule)
    data: dict[str, Any] = {
        "sample_steps": schedule.num_steps,
        **fit.scalars,
        "residual": {
            family: {"root_mean_square": mean_square, "largest": largest}
            for family, (mean_square, largest) in fit.residual.items()
        },
        "decoding_rule": schedule.rule,
        "table": table(schedule),
        # Through JSON, so that only plain values are left.
        "provenance": json.loads(json.dumps(content.provenance)),
    }
    text = HEADER + yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=1_000_000)
    write_atomically(path, text.encode())
    notes = residual_notes(schedule, content.num_tokens)
    if schedule != content.schedule:
        notes.append("mask ratios that rise are written as their running minimum: as many tokens are masked")
    return notes


def recognises(path: Path) -> bool:
    data = peek(path, parse_yaml)
    columns = data.get("table")
    has_table = isinstance(columns, dict) and "annealed_samp_temp" in columns
    return "format" not in data and ({*SCALARS} <= set(data) or has_table)


def read(path: Path, num_steps: int | None = None) -> Imported:
    data = parse_yaml(read_text(path), path)
    provenance = object_under(data, "provenance", path)
    if "table" in data:
        columns = object_under(data, "table", path)
        values = {name: numbers(columns, name, path) for name in TABLE}
        lengths = {name: len(column) for name, column in values.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"{path}: the table's columns differ in length: {lengths}")
        if 0 in lengths.values():
            raise UserError(f"{path}: the table has no steps")
        if values["mask_ratio"][-1] != 0:
            raise UserError(f"{path}: the table's last mask_ratio must be 0: nothing is masked after the last step")
        families = {
            "mask_ratios": values["mask_ratio"][:-1],
            "choice_temperatures": values["annealed_temp"][:-1],
            "sampling_temperatures": values["annealed_samp_temp"],
            "guidance_scales": values["cfg_scale"],
        }
        return Imported(build(path, data.get("decoding_rule", "enat"), families), (), provenance)
    scalars = {}
    for key in SCALARS:
        if key not in data:
            raise UserError(f"{path}: {key} is missing")
        scalars[key] = number(data[key], f"{path}: {key}")
    stated = data.get("sample_steps", num_steps)
    if not isinstance(stated, int) or isinstance(stated, bool) or not 1 <= stated <= 10_000:
        raise UserError(f"{path}: three scalars do not say for how many steps: give --steps T")
    try:
        return Imported(_from_scalars(stated, scalars), (), provenance)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


FORMAT = Format("enat", "ENAT's three scalars, their residual, the exact table", one_file, write, recognises, read)
