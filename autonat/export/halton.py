"""Tables for samplers in the manner of Halton-MaskGIT and MaskGIT-PyTorch (valeoai), as JSON.

They count what becomes visible instead of what is masked again, multiply logits by a scale instead of dividing by a
temperature (`sm_temp`), write guidance as (1 + w) cond - w uncond, and call the noise on the confidence `r_temp`.
Columns have T values; a step's row is what that step of their loop uses.
"""

import json
import math
from itertools import pairwise
from pathlib import Path

from autonat.errors import UserError
from autonat.export.content import Content, Format, Imported, one_file
from autonat.export.enat import mask_counts
from autonat.export.reading import build, numbers, object_under, parse_json, peek, read_text, shown
from autonat.storage.files import write_atomically
from models.sample import TEMPERATURE_FLOOR
from models.schedule import GenerationSchedule

KIND = "autonat-halton-table"
# A scale is finite: where our rule allows temperature 0, the likeliest token, this comes as near as float32 shows.
SMALLEST_TEMPERATURE = 1e-4
NOTES = {
    "tokens_predicted": "new tokens kept at this step, adding up to num_tokens; 0: the step keeps none and is left out",
    "tokens_known": "tokens that are kept after this step, the earlier ones among them (`t` or `r` in the loops)",
    "sm_temp": "softmax scale, 1 / temperature: softmax(logit * sm_temp)",
    "w": "guidance, logit = (1 + w) * logit_c - w * logit_u, used as it is: no ramp over the steps",
    "r_temp": "factor of the Gumbel noise on the log-probability, used as it is: no (1 - ratio); Halton order has none",
}


def columns(schedule: GenerationSchedule, num_tokens: int) -> dict[str, list[float]]:
    """The table by column, T values each. What the last step masks again in AutoNAT's rule counts as kept: its drawn
    token is in the image."""
    masked = mask_counts(schedule, num_tokens)
    masked[-1] = 0
    predicted: list[float] = [before - after for before, after in pairwise([num_tokens, *masked])]
    floor = max(TEMPERATURE_FLOOR[schedule.rule], SMALLEST_TEMPERATURE)
    return {
        "tokens_predicted": predicted,
        "tokens_known": [num_tokens - count for count in masked],
        "sm_temp": [1 / max(value, floor) for value in schedule.sampling_temperatures],
        "w": list(schedule.guidance_scales),
        "r_temp": [schedule.choice_temperature(step) for step in range(schedule.num_steps)],
    }


def write(content: Content, path: Path) -> list[str]:
    table = columns(content.schedule, content.num_tokens)
    data = {
        "format": KIND,
        "format_version": 1,
        "num_steps": content.schedule.num_steps,
        "num_tokens": content.num_tokens,
        "decoding_rule": content.schedule.rule,
        "table": table,
        "meaning": NOTES,
        "provenance": content.provenance,
    }
    write_atomically(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())
    notes = [f"counts are for {content.num_tokens} tokens; other sizes of image need their own table"]
    notes.append("their confidence is the log-probability after the softmax scale, ours before it")
    idle = [str(step) for step, kept in enumerate(table["tokens_predicted"]) if kept == 0]
    if idle:
        # Their loops raise the count to step + 1, and topk of no token fails.
        notes.append(f"no new token is kept at step {', '.join(idle)} (counted from 0): leave that row out of the loop")
    if content.schedule.rule == "muse":
        notes.append("tuned under the muse rule, whose confidence is the raw logit: their loop uses log-probabilities")
    return notes


def recognises(path: Path) -> bool:
    return peek(path, parse_json).get("format") == KIND


def _count(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 10**9:
        raise UserError(f"{where} is {shown(value)}, not a count")
    return value


def ratio_for(count: int, num_tokens: int) -> float:
    """The ratio nearest to count / L of which the floor rule makes `count` again."""
    ratio = count / num_tokens
    while math.floor(num_tokens * ratio) < count:
        ratio = math.nextafter(ratio, 2)
    return ratio


def read(path: Path, num_steps: int | None = None) -> Imported:
    data = parse_json(read_text(path), path)
    if data.get("format") != KIND or data.get("format_version") != 1:
        raise UserError(f"{path} is no {KIND} of version 1")
    entries = object_under(data, "table", path)
    num_tokens = _count(data.get("num_tokens"), f"{path}: num_tokens")
    values = {name: numbers(entries, name, path) for name in NOTES}
    lengths = {name: len(column) for name, column in values.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise UserError(f"{path}: the table's columns need one length of at least 1, got {lengths}")
    known = [_count(value, f"{path}: tokens_known") for value in entries["tokens_known"]]
    predicted = [_count(value, f"{path}: tokens_predicted") for value in entries["tokens_predicted"]]
    if num_tokens < 1 or known[-1] != num_tokens or max(known) > num_tokens:
        raise UserError(f"{path}: tokens_known must end at num_tokens {num_tokens} and not pass it")
    if predicted != [after - before for before, after in pairwise([0, *known])]:
        raise UserError(f"{path}: tokens_predicted are not the differences of tokens_known")
    for index, scale in enumerate(values["sm_temp"]):
        if scale <= 0:
            raise UserError(f"{path}: sm_temp[{index}] must be positive, got {scale:g}")
    families = {
        "mask_ratios": tuple(ratio_for(num_tokens - count, num_tokens) for count in known[:-1]),
        "choice_temperatures": values["r_temp"][:-1],
        "sampling_temperatures": tuple(1 / scale for scale in values["sm_temp"]),
        "guidance_scales": values["w"],
    }
    notes = (f"mask ratios are whole counts of {num_tokens} tokens; temperatures came as 1 / temperature",)
    return Imported(
        build(path, data.get("decoding_rule", "enat"), families), notes, object_under(data, "provenance", path)
    )


FORMAT = Format("halton", "a table for Halton-MaskGIT and MaskGIT-PyTorch", one_file, write, recognises, read)
