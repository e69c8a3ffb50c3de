"""Our own form: JSON that explains itself, with a JSON Schema (schema/autonat-schedule.schema.json)."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from autonat.errors import UserError
from autonat.export.content import Content, Format, Imported, one_file, schedule_data
from autonat.export.reading import object_under, parse_json, peek, read_text, schedule_from, shown
from autonat.storage.files import write_atomically

KIND, VERSION = "autonat-schedule", 1


def schema() -> bytes:
    """The JSON Schema of this form."""
    return files("autonat.export").joinpath("schema", "autonat-schedule.schema.json").read_bytes()


def is_schema(path: Path) -> bool:
    """Whether a file is the schema, of whatever version of autonat."""
    return peek(path, parse_json).get("$id") == json.loads(schema())["$id"]


def to_data(content: Content) -> dict[str, Any]:
    """Schedule, training mask ratio and provenance, with the meaning of every family spelled out."""
    return {
        "$schema": json.loads(schema())["$id"],
        "format": KIND,
        "format_version": VERSION,
        "num_steps": content.schedule.num_steps,
        "num_tokens": content.num_tokens,
        "schedule": schedule_data(content.schedule),
        "meaning": {
            "mask_ratios": "share of all tokens masked again after step t = 1 .. T-1; none after step T",
            "sampling_temperatures": "logits are divided by it before tokens are drawn, t = 1 .. T",
            "choice_temperatures": "factor of Gumbel noise on the drawn tokens' confidence, t = 1 .. T-1",
            "guidance_scales": "w in cond + w (cond - uncond), t = 1 .. T",
            "rule": "who counts and cuts: enat, autonat or muse; see docs/exports.md",
        },
        "training_mask_ratio": content.training_mask_ratio,
        "provenance": content.provenance,
    }


def write(content: Content, path: Path) -> list[str]:
    write_atomically(path, (json.dumps(to_data(content), indent=2, allow_nan=False) + "\n").encode())
    return []


def recognises(path: Path) -> bool:
    return peek(path, parse_json).get("format") == KIND


def from_data(data: dict[str, Any], where: object) -> Imported:
    """Back from ``to_data``. Raises UserError."""
    if data.get("format") != KIND:
        raise UserError(f"{where} is no {KIND}")
    if data.get("format_version") != VERSION:
        raise UserError(f"{where}: format_version {shown(data.get('format_version'))} is unknown, expected {VERSION}")
    schedule = schedule_from(object_under(data, "schedule", where), where)
    if data.get("num_steps", schedule.num_steps) != schedule.num_steps:
        stated = shown(data["num_steps"])
        raise UserError(f"{where}: num_steps says {stated}, the schedule has {schedule.num_steps} steps")
    return Imported(schedule, (), object_under(data, "provenance", where))


def read(path: Path, num_steps: int | None = None) -> Imported:
    return from_data(parse_json(read_text(path), path), path)


FORMAT = Format("json", "JSON that explains itself, with a JSON Schema", one_file, write, recognises, read)
