"""Pictures of what a study's networks paint, for the dashboard: ``python -m autonat.pictures STUDY`` writes a ZIP file
to standard output. AUTONAT_DB names the database: in the command everyone on the machine could read its password.

In it: ``pairs.json`` (a label for each pair of mask ratio and schedule, the baseline first, then what each round
settled), ``grid-N.png`` (a row a class, pair N), and ``steps-N.png`` (a row a class, the canvas after each step; what
is masked again is orange). All pairs paint from the same labels and noise. Nothing is written to the database.
"""

import io
import json
import os
import sys
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter

from autonat.errors import UserError
from autonat.execution.worker import Worker
from autonat.phases import is_front
from autonat.specs import CheckpointSpec, derived_seed
from autonat.storage.store import Store
from autonat.study_pairs import recipe_of
from models.checkpoint import load_network
from models.data import Data, tokenizer_of, with_conditions
from models.evaluate import Block, Generator
from models.mask_ratio import AnyMaskRatio
from models.networks import network_config
from models.sample import sample
from models.schedule import GenerationSchedule

PER_CLASS = 8
MOST_CLASSES = 10
MOST_PAIRS = 12
SEED = 0
GAP = 2
SMALLEST_SIDE = 48
MASKED = np.array([230, 159, 0], dtype=np.float64)


@dataclass(frozen=True)
class Painted:
    """A pair to paint with, and what to call it. training: the spec as recorded; name: its recorded fingerprint, None
    for weights that were trained elsewhere."""

    label: str
    training: dict[str, Any]
    name: str | None
    schedule: GenerationSchedule


def pairs_of(store: Store, study: str) -> list[Painted]:
    """The baseline and what each round decided, as far as the networks are trained; of very many the last."""
    row = store.study(study)
    recipe = recipe_of(row)
    own_seed = derived_seed(recipe.seed, "training")
    summary = row.summary or {}
    adopted = {}  # the seed of the tuned pair's training, by its mask ratio
    if summary.get("training_seed") is not None:
        adopted[_key(summary["mask_ratio"])] = summary["training_seed"]
    trainings: dict[str, tuple[dict[str, Any], str | None]] = {}
    for name, kind, text in store.recorded_specs(row.id):
        spec = json.loads(text)
        if kind == "TrainSpec" and spec.get("until_step") is None and spec.get("start_from") is None:
            # The study's own network, not what `autonat analyze` trained beside it or a training's repetition.
            own, key = network_config(spec["network"]) == recipe.network, _key(spec["mask_ratio"])
            if own and (key not in trainings or spec["seed"] == adopted.get(key, own_seed)):
                trainings[key] = (spec, name)
        elif "weights" in spec.get("training", {}):
            trainings[_key(spec["training"]["mask_ratio"])] = (spec["training"], None)
    schedules = TypeAdapter(GenerationSchedule)
    found = []
    if "baseline_schedule" in summary:
        found.append(
            ("baseline", summary["baseline_mask_ratio"], schedules.validate_python(summary["baseline_schedule"]))
        )
    else:
        found.append(("baseline", json.loads(row.recipe)["mask_ratio"], recipe.schedule.build()))
    for entry in store.decisions(row.id):
        # What was tuned for other numbers of steps is no round of the study's own.
        if entry["purpose"] in ("schedule", "mask ratio") and not is_front(entry["phase"]):
            label = f"{entry['phase']}, round {entry['round']}"
            found.append((label, entry["mask_ratio"], schedules.validate_python(entry["schedule"])))
    painted = [
        Painted(label, *trainings[_key(mask_ratio)], schedule)
        for label, mask_ratio, schedule in found
        if _key(mask_ratio) in trainings
    ]
    return painted[:1] + painted[1:][-(MOST_PAIRS - 1) :]


def _key(mask_ratio: dict[str, Any]) -> str:
    """One text for one distribution; 6 and 6.0 are the same."""
    plain = {name: value if isinstance(value, str) else float(value) for name, value in mask_ratio.items()}
    return json.dumps(plain, sort_keys=True)


def pictures(store: Store, study: str) -> bytes:
    """The ZIP file. Raises UserError where nothing is trained yet or a checkpoint is missing or damaged."""
    painted = pairs_of(store, study)
    if not painted:
        raise UserError(f"study {study!r} has trained no network yet")
    torch.set_num_threads(1)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("pairs.json", json.dumps([f"{each.label}: {_label(each)}" for each in painted]))
        for number, each in enumerate(painted):
            grid, steps = _paint(_generator(store, each), each.schedule)
            archive.writestr(f"grid-{number}.png", grid)
            archive.writestr(f"steps-{number}.png", steps)
    return buffer.getvalue()


