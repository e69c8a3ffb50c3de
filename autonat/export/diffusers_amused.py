"""A scheduler for diffusers' aMUSEd: a folder with one Python file and its configuration as JSON.

The file is for people's own projects: autonat reads the configuration alone and never runs it.
"""

import json
from pathlib import Path

from autonat.errors import UserError
from autonat.export.content import Content, Format, Imported, schedule_data
from autonat.export.python_module import template
from autonat.export.reading import holds, object_under, parse_json, peek, read_text, schedule_from, shown
from autonat.storage.files import write_atomically

CLASS_NAME = "AutoNATScheduler"
CONFIG, MODULE = "scheduler_config.json", "scheduling_autonat.py"


def outputs(path: Path) -> list[Path]:
    return [path / CONFIG, path / MODULE]


def write(content: Content, path: Path) -> list[str]:
    data = {
        "_class_name": CLASS_NAME,
        "mask_token_id": content.mask_token,
        **schedule_data(content.schedule),
        "provenance": content.provenance,
    }
    config, module = outputs(path)
    write_atomically(config, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())
    write_atomically(module, template("scheduling_autonat.py.txt").encode())
    return [
        f"mask_token_id is {content.mask_token}, this study's; for another network give its own",
        "guidance: pass guidance_scale=scheduler.guidance_by_steps(), g = 1 + w in the pipeline's convention",
    ]


def _config_of(path: Path) -> Path:
    return path / CONFIG if path.is_dir() else path


def recognises(path: Path) -> bool:
    return peek(_config_of(path), parse_json).get("_class_name") == CLASS_NAME


def read(path: Path, num_steps: int | None = None) -> Imported:
    file = _config_of(path)
    data = parse_json(read_text(file), file)
    if data.get("_class_name") != CLASS_NAME:
        raise UserError(f"{file} configures {shown(data.get('_class_name'))}, not {CLASS_NAME}")
    provenance = object_under(data, "provenance", file) if data.get("provenance") is not None else {}
    return Imported(schedule_from(data, file), (), provenance)


def ours(file: Path) -> bool:
    return recognises(file) if file.name == CONFIG else holds(file, f"class {CLASS_NAME}(")


FORMAT = Format(
    "diffusers", "a scheduler for diffusers' AmusedPipeline (a folder)", outputs, write, recognises, read, ours
)
