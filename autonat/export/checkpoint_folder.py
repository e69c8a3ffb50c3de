"""A tuned pair as a folder: the network in our form and in the official one, and its schedule.

network.safetensors   our form: weights with the configuration in the header (``models.checkpoint.load_network``)
config.json           the same configuration for other programs, with the training and the provenance
nnet_ema.pth, .json   the state dict under the official key names (``models.official``)
schedule.json         the schedule in the json form
"""

import json
from pathlib import Path

from autonat.errors import UserError
from autonat.export import json_schedule
from autonat.export.content import Content, Format, Imported
from autonat.export.reading import parse_json, peek
from autonat.storage.files import write_atomically

WEIGHTS, CONFIG, OFFICIAL, SCHEDULE = "network.safetensors", "config.json", "nnet_ema.pth", "schedule.json"


def outputs(path: Path) -> list[Path]:
    names = (WEIGHTS, CONFIG, OFFICIAL, str(Path(OFFICIAL).with_suffix(".json")), SCHEDULE)
    return [path / name for name in names]


def write(content: Content, path: Path) -> list[str]:
    from models.checkpoint import CheckpointError, save_network
    from models.official import load_any, save_official

    if content.weights is None:
        raise UserError("there is no trained network to export")
    try:
        network = load_any(content.weights, content.network)
        described = {
            "network": network.config.to_dict(),
            "training_mask_ratio": content.training_mask_ratio,
            "provenance": content.provenance,
        }
        # First, as it tells that the folder is ours: an export that was interrupted can be made again.
        write_atomically(path / CONFIG, (json.dumps(described, indent=2, allow_nan=False) + "\n").encode())
        save_network(path / WEIGHTS, network)
        save_official(path / OFFICIAL, network)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot write into {path}: {error}") from error
    json_schedule.write(content, path / SCHEDULE)
    return []


def recognises(path: Path) -> bool:
    return path.is_dir() and (path / WEIGHTS).is_file() and json_schedule.recognises(path / SCHEDULE)


def read(path: Path, num_steps: int | None = None) -> Imported:
    if not path.is_dir():
        raise UserError(f"{path} is no checkpoint folder")
    return json_schedule.read(path / SCHEDULE)


def ours(file: Path) -> bool:
    """By the folder's config.json, as nothing in the official files tells who wrote them."""
    if file.name == SCHEDULE:
        return json_schedule.recognises(file)
    return {"network", "training_mask_ratio", "provenance"} <= set(peek(file.with_name(CONFIG), parse_json))


FORMAT = Format(
    "checkpoint", "network and schedule as a folder, official names too", outputs, write, recognises, read, ours
)
