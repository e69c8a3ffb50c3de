"""Recipes: a study as one YAML file, checked by Pydantic, overridden on the command line with ``a.b=c``."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autonat.errors import UserError
from models.enat import ENATConfig
from models.features import ClassifierConfig
from models.mask_ratio import AnyMaskRatio, ArccosMaskRatio
from models.schedule import FAMILIES, PRESETS, DecodingRule, GenerationSchedule
from models.train import TrainingConfig


class Strict(BaseModel):
    """Unknown keys are errors, values do not change, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ScheduleStart(Strict):
    """Where the schedule starts: a preset for `num_steps` steps, or the four families of values written out."""

    num_steps: int = Field(ge=1)
    preset: Literal["maskgit-cosine", "linear", "autonat-initial"] = "maskgit-cosine"
    rule: DecodingRule = "enat"
    values: dict[str, tuple[float, ...]] | None = None

    @model_validator(mode="after")
    def _build(self) -> "ScheduleStart":
        self.build()
        return self

    def build(self) -> GenerationSchedule:
        if self.values is None:
            return PRESETS[self.preset](self.num_steps, self.rule)
        if set(self.values) != set(FAMILIES):
            raise ValueError(f"schedule.values needs exactly the keys {', '.join(FAMILIES)}")
        schedule = GenerationSchedule(**self.values, rule=self.rule)
        if schedule.num_steps != self.num_steps:
            raise ValueError(f"schedule.values has {schedule.num_steps} steps, num_steps says {self.num_steps}")
        return schedule


class WarmStart(Strict):
    """TPE over the smooth family. `batch` trials are asked for at a time, whatever the number of workers."""

    trials: int = Field(40, ge=1)
    random_trials: int = Field(12, ge=1)
    batch: int = Field(4, ge=1)
    images: int = 500
    keep: int = Field(3, ge=1)


class Descent(Strict):
    """Finite-difference descent. `difference` and `learning_rate` are in units of each family's scale."""

    iterations: int = Field(12, ge=1)
    images: int = 500
    difference: float = Field(0.3, gt=0)
    learning_rate: float = Field(0.15, gt=0)
    momentum: float = Field(0.8, ge=0, lt=1)
    second_momentum: float = Field(0.95, ge=0, lt=1)
    scales: dict[str, float] = {
        "mask_ratios": 1.0,
        "sampling_temperatures": 0.5,
        "choice_temperatures": 1.5,
        "guidance_scales": 1.0,
    }

    @model_validator(mode="after")
    def _check(self) -> "Descent":
        if set(self.scales) != set(FAMILIES) or min(self.scales.values()) <= 0:
            raise ValueError(f"scales needs a positive value for each of {', '.join(FAMILIES)}")
        return self


class StagedSearch(Strict):
    """Warm start, then descent, each confirmed on fresh seeds; either may be left out with `null`."""

    method: Literal["staged"] = "staged"
    warm_start: WarmStart | None = WarmStart()
    descent: Descent | None = Descent()
    confirmation_images: int = 2000

    @model_validator(mode="after")
    def _check(self) -> "StagedSearch":
        if self.warm_start is None and self.descent is None:
            raise ValueError("a staged search needs a warm start, a descent or both")
        return self


class OfficialSearch(Strict):
    """AutoNAT's published settings."""

    method: Literal["official"] = "official"
    iterations: int = Field(20, ge=1)
    images: int = 1000
    momentum: float = Field(0.5, ge=0, lt=1)
    difference: dict[str, float] = {
        "mask_ratios": 0.01,
        "sampling_temperatures": 0.1,
        "choice_temperatures": 0.1,
        "guidance_scales": 0.1,
    }
    learning_rate: dict[str, float] = {
        "mask_ratios": 1e-3,
        "sampling_temperatures": 0.1,
        "choice_temperatures": 0.1,
        "guidance_scales": 0.1,
    }


