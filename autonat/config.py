"""Recipes: a study as one YAML file, and what in it goes together."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from autonat.errors import UserError
from autonat.recipe_files import Strict, checked, describe, recipe_path
from autonat.search_config import AnySearch, BetaSearch, Descent, OfficialSearch, StagedSearch
from autonat.specs import Compute
from models.data import Data, TokenData, sizes_of
from models.features import ClassifierConfig
from models.files import File, FileError, as_file
from models.mask_ratio import AnyMaskRatio, ArccosMaskRatio
from models.networks import NetworkConfig
from models.schedule import FAMILIES, PRESETS, DecodingRule, GenerationSchedule, components, resampled
from models.train import TrainingConfig

if TYPE_CHECKING:  # which opens databases
    from autonat.earlier_study import FindSchedule


class ScheduleStart(Strict):
    """Where the schedule starts: a preset for `num_steps` steps, or the four families of values written out.

    interpolate: take values for another number of steps and interpolate them over t/T. In a file, `study: NAME` stands
    for the values that an earlier study tuned (see ``autonat.earlier_study``).
    """

    num_steps: int = Field(ge=1)
    preset: Literal["maskgit-cosine", "linear", "autonat-initial", "muse-initial"] = "maskgit-cosine"
    rule: DecodingRule = "enat"
    values: dict[str, tuple[float, ...]] | None = None
    interpolate: bool = False

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
        if self.interpolate:
            return resampled(schedule, self.num_steps)
        if schedule.num_steps != self.num_steps:
            raise ValueError(f"schedule.values has {schedule.num_steps} steps, num_steps says {self.num_steps}")
        return schedule


class InceptionConfig(Strict):
    """FID itself: Inception's weights and the real images' statistics, both from files (`autonat statistics`).

    images: `uint8` as saved images hold them, or `float`, never rounded, as MUSE's evaluation has it.
    """

    kind: Literal["inception"] = "inception"
    weights: File
    reference: File
    images: Literal["uint8", "float"] = "uint8"


class Floor(Strict):
    """The distance of real test images to the real images of the reference. A small sample reads high."""

    value: float
    standard_error: float
    num_images: int


class FeatureFacts(Strict):
    """What the files of a feature network say.

    test_accuracy: of the classifier. floor: where `autonat statistics --test` measured it.
    """

    name: str
    test_accuracy: float
    floor: Floor | None = None


class FeatureFileConfig(Strict):
    """A feature network of our own and the real images' statistics under it, both from files (`autonat train-features`,
    `autonat statistics`).

    found: read from the files when a study begins; not for recipes to say.
    """

    kind: Literal["network"] = "network"
    weights: File
    reference: File
    found: FeatureFacts | None = None


def _not_finite(value: Any, where: str) -> list[str]:
    """Where in plain data there are numbers that are infinite or none."""
    if isinstance(value, dict):
        return [place for key, entry in value.items() for place in _not_finite(entry, f"{where}.{key}")]
    return [where] if isinstance(value, float) and not math.isfinite(value) else []


PhaseName = Literal["schedule", "mask_ratio"]
MetricName = Literal["fid", "isc", "kid", "kid_rbf", "prc", "variety"]  # models.metrics.METRICS


class Recipe(Strict):
    """A whole study.

    phases: what is searched, `schedule`, `mask_ratio` or both in turn. checkpoint: a trained network's file, whose
    schedule alone can then be searched; `mask_ratio` is then what its authors say it was trained with. compute: where
    training and evaluations run, and how exactly. metrics: what is measured of the held-out images beside the Frechet
    distance, which always is.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    seed: int = 0
    data: Data = "digits"
    network: NetworkConfig = Field(discriminator="kind")
    checkpoint: File | None = None
    training: TrainingConfig | None = None
    compute: Compute = Compute()
    features: ClassifierConfig | InceptionConfig | FeatureFileConfig = Field(ClassifierConfig(), discriminator="kind")
    schedule: ScheduleStart
    mask_ratio: AnyMaskRatio = Field(ArccosMaskRatio(), discriminator="kind")
    phases: tuple[PhaseName, ...] = Field(("schedule", "mask_ratio"), min_length=1)
    search: AnySearch = Field(StagedSearch(), discriminator="method")
    # The schedule search of later rounds, which starts from a tuned schedule; the same one unless given.
    later_search: StagedSearch | None = None
    beta: BetaSearch = BetaSearch()
    rounds: int = Field(1, ge=1)
    # Other numbers of steps that the tuned pair's schedule is carried over to and tuned for, each from its neighbour.
    front: tuple[int, ...] = ()
    block_size: int = Field(100, ge=2)
    budget_images: int | None = Field(None, ge=1)
    held_out_images: int = 10_000
    metrics: tuple[MetricName, ...] = ()
    # Searches count a pair as farther than measured whose images vary less within a class than this share of what the
    # study began with.
    keep_variety: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """A preset's name for a network's sizes, a path for a file, and the kinds that go without saying."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        network = data.get("network")
        if isinstance(network, dict) and "preset" in network:
            from models.presets import preset

            sizes = {key: value for key, value in network.items() if key != "preset"}
            data["network"] = {**asdict(preset(str(network["preset"]))), **sizes}
        elif isinstance(network, dict):
            data["network"] = {"kind": "enat", **network}
        for key, kind in (("features", {"kind": "classifier"}), ("search", {"method": "staged"})):
            if isinstance(data.get(key), dict):
                data[key] = {**kind, **data[key]}
        for keys in FILES:
            _put(data, keys, as_file)
        return data

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        sizes = sizes_of(self.data)
        for place in _not_finite(self.model_dump(include={"network", "training", "features", "mask_ratio"}), "recipe"):
            raise ValueError(f"{place.removeprefix('recipe.')} must be a finite number")
        for name in ("num_tokens", "codebook_size", "num_classes"):
            value = getattr(sizes, name)
            if getattr(self.network, name) != value:
                what = self.data if isinstance(self.data, str) else f"data {self.data.name}"
                raise ValueError(f"network.{name} is {getattr(self.network, name)}, but {what} needs {value}")
        self._check_parts()
        self._check_counts(sizes.num_classes)
        return self

    def _check_parts(self) -> None:
        """What goes together."""
        if self.checkpoint is None and self.training is None:
            raise ValueError("give either `training` or the `checkpoint` of a trained network")
        if self.checkpoint is not None and (self.training is not None or "mask_ratio" in self.phases):
            raise ValueError("a `checkpoint` is not trained any more: leave out `training` and set phases: [schedule]")
        warm = self.beta.warm_start
        if self.training is not None:
            self.beta.rung_steps(self.training.steps if warm is None else warm.steps)
        if warm is not None and self.training is not None and warm.steps >= self.training.steps:
            raise ValueError(f"beta.warm_start.steps must be below training.steps, {self.training.steps}")
        if len(set(self.phases)) < len(self.phases):
            raise ValueError("phases names one twice")
        if any(steps < 1 or steps == self.schedule.num_steps for steps in self.front):
            raise ValueError("front takes numbers of steps from 1 on, other than schedule.num_steps")
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError("metrics names one twice")
        for name in {"fid", "isc"} & set(self.metrics):
            if not isinstance(self.features, InceptionConfig):
                raise ValueError(f"metrics: {name} needs Inception; other features have kid, kid_rbf, prc and variety")
        if self.keep_variety is not None and isinstance(self.search, OfficialSearch):
            raise ValueError("keep_variety is for other searches: the published one looks at the distance alone")
        if isinstance(self.data, TokenData) == isinstance(self.features, ClassifierConfig):
            raise ValueError(
                "data in files is measured with features.kind inception or network, the digits with a classifier"
            )
        if isinstance(self.data, TokenData) and self.checkpoint is None and self.data.tokens is None:
            raise ValueError("data.tokens is needed to train a network")
        captions = isinstance(self.data, TokenData) and self.data.captions is not None
        if captions != (self.network.kind == "uvit_text"):
            raise ValueError("data.captions and a network of kind uvit_text go together")
        if self.network.kind == "uvit_text" and self.checkpoint is None:
            raise ValueError("a network of kind uvit_text is not trained here: give its checkpoint")
        reuses = self.network.kind == "enat" and self.network.reuse
        if not reuses and self.training is not None and self.training.reuse_probability > 0:
            raise ValueError(f"training.reuse_probability must be 0: this {self.network.kind} reuses no features")

    def _check_counts(self, num_classes: int) -> None:
        """Image counts are whole blocks, blocks hold whole rounds of the classes or less than one."""
        counts = {"held_out_images": self.held_out_images}
        if "mask_ratio" in self.phases:
            counts["beta.images"] = self.beta.images
            if self.beta.retune is not None:
                counts["beta.retune.images"] = self.beta.retune.images
        for where, search in (("search", self.search), ("later_search", self.later_search)):
            if search is None:
                continue
            if not isinstance(search, OfficialSearch):
                counts[f"{where}.confirmation_images"] = search.confirmation_images
            if not isinstance(search, StagedSearch):
                counts[f"{where}.images"] = search.images
                continue
            if search.warm_start is not None:
                counts[f"{where}.warm_start.images"] = search.warm_start.images
            if search.descent is not None:
                counts[f"{where}.descent.images"] = search.descent.images
                others = self.front if search is (self.later_search or self.search) else ()
                self._check_descent(f"{where}.descent", search.descent, [self.schedule.num_steps, *others])
        self._check_variety(counts, num_classes)
        for name, count in counts.items():
            if count < 2 * self.block_size or count % self.block_size:
                raise ValueError(f"{name} = {count} must be a multiple of block_size {self.block_size}, at least two")
        if num_classes <= self.block_size and self.block_size % num_classes:
            raise ValueError(f"block_size {self.block_size} must be a multiple of the {num_classes} classes")

    def _check_variety(self, counts: dict[str, int], num_classes: int) -> None:
        """What is measured for its variety needs two images of each class. Races, some checks and duels begin with a
        part of the images."""
        needing = {}
        if self.keep_variety is not None:
            if "schedule" not in self.phases:
                counts = {name: count for name, count in counts.items() if "search" not in name}
            parts = {"confirmation_images": 4, "descent.images": 2, "beta.images": 2}
            for name, count in counts.items():
                divisor = next((parts[end] for end in parts if name.endswith(end)), 1)
                needing[name] = max(count // divisor, 2 * self.block_size)
        if self.keep_variety is not None or "variety" in self.metrics:
            from models.metric_blocks import SAMPLE_IMAGES

            needing["held_out_images"] = min(self.held_out_images, SAMPLE_IMAGES)
        for name, count in needing.items():
            if count < 2 * num_classes:
                raise ValueError(
                    f"variety needs two images of each of {num_classes:,} classes, and {name} leaves {count:,}"
                )

    def _check_descent(self, where: str, descent: Descent, numbers_of_steps: list[int]) -> None:
        """A population's pairs must outnumber the values they tell apart, and pairs lie in one block."""
        most = max(numbers_of_steps)
        values = len(components(most))
        if descent.estimator == "population":
            if self.block_size % 2:
                raise ValueError(f"{where}.estimator population needs an even block_size, got {self.block_size}")
            if descent.images <= 2 * values:
                raise ValueError(f"{where}.images must be above {2 * values}, twice the {values} values of T = {most}")

    def files(self) -> dict[str, File]:
        """Every file the study depends on, by its key in the recipe."""
        found = {".".join(keys): _get(self, keys) for keys in FILES}
        return {key: file for key, file in found.items() if file is not None}

    def with_files_looked_at(self) -> "Recipe":
        """The recipe with the hash of every file, so that results are named by what was in them.

        Raises UserError for one that is missing or is not the file it was.
        """
        data = self.model_dump()
        for key, file in self.files().items():
            try:
                looked_at = file.looked_at()
            except FileError as error:
                raise UserError(f"{key}: {error}") from error
            _put(data, tuple(key.split(".")), lambda _, file=looked_at: asdict(file))
        if isinstance(self.features, FeatureFileConfig):
            data["features"]["found"] = self._facts(self.features).model_dump()
        self._check_reference()
        return Recipe.model_validate(data)

    def _facts(self, features: FeatureFileConfig) -> FeatureFacts:
        """What the feature network and its reference say. Raises UserError where they do not go together."""
        from models.checkpoint import CheckpointError
        from models.feature_files import load_features
        from models.statistics_files import StatisticsError, read_statistics

        try:
            file = load_features(features.weights.place)
        except CheckpointError as error:
            raise UserError(f"features.weights: {error}") from error
        try:
            stored = read_statistics(features.reference.place, file.network.config.dimensions)
            stored.check_made_with(features.reference.place, file.name, file.sha256)
            floor = stored.provenance.get("floor")
            found = None if floor is None else Floor.model_validate(floor)
        except (StatisticsError, ValidationError) as error:
            reason = describe(error) if isinstance(error, ValidationError) else str(error)
            raise UserError(f"features.reference: {reason}") from error
        return FeatureFacts(name=file.name, test_accuracy=file.test_accuracy, floor=found)

    def _check_reference(self) -> None:
        """Raises UserError where metrics need single real images and the reference file has statistics alone."""
        from models.metrics import WITH_REAL_IMAGES

        wanted = [name for name in self.metrics if name in WITH_REAL_IMAGES]
        if isinstance(self.features, ClassifierConfig) or not wanted:
            return
        from models.inception import InceptionFeatures
        from models.statistics_files import StatisticsError, read_statistics

        dimensions = InceptionFeatures.dimensions if isinstance(self.features, InceptionConfig) else None
        try:
            stored = read_statistics(self.features.reference.place, dimensions)
        except StatisticsError as error:
            raise UserError(f"features.reference: {error}") from error
        if stored.features is None:
            raise UserError(
                f"features.reference: {self.features.reference.path} has no single images' features, which "
                f"{', '.join(wanted)} need: "
                "`autonat statistics --keep 10000` keeps some"
            )


# Where in a recipe there may be files.
FILES = (
    ("checkpoint",),
    ("data", "tokenizer"),
    ("data", "tokens"),
    ("data", "captions", "contexts"),
    ("features", "weights"),
    ("features", "reference"),
)


def _get(recipe: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        recipe = getattr(recipe, key, None)
    return recipe


def _put(data: Any, keys: tuple[str, ...], change: Any) -> None:
    """Change a value in nested dictionaries, copying those on the way; nothing where there is none."""
    *parents, last = keys
    for key in parents:
        if not isinstance(data, dict) or not isinstance(data.get(key), dict):
            return
        data[key] = dict(data[key])
        data = data[key]
    if isinstance(data, dict) and data.get(last) is not None:
        data[last] = change(data[last])


def load_recipe(name: str, overrides: Sequence[str] = (), find_schedule: "FindSchedule | None" = None) -> Recipe:
    """Read, override and check a recipe. Raises UserError with one line for anything wrong in it.

    find_schedule: what an earlier study tuned, for `schedule.study`.
    """
    from autonat.earlier_study import with_schedule_found

    path = recipe_path(name)
    return checked(Recipe, path, overrides, lambda data: with_schedule_found(data, find_schedule))
