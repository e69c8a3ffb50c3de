"""A worker: performs tasks one after another, and keeps what it loaded.

The same class runs in the driver's process, in worker processes and in Ray actors. One torch thread: more threads on a
shared machine are slower, and the number of threads decides the last bits.
"""

import json
import os
import time
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autonat.errors import UserError
from autonat.execution.tasks import (
    EvaluationTask,
    FeatureChangeTask,
    MetricsTask,
    PopulationTask,
    ProbeTask,
    RealFeaturesTask,
    ReferenceTask,
    Task,
    TrainTask,
)
from autonat.specs import (
    Compute,
    EvaluationSpec,
    FeatureChangeSpec,
    FeatureFileSpec,
    Features,
    FeatureSpec,
    GeneratorSpec,
    InceptionSpec,
    MeasuredSpec,
    MetricSpec,
    OneStepSpec,
    Trained,
    TrainSpec,
    fingerprint,
)
from autonat.storage.artifacts import Artifacts, file_sha256
from models.checkpoint import CheckpointError, load_network, save_network
from models.data import Data, tokenizer_of, training_tokens, with_conditions
from models.ddp import DeviceError, DeviceTraining, train_on_devices
from models.determinism import in_one_order
from models.evaluate import Block, Generator, evaluate_block, real_distance, reference_of
from models.feature_change import Change, feature_changes
from models.feature_files import NetworkFeatures
from models.features import load_classifier, save_classifier, train_classifier
from models.files import FileError
from models.frechet import Reference, Statistics
from models.images import image_set
from models.inception import ADANAT, TORCH_FIDELITY, InceptionFeatures
from models.metric_blocks import MetricBlock, metric_block, real_features
from models.official import load_any
from models.one_step import one_step_block
from models.population import PerturbedBlock, perturbed_block
from models.probes import probe_block
from models.statistics_files import StatisticsError, StoredStatistics, read_statistics
from models.train import DivergedError
from models.whole_files import temporary_beside

# How images reach Inception: as saved PNGs do, or unrounded.
PROTOCOLS = {"uint8": TORCH_FIDELITY, "float": ADANAT}
KEPT_NETWORKS = 4


