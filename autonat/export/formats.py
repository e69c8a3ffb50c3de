"""All forms of export by name: writing a study's result, and reading a file back."""

import os
from pathlib import Path

from autonat.errors import UserError
from autonat.export import (
    checkpoint_folder,
    diffusers_amused,
    enat,
    halton,
    improvednat,
    json_schedule,
    python_module,
)
from autonat.export.content import Content, Format, Imported

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (improvednat, enat, halton, diffusers_amused, python_module, json_schedule, checkpoint_folder)
}


def format_named(name: str) -> Format:
    """Raises UserError for an unknown one."""
    if name not in FORMATS:
        raise UserError(f"unknown export format {name!r}, expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def refuse_others_files(chosen: Format, path: Path) -> None:
    """Raises UserError where a form would replace a file that no export wrote, unless the path is that very file."""
    for file in chosen.outputs(path):
        if file != path and os.path.lexists(file) and not chosen.ours(file):
            raise UserError(
                f"{file} is there, and no export in format {chosen.name} wrote it: move it or give another path; "
                "nothing was written"
            )


def export(content: Content, name: str, path: Path) -> list[str]:
    """Write a form to a path; returns what it does not express, a line each. The parent folder must exist.

    Raises UserError for an unknown form, a path that cannot be written, and as ``refuse_others_files``.
    """
    chosen = format_named(name)
    refuse_others_files(chosen, path)
    for file in chosen.outputs(path):
        if file != path and file.parent == path:  # a form that is a folder makes it
            try:
                path.mkdir(exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot make the folder {path}: {error.strerror or error}") from error
    return chosen.write(content, path)


def read_schedule(path: Path, name: str = "auto", num_steps: int | None = None) -> tuple[str, Imported]:
    """The schedule of a file or folder, and the form it has; `auto` tells it from the content.

    num_steps: what the schedule has to have. Raises UserError, one line, for a path that is none of the forms, one
    that is damaged, and one for another number of steps.
    """
    if not path.exists():
        raise UserError(f"there is no {path}")
    if name == "auto":
        found = [one.name for one in FORMATS.values() if one.recognises(path)]
        if not found:
            raise UserError(f"{path} is none of the forms {', '.join(FORMATS)}")
        name = found[0]
    imported = format_named(name).read(path, num_steps)
    if num_steps is not None and imported.schedule.num_steps != num_steps:
        raise UserError(f"{path} is a schedule for T = {imported.schedule.num_steps} steps, not for T = {num_steps}")
    return name, imported
