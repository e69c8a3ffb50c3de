"""What can be asked of the machine, as frozen values, and what comes back.

A spec says everything that its result depends on, so its fingerprint names the result: the store remembers results by
fingerprint, and what is recorded is never computed again.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from models.data import Data
from models.features import ClassifierConfig
from models.files import File
from models.frechet import standard_error
from models.mask_ratio import AnyMaskRatio
from models.networks import NetworkConfig
from models.probes import Probe
from models.schedule import GenerationSchedule
from models.train import TrainingConfig

# Raised whenever the arithmetic changes, so that old results are not taken for new ones.
NUMERICS_VERSION = 2
# Where that of one kind alone has changed, by the spec's class: its own number until the common one has passed it.
NUMERICS_OF_KINDS = {"PopulationSpec": 3, "ProbeSpec": 3}

Labels = Literal["balanced", "random"]


@dataclass(frozen=True, slots=True)
class Compute:
    """What a result is computed on. Noise comes from the device's own generator, bfloat16 rounds and compiled code adds
    in another order, so it is part of the result's name: a number from another device is another draw.

    compile: networks through torch.compile, in training and sampling; worth its minutes on a GPU. What is compiled
    depends on the counts that a process meets first, so that results of two processes agree but for rounding.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Train the feature network of the metric. Result: Features; artifact: its weights."""

    data: Literal["digits"]
    classifier: ClassifierConfig
    seed: int

    images = 0

    @property
    def metric(self) -> str:
        """The metric's name with what it was measured with."""
        return f"FD({self.data}-cnn:{fingerprint(self)[:8]})"


@dataclass(frozen=True, slots=True)
class InceptionSpec:
    """Inception's features and the real images' statistics under them, both from files; nothing to train.

    images: how generated images reach the network, see ``models.inception.MetricProtocol``.
    """

    weights: File
    reference: File
    images: Literal["uint8", "float"] = "uint8"
    compute: Compute = Compute()

    @property
    def metric(self) -> str:
        return f"FID(inception:{self.weights.sha256[:8]}, {self.images}, reference:{self.reference.sha256[:8]})"


@dataclass(frozen=True, slots=True)
class FeatureFileSpec:
    """A feature network of our own and the real images' statistics under it, both from files (`autonat train-features`,
    `autonat statistics`); nothing to train.

    name: of the features, as the weights' file has it.
    """

    name: str
    weights: File
    reference: File
    compute: Compute = Compute()

    @property
    def metric(self) -> str:
        return f"FD({self.name}:{self.weights.sha256[:8]}, reference:{self.reference.sha256[:8]})"


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """Train a generator. Result: Trained; artifact: the EMA's weights.

    start_from: the training whose weights this one begins with; None: from random weights. until_step: leave off after
    so many of the steps, with the state kept for whoever wants more of the same training; None: all of them.
    """

    data: Data
    network: NetworkConfig
    training: TrainingConfig
    mask_ratio: AnyMaskRatio
    seed: int
    compute: Compute = Compute()
    start_from: "TrainSpec | None" = None
    until_step: int | None = None

    images = 0

    def __post_init__(self) -> None:
        if self.until_step is not None and not 1 <= self.until_step < self.training.steps:
            raise ValueError(f"until_step must lie in 1 to {self.training.steps - 1}, got {self.until_step}")

    @property
    def whole(self) -> "TrainSpec":
        """The same training with all of its steps."""
        return replace(self, until_step=None)

    @property
    def steps(self) -> int:
        """Training steps behind the result."""
        return self.until_step or self.training.steps


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """A generator that was trained elsewhere: its weights are a file. mask_ratio: what its authors say of it."""

    data: Data
    network: NetworkConfig
    weights: File
    mask_ratio: AnyMaskRatio


# What stands behind a measurement: something trained here, or a file.
GeneratorSpec = TrainSpec | CheckpointSpec
MetricSpec = FeatureSpec | InceptionSpec | FeatureFileSpec