class BetaSearch(Strict):
    """Greedy line search over Beta(alpha, beta); `start_*` is its centre where the incumbent is not a Beta.

    retune: a short search of the smooth family for each new network, beside the incumbent's schedule: a schedule tuned
    for one network misranks others. `null` judges every point under the incumbent's schedule alone.
    """

    start_alpha: float = Field(6.0, gt=0)
    start_beta: float = Field(3.0, gt=0)
    factors: tuple[float, float] = (0.5, 2.0)
    max_trainings: int = Field(6, ge=1)
    images: int = 2000
    retune: WarmStart | None = None

    @model_validator(mode="after")
    def _check(self) -> "BetaSearch":
        if not 0 < self.factors[0] < 1 < self.factors[1]:
            raise ValueError(f"factors must be one below and one above 1, got {self.factors}")
        return self


def _not_finite(value: Any, where: str) -> list[str]:
    """Where in plain data there are numbers that are infinite or none."""
    if isinstance(value, dict):
        return [place for key, entry in value.items() for place in _not_finite(entry, f"{where}.{key}")]
    return [where] if isinstance(value, float) and not math.isfinite(value) else []


class Recipe(Strict):
    """A whole study."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    seed: int = 0
    data: Literal["digits"] = "digits"
    network: ENATConfig
    training: TrainingConfig
    features: ClassifierConfig = ClassifierConfig()
    schedule: ScheduleStart
    mask_ratio: AnyMaskRatio = Field(ArccosMaskRatio(), discriminator="kind")
    search: StagedSearch | OfficialSearch = Field(StagedSearch(), discriminator="method")
    # The schedule search of later rounds, which starts from a tuned schedule; the same one unless given.
    later_search: StagedSearch | None = None
    beta: BetaSearch | None = None
    rounds: int = Field(1, ge=1)
    block_size: int = Field(100, ge=2)
    budget_images: int | None = Field(None, ge=1)
    held_out_images: int = 10_000

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        from models.images import image_set
        from models.tokenizer import tokenizer_for

        tokenizer, data = tokenizer_for(self.data), image_set(self.data)
        expected = {
            "num_tokens": tokenizer.grid[0] * tokenizer.grid[1],
            "codebook_size": tokenizer.codebook_size,
            "num_classes": data.num_classes,
        }
        for place in _not_finite(self.model_dump(include={"network", "training", "features", "mask_ratio"}), "recipe"):
            raise ValueError(f"{place.removeprefix('recipe.')} must be a finite number")
        for name, value in expected.items():
            if getattr(self.network, name) != value:
                raise ValueError(f"network.{name} is {getattr(self.network, name)}, but {self.data} needs {value}")
        counts = {"held_out_images": self.held_out_images}
        if self.beta is not None:
            counts["beta.images"] = self.beta.images
            if self.beta.retune is not None:
                counts["beta.retune.images"] = self.beta.retune.images
        for where, search in (("search", self.search), ("later_search", self.later_search)):
            if isinstance(search, OfficialSearch):
                counts[f"{where}.images"] = search.images
            elif search is not None:
                counts[f"{where}.confirmation_images"] = search.confirmation_images
                if search.warm_start is not None:
                    counts[f"{where}.warm_start.images"] = search.warm_start.images
                if search.descent is not None:
                    counts[f"{where}.descent.images"] = search.descent.images
        for name, count in counts.items():
            if count < 2 * self.block_size or count % self.block_size:
                raise ValueError(f"{name} = {count} must be a multiple of block_size {self.block_size}, at least two")
        if self.block_size % expected["num_classes"]:
            raise ValueError(f"block_size {self.block_size} must be a multiple of the {data.num_classes} classes")
        return self


def recipe_path(name: str) -> Path:
    """A recipe's file: a path, or the name of one in studies/. Raises UserError where there is none."""
    import studies

    built_in = Path(studies.__path__[0])
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


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe. Raises UserError with one line for anything wrong in it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = recipe_path(name)
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise UserError(f"cannot read override {override!r}: write it as key.subkey=value")
    try:
        # OmegaConf reads 1e-4 as a number, where plain YAML sees a string; its loader builds plain values alone.
        merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        data: Any = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, TypeError, OSError) as error:
        raise UserError(f"cannot read recipe {path}: {' '.join(str(error).split())}") from error
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"recipe {path}: {describe(error)}") from error
