"""One Python module that needs numpy alone, with the JSON form and its schema beside it.

Reading it back parses the JSON that stands in it and runs nothing.
"""

import json
from importlib.resources import files
from pathlib import Path

from autonat.errors import UserError
from autonat.export import json_schedule
from autonat.export.content import Content, Format, Imported
from autonat.export.reading import parse_json, read_text
from autonat.storage.files import write_atomically

BEGIN, END = "DATA = json.loads(r'''", "''')"


def outputs(path: Path) -> list[Path]:
    if path.suffix != ".py":
        raise UserError(f"a Python module needs a name that ends in .py, got {path.name}")
    return [path, path.with_suffix(".json"), path.with_suffix(".schema.json")]


def template(name: str) -> str:
    """A file of templates/."""
    return files("autonat.export").joinpath("templates", name).read_text()


def docstring_lines(content: Content) -> str:
    """Provenance in lines that are safe inside a docstring."""
    lines = [f"    {key}: {json.dumps(value)}" for key, value in content.provenance.items()]
    return "\n".join(lines).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def write(content: Content, path: Path) -> list[str]:
    _, beside, schema = outputs(path)
    data = json.dumps(json_schedule.to_data(content), indent=2, allow_nan=False)
    # JSON's own escape for the apostrophe, so that the literal cannot end early.
    head, tail = template("schedule.py.txt").split("@DATA@")
    head = head.replace("@PROVENANCE@", docstring_lines(content))
    write_atomically(path, (head + data.replace("'", "\\u0027") + tail).encode())
    json_schedule.write(content, beside)
    write_atomically(schema, json_schedule.schema())
    return []


def _embedded(text: str) -> str | None:
    start = text.find(BEGIN)
    end = text.find(END, start)
    return text[start + len(BEGIN) : end] if start >= 0 and end >= 0 else None


def recognises(path: Path) -> bool:
    try:
        return path.is_file() and path.suffix == ".py" and _embedded(read_text(path)) is not None
    except UserError:
        return False


def read(path: Path, num_steps: int | None = None) -> Imported:
    text = _embedded(read_text(path))
    if text is None:
        raise UserError(f"{path} is no module that autonat wrote; it is not run to find out")
    return json_schedule.from_data(parse_json(text, path), path)


def ours(file: Path) -> bool:
    return json_schedule.recognises(file) or json_schedule.is_schema(file)


FORMAT = Format(
    "python", "a module that needs numpy alone, with JSON and its schema", outputs, write, recognises, read, ours
)