class _InBlocks:
    """What is painted in whole blocks of images. Raises ValueError where they are not whole, or fewer than two."""

    __slots__ = ()
    num_images: int
    block_size: int

    def __post_init__(self) -> None:
        if self.block_size < 2 or self.num_images < 2 * self.block_size or self.num_images % self.block_size:
            raise ValueError(
                f"num_images {self.num_images} must be at least two whole blocks of {self.block_size} "
                "(a standard error needs two)"
            )

    @property
    def num_blocks(self) -> int:
        return self.num_images // self.block_size

    @property
    def images(self) -> int:
        """Images generated for this result."""
        return self.num_images


@dataclass(frozen=True, slots=True)
class EvaluationSpec(_InBlocks):
    """Generate `num_images` images and measure their distance to the real ones. Result: Evaluation."""

    training: GeneratorSpec
    features: MetricSpec
    schedule: GenerationSchedule
    seed: int
    num_images: int
    block_size: int
    labels: Labels = "balanced"
    compute: Compute = Compute()

    def metrics(self, names: tuple[str, ...]) -> "MetricsSpec":
        """Metrics of the same images. Raises ValueError for random labels, which metrics do not have."""
        if self.labels != "balanced":
            raise ValueError("metrics are of balanced labels")
        return MetricsSpec(
            self.training,
            self.features,
            self.schedule,
            self.seed,
            self.num_images,
            self.block_size,
            names,
            self.compute,
        )


@dataclass(frozen=True, slots=True)
class ProbeSpec(_InBlocks):
    """Measure how each probe of one schedule value changes the distance, under common random numbers and dithered mask
    counts. Result: Differences."""

    training: GeneratorSpec
    features: MetricSpec
    schedule: GenerationSchedule
    probes: tuple[Probe, ...]
    seed: int
    num_images: int
    block_size: int
    compute: Compute = Compute()

    @property
    def images(self) -> int:
        """Images generated: the base once for its statistics and once beside its probes, and every probe."""
        return self.num_images * (2 + len(self.probes))


@dataclass(frozen=True, slots=True)
class PopulationSpec(_InBlocks):
    """Measure what moving each schedule value from `lows` to `highs` does to the distance, every image under a
    perturbation of its own (``models.population``). Result: Changes."""

    training: GeneratorSpec
    features: MetricSpec
    schedule: GenerationSchedule
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    seed: int
    num_images: int
    block_size: int
    compute: Compute = Compute()

    def __post_init__(self) -> None:
        _InBlocks.__post_init__(self)
        if self.block_size % 2:
            raise ValueError(f"block_size {self.block_size} must be even: images come in pairs")
        if not len(self.lows) == len(self.highs) == len(self.schedule.values()):
            raise ValueError("lows and highs need one value for each of the schedule's")


@dataclass(frozen=True, slots=True)
class MetricsSpec(_InBlocks):
    """Generate the images of `evaluation` and measure the metrics of `names` (see ``models.metrics``), which look at
    single images. Result: Metrics."""

    training: GeneratorSpec
    features: MetricSpec
    schedule: GenerationSchedule
    seed: int
    num_images: int
    block_size: int
    names: tuple[str, ...]
    compute: Compute = Compute()

    @property
    def evaluation(self) -> EvaluationSpec:
        """The distance of the same images. Where both are asked for at once, they are painted once."""
        return EvaluationSpec(
            self.training,
            self.features,
            self.schedule,
            self.seed,
            self.num_images,
            self.block_size,
            compute=self.compute,
        )


@dataclass(frozen=True, slots=True)
class OneStepSpec(_InBlocks):
    """Mask a share of real images' tokens, draw them all in one pass, and measure the distance of what comes out
    (``models.one_step``). Mask ratio 0: the real images themselves, by way of the tokenizer. Result: Evaluation."""

    training: GeneratorSpec
    features: MetricSpec
    mask_ratio: float
    seed: int
    num_images: int
    block_size: int
    sampling_temperature: float = 1.0
    compute: Compute = Compute()

    def __post_init__(self) -> None:
        _InBlocks.__post_init__(self)
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie in [0, 1), got {self.mask_ratio}")