def captioned(store: Store, study: str) -> list[tuple[str, bytes]]:
    """(caption, PNG) of the baseline and of what was settled last, for a report; none where nothing is trained yet."""
    if not pairs_of(store, study):
        return []
    with zipfile.ZipFile(io.BytesIO(pictures(store, study))) as archive:
        labels = json.loads(archive.read("pairs.json"))
        shown = sorted({0, len(labels) - 1})
        return [
            (f"{labels[number]}. {what}", archive.read(f"{kind}-{number}.png"))
            for kind, what in (
                ("grid", "A row a class; all pictures are painted from the same labels and noise."),
                ("steps", "The first image of each class after every step; orange is masked again."),
            )
            for number in shown
        ]


def _label(painted: Painted) -> str:
    mask_ratio: Any = TypeAdapter(AnyMaskRatio).validate_python(painted.training["mask_ratio"])
    return str(mask_ratio.label)


def _generator(store: Store, painted: Painted) -> Generator:
    if painted.name is None:
        spec = TypeAdapter(CheckpointSpec).validate_python(painted.training)
        return Worker(str(store.artifacts.location)).generator(spec)
    # By the recorded name: a fingerprint made anew would be another one where the arithmetic has changed since.
    sha256 = store.results([painted.name])[painted.name][1] or ""
    flaw = store.artifacts.flaw(painted.name, sha256)
    path = store.artifacts.fetched(painted.name)
    if flaw is not None:
        raise UserError(f"checkpoint {path} {flaw}: `autonat run` the recipe to train it again")
    data: Any = TypeAdapter(Data).validate_python(painted.training["data"])
    return Generator(with_conditions(load_network(path), data), tokenizer_of(data))


@torch.inference_mode()
def _paint(generator: Any, schedule: GenerationSchedule) -> tuple[bytes, bytes]:
    """PNGs: the grid by class, and every step of the first image of each class."""
    num_classes = generator.network.config.num_classes
    rows = min(num_classes, MOST_CLASSES)
    block = Block(0, 1, PER_CLASS * rows, SEED)
    canvases = []

    def observe(step: int, taken: Any) -> None:
        canvases.append((taken.sampled_BL[:rows].clone(), taken.canvas.masked_BL[:rows].clone()))

    tokens_BL = sample(
        generator.network,
        schedule,
        generator.labels(block),
        generator.noise(block),
        first_logits=generator.first_logits,
        observe=observe,
    )
    images = rgb(generator.tokenizer.decode(tokens_BL))
    grid = [[images[row + rows * column] for column in range(PER_CLASS)] for row in range(rows)]
    shown = []
    for step, (sampled_BL, masked_BL) in enumerate(canvases):
        last = step == len(canvases) - 1  # what a rule masks again at the very end is not painted again
        shown.append(painted_over(rgb(generator.tokenizer.decode(sampled_BL)), masked_BL.numpy() & (not last)))
    steps = [[canvas[row] for canvas in shown] for row in range(rows)]
    return png(grid), png(steps)


def rgb(images: torch.Tensor) -> np.ndarray[Any, Any]:
    """uint8 [B, C, H, W] with one or three channels as [B, H, W, 3]."""
    plain = images.permute(0, 2, 3, 1).cpu().numpy()
    return np.repeat(plain, 3, axis=-1) if plain.shape[-1] == 1 else plain


def painted_over(
    images: np.ndarray[Any, Any],
    where_BL: np.ndarray[Any, Any],
    colour: np.ndarray[Any, Any] = MASKED,
    opacity: float = 0.85,
) -> np.ndarray[Any, Any]:
    """Images with the places of some tokens painted over; tokens lie on a square grid, row by row."""
    side = round(where_BL.shape[1] ** 0.5)
    height, width = images.shape[1:3]
    if side * side != where_BL.shape[1] or height % side or width % side:
        return images
    places = where_BL.reshape(-1, side, side).repeat(height // side, axis=1).repeat(width // side, axis=2)
    mixed = (1 - opacity) * images + opacity * colour
    return np.where(places[..., None], mixed, images).astype(np.uint8)


def png(rows: list[list[np.ndarray[Any, Any]]]) -> bytes:
    """Images in rows with gaps that let the page through; small ones are enlarged without smoothing."""
    height, width = rows[0][0].shape[:2]
    scale = max(1, -(-SMALLEST_SIDE // min(height, width)))
    tall, wide, gap = height * scale, width * scale, GAP * 2
    shape = (len(rows) * (tall + gap) - gap, len(rows[0]) * (wide + gap) - gap, 4)
    canvas = np.zeros(shape, dtype=np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = row * (tall + gap), column * (wide + gap)
            canvas[top : top + tall, left : left + wide, :3] = image.repeat(scale, axis=0).repeat(scale, axis=1)
            canvas[top : top + tall, left : left + wide, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    (study,) = sys.argv[1:]
    try:
        content = pictures(Store.open(os.environ["AUTONAT_DB"], readonly=True), study)
    except (UserError, ValueError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        raise SystemExit(2) from None
    sys.stdout.buffer.write(content)


if __name__ == "__main__":
    main()
