"""What can be asked of the machine, as frozen values, and what comes back.

A spec says everything that its result depends on, so its fingerprint names the result: the store remembers results by
fingerprint, and what is recorded is never computed again.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from models.enat import ENATConfig
from models.features import ClassifierConfig
from models.frechet import standard_error
from models.mask_ratio import AnyMaskRatio
from models.probes import Probe
from models.schedule import GenerationSchedule
from models.train import TrainingConfig

# Raised whenever the arithmetic changes, so that old results are not taken for new ones.
NUMERICS_VERSION = 1

Labels = Literal["balanced", "random"]


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Train the feature network of the metric. Result: Features; artifact: its weights."""

    data: str
    classifier: ClassifierConfig
    seed: int

    images = 0

    @property
    def metric(self) -> str:
        """The metric's name with what it was measured with."""
        return f"FD({self.data}-cnn:{fingerprint(self)[:8]})"


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """Train a generator. Result: Trained; artifact: the EMA's weights."""

    data: str
    network: ENATConfig
    training: TrainingConfig
    mask_ratio: AnyMaskRatio
    seed: int

    images = 0


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """Generate `num_images` images and measure their distance to the real ones. Result: Evaluation."""

    training: TrainSpec
    features: FeatureSpec
    schedule: GenerationSchedule
    seed: int
    num_images: int
    block_size: int
    labels: Labels = "balanced"

    def __post_init__(self) -> None:
        _check_blocks(self.num_images, self.block_size)

    @property
    def num_blocks(self) -> int:
        return self.num_images // self.block_size

    @property
    def images(self) -> int:
        """Images generated for this result."""
        return self.num_images


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """Measure how each probe of one schedule value changes the distance, under common random numbers and dithered mask
    counts. Result: Differences."""

    training: TrainSpec
    features: FeatureSpec
    schedule: GenerationSchedule
    probes: tuple[Probe, ...]
    seed: int
    num_images: int
    block_size: int

    def __post_init__(self) -> None:
        _check_blocks(self.num_images, self.block_size)

    @property
    def num_blocks(self) -> int:
        return self.num_images // self.block_size

    @property
    def images(self) -> int:
        """Images generated: the base once for its statistics and once beside its probes, and every probe."""
        return self.num_images * (2 + len(self.probes))


Spec = FeatureSpec | TrainSpec | EvaluationSpec | ProbeSpec


def _check_blocks(num_images: int, block_size: int) -> None:
    if block_size < 2 or num_images < 2 * block_size or num_images % block_size:
        raise ValueError(
            f"num_images {num_images} must be at least two whole blocks of {block_size} (a standard error needs two)"
        )


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, floats to the last bit."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(spec: Spec) -> str:
    """SHA-256 of the spec's canonical JSON and the numerics version, in hexadecimal."""
    content = {"kind": type(spec).__name__, "numerics": NUMERICS_VERSION, "spec": asdict(spec)}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


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


Result = Features | Trained | Evaluation | Differences

RESULT_OF = {
    "FeatureSpec": Features,
    "TrainSpec": Trained,
    "EvaluationSpec": Evaluation,
    "ProbeSpec": Differences,
}


def result_from_dict(kind: str, data: dict[str, Any]) -> Result:
    """The result of a spec of class `kind`, back from JSON."""
    data = dict(data)
    if kind == "EvaluationSpec":
        data["shares"] = tuple(data["shares"])
    if kind == "ProbeSpec":
        data["blocks"] = tuple(tuple(block) for block in data["blocks"])
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
