"""Tasks: what an executor carries to a worker. Small, frozen, picklable; weights travel as files."""

from dataclasses import dataclass

from autonat.specs import EvaluationSpec, FeatureSpec, ProbeSpec, TrainSpec
from models.frechet import Influence


@dataclass(frozen=True, slots=True)
class TrainTask:
    """Train what the spec says and put the weights into the artifact folder. Returns (result, SHA-256)."""

    spec: TrainSpec | FeatureSpec


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """Statistics of one block. `dithered` gives the mask counts that finite differences need."""

    spec: EvaluationSpec | ProbeSpec
    block: int
    dithered: bool = False


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """Changes of the distance in one block, one a probe."""

    spec: ProbeSpec
    block: int
    influence: Influence


@dataclass(frozen=True, slots=True)
class ReferenceTask:
    """The real images' mean and covariance under a feature network."""

    spec: FeatureSpec


Task = TrainTask | EvaluationTask | ProbeTask | ReferenceTask