@dataclass(frozen=True, slots=True)
class FeatureChangeSpec(_InBlocks):
    """Paint images and measure how much the network's features change from step to step (``models.feature_change``).
    Result: FeatureChanges."""

    training: GeneratorSpec
    schedule: GenerationSchedule
    seed: int
    num_images: int
    block_size: int
    compute: Compute = Compute()


# What is measured with feature networks, in blocks of images.
MeasuredSpec = EvaluationSpec | ProbeSpec | PopulationSpec | MetricsSpec | OneStepSpec
Spec = FeatureSpec | TrainSpec | MeasuredSpec | FeatureChangeSpec


def painted(specs: Iterable[Spec]) -> list[Spec]:
    """Of specs that are asked for at once those that images are painted for: an evaluation uses its metrics'."""
    specs = list(specs)
    together = {spec.evaluation for spec in specs if isinstance(spec, MetricsSpec)}
    return [spec for spec in specs if spec not in together]


def networks_needed(spec: Spec | InceptionSpec | FeatureFileSpec) -> list[TrainSpec | FeatureSpec]:
    """The networks trained here that computing a spec begins with."""
    parts: tuple[Any, ...] = ()
    if isinstance(spec, TrainSpec):
        parts = (spec.start_from,)
    elif isinstance(spec, MeasuredSpec):
        parts = (spec.training, spec.features)
    elif isinstance(spec, FeatureChangeSpec):
        parts = (spec.training,)
    return [part for part in parts if isinstance(part, TrainSpec | FeatureSpec)]


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, floats to the last bit."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(spec: Spec | InceptionSpec | FeatureFileSpec | CheckpointSpec) -> str:
    """SHA-256 of the spec's canonical JSON and the numerics version, in hexadecimal."""
    return _name(type(spec).__name__, asdict(spec))


def fingerprint_of_whole(recorded: str) -> str | None:
    """The fingerprint of the whole training of which a recorded TrainSpec (JSON) is a part; None where it is whole."""
    data = json.loads(recorded)
    return None if data.get("until_step") is None else _name("TrainSpec", {**data, "until_step": None})


def fingerprint_of_evaluation(recorded: str) -> str:
    """The fingerprint of the evaluation of the images that recorded metrics (a MetricsSpec's JSON) are of."""
    data = json.loads(recorded)
    del data["names"]
    return _name("EvaluationSpec", {**data, "labels": "balanced"})


def _name(kind: str, data: dict[str, Any]) -> str:
    numerics = max(NUMERICS_VERSION, NUMERICS_OF_KINDS.get(kind, 0))
    content = {"kind": kind, "numerics": numerics, "spec": _without_places(data)}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


# Fields that came after results had been recorded. At these values they mean what was meant before, and stay out of the
# name, so that those results are still found. Fields of what has a kind are written KIND.FIELD.
ADDED_LATER: dict[str, Any] = {
    "start_from": None,
    "until_step": None,
    "devices": 1,
    "compile": False,
    "enat.reuse": True,
    "uvit.embedding_std": 0.02,
    "uvit.initial_positions": "normal",
}


# Fields that never change a result.
OUTSIDE_THE_NAME = {"checkpoint_every_minutes"}


def _without_places(value: Any) -> Any:
    """Plain data with files named by their contents alone, and without fields that change nothing."""
    if isinstance(value, dict):
        if value.keys() == {"path", "sha256"}:
            return {"sha256": value["sha256"] or f"unread {value['path']}"}
        kind = value.get("kind")
        return {
            key: _without_places(entry)
            for key, entry in value.items()
            if key not in OUTSIDE_THE_NAME
            and not any(name in ADDED_LATER and entry == ADDED_LATER[name] for name in (key, f"{kind}.{key}"))
        }
    return [_without_places(entry) for entry in value] if isinstance(value, list | tuple) else value


