"""Tasks: what an executor carries to a worker. Small, frozen, picklable; weights travel as files."""

from dataclasses import dataclass
from typing import Any

from autonat.specs import (
    EvaluationSpec,
    FeatureChangeSpec,
    FeatureSpec,
    MetricSpec,
    MetricsSpec,
    OneStepSpec,
    PopulationSpec,
    ProbeSpec,
    TrainSpec,
    fingerprint,
)
from models.frechet import Influence


@dataclass(frozen=True, slots=True)
class TrainTask:
    """Train what the spec says and put the weights into the artifact folder. Returns (result, SHA-256)."""

    spec: TrainSpec | FeatureSpec


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """Statistics of one block. `dithered` gives the mask counts that finite differences need."""

    spec: EvaluationSpec | ProbeSpec | OneStepSpec
    block: int
    dithered: bool = False


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """Changes of the distance in one block, one a probe."""

    spec: ProbeSpec
    block: int
    influence: Influence


@dataclass(frozen=True, slots=True)
class MetricsTask:
    """One block's features, logits where a metric asks for them, and where the distance of the same images is wanted
    too (`evaluates`) what an EvaluationTask returns."""

    spec: MetricsSpec
    block: int
    evaluates: bool = False


@dataclass(frozen=True, slots=True)
class ReferenceTask:
    """The real images' mean and covariance under a feature network."""

    spec: MetricSpec


@dataclass(frozen=True, slots=True)
class RealFeaturesTask:
    """Single real images' features under a feature network, or none where there is a file of statistics alone."""

    spec: MetricSpec


@dataclass(frozen=True, slots=True)
class PopulationTask:
    """Features of one block's pairs of perturbed images, and their signs."""

    spec: PopulationSpec
    block: int


@dataclass(frozen=True, slots=True)
class FeatureChangeTask:
    """Changes of the network's features on one block's images."""

    spec: FeatureChangeSpec
    block: int


BlockTask = EvaluationTask | ProbeTask | PopulationTask | MetricsTask | FeatureChangeTask
Task = TrainTask | BlockTask | ReferenceTask | RealFeaturesTask


def kind_of(task: Task) -> str:
    """The task's kind in the ledger."""
    if isinstance(task, TrainTask):
        return "training" if isinstance(task.spec, TrainSpec) else "features"
    if isinstance(task, EvaluationTask):
        if isinstance(task.spec, OneStepSpec):
            return "one step"
        return "base" if task.dithered else "evaluation"
    if isinstance(task, MetricsTask):
        return "metrics"
    if isinstance(task, PopulationTask):
        return "population"
    if isinstance(task, FeatureChangeTask):
        return "feature change"
    return "probes" if isinstance(task, ProbeTask) else "reference"


def block_of(task: Task) -> int | None:
    return task.block if isinstance(task, BlockTask) else None


def images_of(task: Task) -> int:
    """Images that the task generates; summed over a spec's tasks this is ``spec.images``."""
    if isinstance(task, ProbeTask):
        return task.spec.block_size * (1 + len(task.spec.probes))
    return task.spec.block_size if isinstance(task, BlockTask) else 0


def label_of(task: Any) -> str:
    """The task in a message; executors also carry what is none of the above (benchmarks, tests)."""
    if not isinstance(task, Task):
        return "a task"
    block = block_of(task)
    return f"{kind_of(task)} {fingerprint(task.spec)[:12]}" + ("" if block is None else f", block {block},")
