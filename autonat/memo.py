"""From specs to results: what is recorded is looked up, the rest is cut into tasks, computed, merged and recorded.

A result is recorded the moment its last block is in, so a kill loses nothing but the blocks in flight.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from autonat.execution.executor import Executor
from autonat.execution.tasks import EvaluationTask, ProbeTask, ReferenceTask, Task, TrainTask
from autonat.specs import (
    Differences,
    Evaluation,
    EvaluationSpec,
    FeatureSpec,
    ProbeSpec,
    Result,
    Spec,
    TrainSpec,
    fingerprint,
)
from autonat.storage.artifacts import file_sha256
from autonat.storage.store import Store
from models.frechet import Influence, Reference, Statistics, merge_all, standard_error

Say = Callable[[str], None]


class Fulfiller(Protocol):
    """Whatever turns requests into results: the memo here, or a simulated landscape."""

    def fulfil(self, requests: Sequence[Spec]) -> list[Result]: ...


class Memo:
    """Results of specs, from the store or computed by the executor.

    `say` gets a line where something is repaired. `computed` counts what was really computed, by class of spec.
    """

    def __init__(self, store: Store, executor: Executor, say: Say = lambda line: None) -> None:
        self.store, self.executor, self.say = store, executor, say
        self.computed: dict[str, int] = {}
        self._verified: set[str] = set()
        self._references: dict[str, Reference] = {}

    def fulfil(self, requests: Sequence[Spec]) -> list[Result]:
        """Results in the order of the requests; equal requests are computed once."""
        wanted = {fingerprint(spec): spec for spec in requests}
        known: dict[str, Result] = {}
        for name, spec in wanted.items():
            found = self._recorded(spec)
            if found is not None:
                known[name] = found
        missing = [spec for name, spec in wanted.items() if name not in known]
        self._train([spec for spec in missing if isinstance(spec, TrainSpec | FeatureSpec)])
        measured = [spec for spec in missing if isinstance(spec, EvaluationSpec | ProbeSpec)]
        # A measurement needs its networks: trained by now as a rule, trained again where a file is lost or damaged.
        needed = {fingerprint(part): part for spec in measured for part in (spec.training, spec.features)}
        self._train([part for part in needed.values() if self._recorded(part) is None])
        torch.set_num_threads(1)
        self._evaluate([spec for spec in measured if isinstance(spec, EvaluationSpec)])
        self._probe([spec for spec in measured if isinstance(spec, ProbeSpec)])
        for name, spec in wanted.items():
            if name not in known:
                found = self._recorded(spec)
                assert found is not None
                known[name] = found
        return [known[fingerprint(spec)] for spec in requests]

    def _recorded(self, spec: Spec) -> Result | None:
        """The recorded result, unless its artifact is missing or damaged."""
        found = self.store.result(spec)
        if found is None:
            return None
        result, sha256 = found
        name = fingerprint(spec)
        if sha256 is not None and name not in self._verified:
            path = self.store.artifacts.path(name)
            if not path.exists() or file_sha256(path) != sha256:
                what = "is damaged" if path.exists() else "is missing"
                self.say(f"checkpoint {path} {what}: training it again")
                path.unlink(missing_ok=True)
                return None
            self._verified.add(name)
        return result

    def _record(self, spec: Spec, result: Result, seconds: float, sha256: str | None = None) -> None:
        self.store.record(spec, result, seconds, sha256)
        kind = type(spec).__name__
        self.computed[kind] = self.computed.get(kind, 0) + 1

    def _train(self, specs: Sequence[TrainSpec | FeatureSpec]) -> None:
        for index, (result, sha256), seconds in self.executor.run([TrainTask(spec) for spec in specs]):
            self._verified.discard(fingerprint(specs[index]))
            self._record(specs[index], result, seconds, sha256)

    def _reference(self, spec: FeatureSpec) -> Reference:
        name = fingerprint(spec)
        if name not in self._references:
            ((_, reference, _),) = self.executor.run([ReferenceTask(spec)])
            self._references[name] = reference
        return self._references[name]

    def _by_spec(self, tasks: Sequence[tuple[Any, Task]], finish: Callable[[Any, list[Any], float], None]) -> None:
        """Run (spec, task) pairs; when a spec's last task is in, `finish` gets its results in task order."""
        parts: dict[Any, dict[int, Any]] = {}
        seconds_of: dict[Any, float] = {}
        total: dict[Any, int] = {}
        for spec, _ in tasks:
            total[spec] = total.get(spec, 0) + 1
        for index, result, seconds in self.executor.run([task for _, task in tasks]):
            spec = tasks[index][0]
            parts.setdefault(spec, {})[index] = result
            seconds_of[spec] = seconds_of.get(spec, 0.0) + seconds
            if len(parts[spec]) == total[spec]:
                collected = parts.pop(spec)
                finish(spec, [collected[key] for key in sorted(collected)], seconds_of[spec])

    def _evaluate(self, specs: Sequence[EvaluationSpec]) -> None:
        def finish(spec: EvaluationSpec, blocks: list[Statistics], seconds: float) -> None:
            reference = self._reference(spec.features)
            merged = merge_all(blocks)
            influence = reference.influence(merged)
            shares = tuple(influence.of_statistics(block) for block in blocks)
            value = reference.distance(merged.mean, merged.covariance)
            evaluation = Evaluation(
                value, standard_error(shares), spec.num_images, spec.features.metric, spec.seed, shares
            )
            self._record(spec, evaluation, seconds)

        for features in {spec.features for spec in specs}:
            self._reference(features)  # now, as an executor runs one batch of tasks at a time
        tasks = [(spec, EvaluationTask(spec, block)) for spec in specs for block in range(spec.num_blocks)]
        self._by_spec(tasks, finish)

    def _probe(self, specs: Sequence[ProbeSpec]) -> None:
        bases: dict[ProbeSpec, tuple[float, Influence, float]] = {}

        def finish_base(spec: ProbeSpec, blocks: list[Statistics], seconds: float) -> None:
            merged = merge_all(blocks)
            reference = self._references[fingerprint(spec.features)]
            value = reference.distance(merged.mean, merged.covariance)
            bases[spec] = (value, reference.influence(merged), seconds)

        def finish(spec: ProbeSpec, blocks: list[list[float]], seconds: float) -> None:
            value, _, base_seconds = bases[spec]
            differences = Differences(
                value, spec.features.metric, spec.num_images, tuple(tuple(block) for block in blocks)
            )
            self._record(spec, differences, seconds + base_seconds)

        for features in {spec.features for spec in specs}:
            self._reference(features)
        base_tasks = [
            (spec, EvaluationTask(spec, block, dithered=True)) for spec in specs for block in range(spec.num_blocks)
        ]
        self._by_spec(base_tasks, finish_base)
        tasks = [(spec, ProbeTask(spec, block, bases[spec][1])) for spec in specs for block in range(spec.num_blocks)]
        self._by_spec(tasks, finish)