class Worker:
    """See the module's docstring. `artifacts` is a folder that every worker of a study shares."""

    def __init__(self, artifacts: str) -> None:
        torch.set_num_threads(1)
        self.artifacts = Artifacts(artifacts)
        self._kept: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def perform(self, task: Task) -> tuple[Any, float]:
        """The task's result and the seconds it took. Raises UserError for a file that is not what the recipe says."""
        started = time.perf_counter()
        try:
            result = self._perform(task)
        except (FileError, CheckpointError, StatisticsError, DeviceError, DivergedError) as error:
            raise UserError(str(error)) from error
        return result, time.perf_counter() - started

    def _perform(self, task: Task) -> Any:
        if isinstance(task, TrainTask):
            spec = task.spec
            return self._train(spec) if isinstance(spec, TrainSpec) else self._train_features(spec)
        if isinstance(task, EvaluationTask):
            return self._evaluate(task)
        if isinstance(task, ProbeTask):
            return self._probe(task)
        if isinstance(task, PopulationTask):
            return self._perturb(task)
        if isinstance(task, MetricsTask):
            return self._metrics(task)
        if isinstance(task, FeatureChangeTask):
            return self._feature_changes(task)
        return self._real_features(task) if isinstance(task, RealFeaturesTask) else self._reference(task)

    def _keep(self, kind: str, path: Path, load: Any) -> Any:
        """Load once per file; the file's identity is part of the key, so that a replaced one is read anew."""
        status = path.stat()
        key = (kind, f"{path}:{status.st_ino}:{status.st_mtime_ns}")
        if key not in self._kept:
            self._kept[key] = load(path)
            while len(self._kept) > KEPT_NETWORKS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def generator(self, spec: GeneratorSpec, compute: Compute = Compute()) -> Generator:
        trained_here = isinstance(spec, TrainSpec)
        path = self.artifacts.fetched(fingerprint(spec)) if isinstance(spec, TrainSpec) else spec.weights.place

        def load(path: Path) -> Generator:
            network = load_network(path) if trained_here else load_any(path, spec.network)
            network = with_conditions(network.to(device_of(compute)), spec.data)
            return Generator(network, tokenizer_of(spec.data, device_of(compute)), compute.precision, compute.compile)

        # One file may be asked for with other captions or another tokenizer.
        return self._keep(f"generator {fingerprint(spec)} {compute}", path, load)

    def features(self, spec: MetricSpec) -> Any:
        if isinstance(spec, FeatureSpec):
            return self._keep("features", self.artifacts.fetched(fingerprint(spec)), load_classifier)
        if isinstance(spec, FeatureFileSpec):
            return self._keep(
                f"network {spec.compute}",
                spec.weights.looked_at().place,
                lambda path: NetworkFeatures(path, device=device_of(spec.compute)),
            )
        protocol = PROTOCOLS[spec.images]
        return self._keep(
            f"inception {spec.images} {spec.compute}",
            spec.weights.place,
            lambda path: InceptionFeatures(
                path, protocol, expected_sha256=spec.weights.sha256, device=device_of(spec.compute)
            ),
        )

    def _train(self, spec: TrainSpec) -> tuple[Trained, str]:
        name = fingerprint(spec)
        # All who want some of one training's steps go on from one state.
        state_path = self.artifacts.state_path(fingerprint(spec.whole))
        progress_path = self.artifacts.progress_path(name)
        self.artifacts.fetch(state_path)

        def progress(step: int, loss: float) -> None:
            temporary = temporary_beside(progress_path)
            temporary.write_text(json.dumps({"step": step, "steps": spec.steps, "loss": loss}))
            os.replace(temporary, progress_path)
            self.artifacts.publish_changed(state_path)

        training = DeviceTraining(
            spec.network,
            spec.training,
            spec.mask_ratio,
            partial(training_tokens, spec.data),
            device_of(spec.compute).type,
            spec.seed,
            until_step=spec.until_step,
            state_path=state_path,
            precision=spec.compute.precision,
            compile=spec.compute.compile,
        )
        network, loss = train_on_devices(training, start_from=self._start_of(spec), progress=progress)
        save_network(self.artifacts.path(name), network)
        self.artifacts.publish(self.artifacts.path(name))
        # The state stays until the result is recorded; whole, it is of use on this host alone.
        if spec.until_step is not None:
            self.artifacts.publish_changed(state_path)
        progress_path.unlink(missing_ok=True)
        return Trained(loss), file_sha256(self.artifacts.path(name))

    def _start_of(self, spec: TrainSpec) -> Any:
        """The weights that a training goes on from, if it does."""
        if spec.start_from is None:
            return None
        return load_network(self.artifacts.fetched(fingerprint(spec.start_from))).state_dict()

    def _train_features(self, spec: FeatureSpec) -> tuple[Features, str]:
        data = image_set(spec.data)
        network, accuracy = train_classifier(spec.classifier, data, spec.seed)
        path = self.artifacts.path(fingerprint(spec))
        save_classifier(path, network, accuracy)
        self.artifacts.publish(path)
        floor, error = real_distance(network, data)
        return Features(accuracy, floor, error, len(data.test_images)), file_sha256(path)

    def _block(self, spec: MeasuredSpec | FeatureChangeSpec, index: int) -> Block:
        labels = spec.labels if isinstance(spec, EvaluationSpec) else "balanced"
        return Block(index, spec.num_blocks, spec.block_size, spec.seed, labels == "random")

    def _evaluate(self, task: EvaluationTask) -> Statistics | Tensor:
        spec = task.spec
        if isinstance(spec, OneStepSpec):
            return one_step_block(
                self.generator(spec.training, spec.compute),
                self.features(spec.features),
                lambda: self._real_tokens(spec.training.data),
                spec.mask_ratio,
                spec.sampling_temperature,
                self._block(spec, task.block),
            )
        return evaluate_block(
            self.generator(spec.training, spec.compute),
            self.features(spec.features),
            spec.schedule,
            self._block(spec, task.block),
            dithered=task.dithered,
        )

    def _real_tokens(self, data: Data) -> tuple[Tensor, Tensor]:
        """The tokens that networks are trained on and their classes, kept from block to block."""
        key = ("tokens", repr(data))
        if key not in self._kept:
            self._kept[key] = training_tokens(data)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _feature_changes(self, task: FeatureChangeTask) -> list[Change]:
        spec = task.spec
        compute = replace(spec.compute, compile=False)  # layers are listened to, which compiled code has not
        return feature_changes(self.generator(spec.training, compute), spec.schedule, self._block(spec, task.block))

    def _probe(self, task: ProbeTask) -> list[float]:
        spec = task.spec
        return probe_block(
            self.generator(spec.training, spec.compute),
            self.features(spec.features),
            task.influence,
            spec.schedule,
            spec.probes,
            self._block(spec, task.block),
        )

    def _perturb(self, task: PopulationTask) -> PerturbedBlock:
        spec = task.spec
        return perturbed_block(
            self.generator(spec.training, spec.compute),
            self.features(spec.features),
            spec.schedule,
            spec.lows,
            spec.highs,
            self._block(spec, task.block),
        )

    def _metrics(self, task: MetricsTask) -> MetricBlock:
        spec = task.spec
        return metric_block(
            self.generator(spec.training, spec.compute),
            self.features(spec.features),
            spec.schedule,
            self._block(spec, task.block),
            spec.names,
            evaluates=task.evaluates,
        )

    def _real_features(self, task: RealFeaturesTask) -> Tensor:
        spec = task.spec
        if isinstance(spec, FeatureSpec):
            return real_features(self.features(spec), image_set(spec.data))
        stored = self._stored(spec)
        return torch.empty(0, len(stored.mean)) if stored.features is None else stored.features

    def _reference(self, task: ReferenceTask) -> Reference:
        spec = task.spec
        if isinstance(spec, FeatureSpec):
            return reference_of(self.features(spec), image_set(spec.data))
        return self._stored(spec).reference()

    def _stored(self, spec: InceptionSpec | FeatureFileSpec) -> StoredStatistics:
        """The reference's file, which must have been made with the features that it is compared with."""
        if isinstance(spec, InceptionSpec):
            return read_statistics(spec.reference.place, InceptionFeatures.dimensions)
        network = self.features(spec)
        stored = read_statistics(spec.reference.looked_at().place, network.dimensions)
        stored.check_made_with(spec.reference.place, network.name, network.file.sha256)
        return stored


def device_of(compute: Compute) -> torch.device:
    """The device of a recipe. Raises UserError where this machine has none."""
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise UserError("the recipe says compute.device: cuda, but this machine has no CUDA device")
    return in_one_order(torch.device(compute.device))
