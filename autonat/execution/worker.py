"""A worker: performs tasks one after another, and keeps what it loaded.

The same class runs in the driver's process, in worker processes and in Ray actors. One torch thread: more threads on a
shared machine are slower, and the number of threads decides the last bits.
"""

import json
import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from autonat.execution.tasks import EvaluationTask, ProbeTask, ReferenceTask, Task, TrainTask
from autonat.specs import EvaluationSpec, Features, FeatureSpec, ProbeSpec, Trained, TrainSpec, fingerprint
from autonat.storage.artifacts import Artifacts, file_sha256
from models.checkpoint import load_network, save_network
from models.evaluate import Block, Generator, evaluate_block, real_distance, reference_of
from models.features import DigitClassifier, load_classifier, save_classifier, train_classifier
from models.frechet import Reference, Statistics
from models.images import image_set
from models.probes import probe_block
from models.tokenizer import tokenizer_for
from models.train import train

KEPT_NETWORKS = 4


class Worker:
    """See the module's docstring. `artifacts` is a folder that every worker of a study shares."""

    def __init__(self, artifacts: str) -> None:
        torch.set_num_threads(1)
        self.artifacts = Artifacts(Path(artifacts))
        self._kept: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def perform(self, task: Task) -> tuple[Any, float]:
        """The task's result and the seconds it took."""
        started = time.perf_counter()
        result: Any
        if isinstance(task, TrainTask):
            spec = task.spec
            result = self._train(spec) if isinstance(spec, TrainSpec) else self._train_features(spec)
        elif isinstance(task, EvaluationTask):
            result = self._evaluate(task)
        elif isinstance(task, ProbeTask):
            result = self._probe(task)
        else:
            result = self._reference(task)
        return result, time.perf_counter() - started

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

    def generator(self, spec: TrainSpec) -> Generator:
        path = self.artifacts.path(fingerprint(spec))
        return self._keep("generator", path, lambda p: Generator(load_network(p), tokenizer_for(spec.data)))

    def features(self, spec: FeatureSpec) -> DigitClassifier:
        return self._keep("features", self.artifacts.path(fingerprint(spec)), load_classifier)

    def _train(self, spec: TrainSpec) -> tuple[Trained, str]:
        name = fingerprint(spec)
        data, tokenizer = image_set(spec.data), tokenizer_for(spec.data)
        progress_path = self.artifacts.progress_path(name)

        def progress(step: int, loss: float) -> None:
            temporary = progress_path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps({"step": step, "steps": spec.training.steps, "loss": loss}))
            os.replace(temporary, progress_path)

        network, loss = train(
            spec.network,
            spec.training,
            spec.mask_ratio,
            tokenizer.encode(torch.from_numpy(data.train_images)),
            torch.from_numpy(data.train_labels),
            spec.seed,
            state_path=self.artifacts.state_path(name),
            progress=progress,
        )
        save_network(self.artifacts.path(name), network)
        progress_path.unlink(missing_ok=True)
        return Trained(loss), file_sha256(self.artifacts.path(name))

    def _train_features(self, spec: FeatureSpec) -> tuple[Features, str]:
        data = image_set(spec.data)
        network, accuracy = train_classifier(spec.classifier, data, spec.seed)
        path = self.artifacts.path(fingerprint(spec))
        save_classifier(path, network, accuracy)
        floor, error = real_distance(network, data)
        return Features(accuracy, floor, error, len(data.test_images)), file_sha256(path)

    def _block(self, spec: EvaluationSpec | ProbeSpec, index: int) -> Block:
        labels = spec.labels if isinstance(spec, EvaluationSpec) else "balanced"
        return Block(index, spec.num_blocks, spec.block_size, spec.seed, labels == "random")

    def _evaluate(self, task: EvaluationTask) -> Statistics:
        spec = task.spec
        return evaluate_block(
            self.generator(spec.training),
            self.features(spec.features),
            spec.schedule,
            self._block(spec, task.block),
            dithered=task.dithered,
        )

    def _probe(self, task: ProbeTask) -> list[float]:
        spec = task.spec
        return probe_block(
            self.generator(spec.training),
            self.features(spec.features),
            task.influence,
            spec.schedule,
            spec.probes,
            self._block(spec, task.block),
        )

    def _reference(self, task: ReferenceTask) -> Reference:
        return reference_of(self.features(task.spec), image_set(task.spec.data))
