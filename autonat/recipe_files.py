"""Recipes as files: YAML, overridden with ``a.b=c``, checked by Pydantic; for a study or a tokenizer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from autonat.errors import UserError


class Strict(BaseModel):
    """Unknown keys are errors, values do not change, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


AnyRecipe = TypeVar("AnyRecipe", bound=Strict)

# Sections of several kinds, each with keys of its own: the key that names the kind, and what it is unless named.
KINDS = (("search", "method", "staged"), ("mask_ratio", "kind", "arccos"), ("features", "kind", "classifier"))


def recipe_path(name: str, folder: str = "") -> Path:
    """A recipe's file: a path, or the name of one in studies/, or in that folder of it. UserError: there is none."""
    import studies

    built_in = Path(studies.__path__[0]) / folder
    for candidate in (Path(name), built_in / name, built_in / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.stem for path in built_in.glob("*.yaml")))
    raise UserError(f"no recipe {name!r}: give the path of a YAML file or one of {known}")


def describe(error: ValidationError) -> str:
    """Pydantic's report as one line."""
    parts = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            message = "unknown key"
        parts.append(f"{where}: {message}" if where else message)
    return "; ".join(parts)


def _overridden(data: Any, overrides: Any) -> Any:
    """OmegaConf's merge; a section of which an override names another kind begins anew, without the keys of the old."""
    from omegaconf import DictConfig, OmegaConf

    if isinstance(data, DictConfig):
        for section, key, usual in KINDS:
            before, now = data.get(section), overrides.get(section)
            named = isinstance(now, DictConfig) and isinstance(before, DictConfig) and key in now
            if named and now[key] != before.get(key, usual):
                del data[section]
    return OmegaConf.merge(data, overrides)


def _as_tree(overrides: Sequence[str]) -> Any:
    """All overrides as OmegaConf's tree. Raises UserError for one whose value is not YAML."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise UserError(f"cannot read override {override!r}: write it as key.subkey=value")
        try:
            OmegaConf.from_dotlist([override])
        except YAMLError as error:
            raise UserError(f"cannot read override {override!r}: {' '.join(str(error).split())}") from error
    return OmegaConf.from_dotlist(list(overrides))


def checked(
    kind: type[AnyRecipe],
    path: Path,
    overrides: Sequence[str] = (),
    complete: Callable[[Any], Any] = lambda data: data,
) -> AnyRecipe:
    """A YAML file, overridden and completed, as a recipe of some kind. Raises UserError with one line for anything
    wrong in it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        # OmegaConf reads 1e-4 as a number, where plain YAML sees a string; its loader builds plain values alone.
        merged = _overridden(OmegaConf.load(path), _as_tree(overrides))
        data: Any = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, TypeError, OSError) as error:
        raise UserError(f"cannot read recipe {path}: {' '.join(str(error).split())}") from error
    try:
        return kind.model_validate(complete(data))
    except ValidationError as error:
        raise UserError(f"recipe {path}: {describe(error)}") from error