def derived_seed(seed: int, *address: int | str) -> int:
    """A seed for one purpose, below 2^63; other addresses give unrelated ones."""
    digest = hashlib.sha256(repr((int(seed), *address)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, slots=True)
class Features:
    """A trained feature network: test accuracy, and the distance of real test images to real training images."""

    test_accuracy: float
    floor: float
    floor_standard_error: float
    floor_images: int


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained generator: mean training loss of the last tenth of its steps."""

    loss: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A distance that says what it was measured with.

    shares: each block's mean of the influence function; their spread over blocks gives the standard error, and two
    evaluations of the same seed are compared block by block.
    """

    value: float
    standard_error: float
    num_images: int
    metric: str
    seed: int
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of the distance by schedule value, from the lower to the upper end, with their standard errors.

    value: the distance of the perturbed images, all perturbations mixed: higher than the schedule's own.
    """

    value: float
    metric: str
    num_images: int
    changes: tuple[float, ...]
    standard_errors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Differences:
    """Changes of the distance: blocks[b][p] is probe p's in block b. `value` is the base's distance."""

    value: float
    metric: str
    num_images: int
    blocks: tuple[tuple[float, ...], ...]

    def mean(self, weights: Sequence[float]) -> tuple[float, float]:
        """Mean and standard error over blocks of a weighted sum of the probes' changes."""
        sums = [math.fsum(w * x for w, x in zip(weights, block, strict=True)) for block in self.blocks]
        return math.fsum(sums) / len(sums), standard_error(sums)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Further metrics of one sample, under torch-fidelity's keys where it has them.

    num_images: generated, all of which the Inception Score reads. sampled_images: of these, whose features stand for
    them in KID and precision/recall, beside `reference_images` real ones. kid_subset_images: in one of KID's subsets.
    variety_shares: each block's mean of the influences on the variance within classes, where that was measured.
    """

    values: dict[str, float]
    metric: str
    seed: int
    num_images: int
    sampled_images: int
    reference_images: int
    kid_subset_images: int
    variety_shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class FeatureChanges:
    """Changes of a network's features, each the mean over images; `names` has (step, layer, group) of each.

    cosines[b][n], relatives[b][n]: change n's mean over block b. See ``models.feature_change.Change``.
    """

    names: tuple[tuple[int, str, str], ...]
    cosines: tuple[tuple[float, ...], ...]
    relatives: tuple[tuple[float, ...], ...]
    num_images: int
    seed: int


Result = Features | Trained | Evaluation | Differences | Changes | Metrics | FeatureChanges

RESULT_OF = {
    "FeatureSpec": Features,
    "TrainSpec": Trained,
    "EvaluationSpec": Evaluation,
    "ProbeSpec": Differences,
    "PopulationSpec": Changes,
    "MetricsSpec": Metrics,
    "OneStepSpec": Evaluation,
    "FeatureChangeSpec": FeatureChanges,
}


def result_from_dict(kind: str, data: dict[str, Any]) -> Result:
    """The result of a spec of class `kind`, back from JSON."""
    data = dict(data)
    if kind in ("EvaluationSpec", "OneStepSpec"):
        data["shares"] = tuple(data["shares"])
    if kind == "MetricsSpec":
        data["variety_shares"] = tuple(data.get("variety_shares", ()))
    if kind == "ProbeSpec":
        data["blocks"] = tuple(tuple(block) for block in data["blocks"])
    if kind == "PopulationSpec":
        data["changes"], data["standard_errors"] = tuple(data["changes"]), tuple(data["standard_errors"])
    if kind == "FeatureChangeSpec":
        for name in ("names", "cosines", "relatives"):
            data[name] = tuple(tuple(entry) for entry in data[name])
    return RESULT_OF[kind](**data)


def paired_difference(candidate: Evaluation, incumbent: Evaluation) -> tuple[float, float]:
    """candidate - incumbent in distance, and its standard error over paired blocks.

    Raises ValueError where the two do not compare: other features, seeds or sample counts.
    """
    if (candidate.metric, candidate.seed, candidate.num_images, len(candidate.shares)) != (
        incumbent.metric,
        incumbent.seed,
        incumbent.num_images,
        len(incumbent.shares),
    ):
        raise ValueError("these evaluations do not compare: they differ in metric, seed, sample count or blocks")
    gaps = [a - b for a, b in zip(candidate.shares, incumbent.shares, strict=True)]
    return candidate.value - incumbent.value, standard_error(gaps)
