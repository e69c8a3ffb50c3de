"""What the commands `export` and `import` do, below their options."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autonat.errors import UserError
from autonat.export.content import Content, Imported, provenance_of, schedule_data
from autonat.export.formats import export, format_named, refuse_others_files
from autonat.export.into_git import destination, write_into
from autonat.search.program import Laboratory, Pair
from autonat.specs import TrainSpec, fingerprint
from autonat.storage.files import write_atomically
from autonat.storage.store import Store, StudyRow
from models.schedule import FAMILIES


def content_of(store: Store, row: StudyRow, summary: dict[str, Any], lab: Laboratory, tuned: Pair) -> Content:
    """A finished study's tuned pair, ready for export."""
    held_out = lab.evaluation(tuned, summary["tuned"]["num_images"], lab.seed_for("held-out"))
    date = row.updated_at.replace(microsecond=0).isoformat()
    training = tuned.training
    if isinstance(training, TrainSpec):
        weights = store.artifacts.path(fingerprint(training))
    else:
        weights = Path(training.weights.path)
    return Content(
        tuned.schedule,
        training.network,
        asdict(tuned.mask_ratio),
        provenance_of(row.name, date, summary, held_out),
        weights,
    )


def export_to(
    content: Content, name: str, path: Path, *, into_git: bool = False, branch: str | None = None, commit: bool = False
) -> list[str]:
    """Write a form, into another repository's working tree where asked; returns lines to show. Raises UserError."""
    chosen = format_named(name)
    files = chosen.outputs(path)
    written = [f"wrote {file}" for file in files if file != path]
    if not into_git:
        if branch is not None or commit:
            raise UserError("--branch and --commit belong to --into-git")
        return written + export(content, name, path)
    refuse_others_files(chosen, path)  # again after a branch was switched to, with what lies there
    study = content.provenance["study"]
    message = f"Generation schedule of autonat study {study}, form {name}\n\n{content.provenance['metric']}, {study}"
    target = destination(files[0], branch, commit)
    return written + write_into(target, files, lambda: export(content, name, path), message)


def start_section(imported: Imported) -> dict[str, Any]:
    """The `schedule` section of a recipe that starts from an imported schedule."""
    data = schedule_data(imported.schedule)
    return {
        "num_steps": imported.schedule.num_steps,
        "rule": data["rule"],
        "values": {family: data[family] for family in FAMILIES},
    }


def start_yaml(imported: Imported) -> str:
    """The same as YAML."""
    import yaml

    return yaml.safe_dump({"schedule": start_section(imported)}, sort_keys=False, width=1_000_000)


def write_recipe(imported: Imported, source: Path, base: str, to: Path, num_steps: int | None) -> str:
    """Write recipe `base` with the imported schedule to start from, and return the new recipe's name.

    Raises UserError where the base is for another number of steps and `num_steps` does not confirm it.
    """
    import yaml
    from omegaconf import OmegaConf
    from pydantic import ValidationError

    from autonat.config import Recipe, load_recipe
    from autonat.recipe_files import describe, recipe_path

    recipe = load_recipe(base)
    steps = imported.schedule.num_steps
    if recipe.schedule.num_steps != steps and num_steps is None:
        raise UserError(
            f"{source} is a schedule for T = {steps} steps, recipe {base} is for T = {recipe.schedule.num_steps}: add "
            f"--steps {steps} to make it a recipe for {steps}"
        )
    if to.exists() and to.resolve() == recipe_path(base).resolve():
        raise UserError(f"{to} is the base recipe itself: give the new recipe another name")
    data: Any = OmegaConf.to_container(OmegaConf.load(recipe_path(base)))
    stem = to.stem
    data["name"] = stem if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", stem) else f"{recipe.name}-imported"
    data["schedule"] = start_section(imported)
    try:
        Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"recipe {base} with this schedule: {describe(error)}") from error
    lines = [f"# Recipe {base}, starting from the schedule of {source.name!r}."]
    lines += [f"# {note}" for note in imported.notes]
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=1_000_000)
    write_atomically(to, ("\n".join(lines) + "\n" + text).encode())
    return str(data["name"])
