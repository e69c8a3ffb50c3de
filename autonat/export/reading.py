"""Reading files that strangers wrote: plain data alone, and one clear line for whatever is wrong."""

import json
import math
import re
import reprlib
from pathlib import Path
from typing import Any, get_args

from autonat.errors import UserError
from models.schedule import FAMILIES, DecodingRule, GenerationSchedule

# No schedule is larger; a checkpoint given by mistake is not read whole.
LARGEST_BYTES = 4_000_000

_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class AliasError(UserError):
    """A YAML file with aliases."""


def shown(value: Any) -> str:
    """A value of a file for a message: short, and built short."""
    try:
        return reprlib.repr(value)[:60]
    except ValueError:  # Python spells no number of more than 4300 digits
        return "a huge number"


def read_text(path: Path) -> str:
    """A file's text. Raises UserError where it cannot be read, is no text or is far too large."""
    try:
        with open(path, "rb") as handle:
            content = handle.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > LARGEST_BYTES:
        raise UserError(f"{path} is too large for a schedule (over {LARGEST_BYTES:,} bytes)")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text, so it holds no schedule") from error


def parse_json(text: str, where: object) -> dict[str, Any]:
    """A JSON object. Raises UserError for anything else."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{where} holds a JSON {type(data).__name__}, not an object")
    return data


def parse_yaml(text: str, where: object) -> dict[str, Any]:
    """A YAML mapping, plain values alone. Raises UserError for anything else."""
    import yaml

    class PlainLoader(yaml.SafeLoader):
        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            # Some lines of nested aliases stand for more values than any memory holds.
            if self.check_event(yaml.AliasEvent):
                alias = shown(f"*{self.peek_event().anchor}")
                raise AliasError(f"{where} has the YAML alias {alias}: write the values out, aliases are not read")
            return super().compose_node(parent, index)

    try:
        data = yaml.load(text, PlainLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{where} is not plain YAML: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{where} holds no YAML mapping")
    return data


def peek(path: Path, parse: Any) -> dict[str, Any]:
    """What a file holds, or nothing where it cannot be parsed: for telling formats apart.

    Raises AliasError: such a file is none of the forms, and its owner wants to know why.
    """
    try:
        return parse(read_text(path), path) if path.is_file() else {}
    except AliasError:
        raise
    except UserError:
        return {}


def holds(path: Path, words: str) -> bool:
    """Whether a file is text with these words in it."""
    try:
        return path.is_file() and words in read_text(path)
    except UserError:
        return False


def number(value: Any, where: str) -> float:
    """A finite number. YAML 1.1 takes 1e-4 for text, so text that spells a number is one."""
    if isinstance(value, str) and _FLOAT.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where} is {shown(value)}, not a number")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise UserError(f"{where} is not finite")
    return result


def numbers(data: dict[str, Any], key: str, where: object) -> tuple[float, ...]:
    """The list of numbers under a key. Raises UserError where it is missing or not one."""
    if key not in data:
        raise UserError(f"{where}: {key} is missing")
    values = data[key]
    if not isinstance(values, list):
        raise UserError(f"{where}: {key} is no list")
    return tuple(number(value, f"{where}: {key}[{index}]") for index, value in enumerate(values))


def rule_of(value: Any, where: object) -> DecodingRule:
    """A decoding rule by name. Raises UserError for an unknown one."""
    known = get_args(DecodingRule)
    if value not in known:
        raise UserError(f"{where}: unknown decoding rule {shown(value)}, expected one of {', '.join(known)}")
    return value


def build(where: object, rule: Any, families: dict[str, tuple[float, ...]]) -> GenerationSchedule:
    """A schedule, or UserError with the file's name where lengths or ranges are wrong."""
    try:
        return GenerationSchedule(**families, rule=rule_of(rule, where))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def schedule_from(data: dict[str, Any], where: object) -> GenerationSchedule:
    """A schedule from its four families under our own names, and `rule`."""
    return build(where, data.get("rule"), {family: numbers(data, family, where) for family in FAMILIES})


def object_under(data: dict[str, Any], key: str, where: object) -> dict[str, Any]:
    """The object under a key, empty where there is none. Raises UserError where something else is there."""
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key} is no object")
    return value
