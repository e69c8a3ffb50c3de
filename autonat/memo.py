"""From specs to results: what is recorded is looked up, the rest is cut into tasks, computed, merged and recorded.

A result is recorded the moment its last block is in, so a kill loses nothing but the blocks in flight.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from autonat.errors import StudyStopped, UserError
from autonat.execution.executor import Done, Executor
from autonat.execution.listener import SILENT
from autonat.execution.task_ledger import Ledger
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
from autonat.partials import Partials
from autonat.specs import (
    Changes,
    Differences,
    Evaluation,
    EvaluationSpec,
    FeatureChanges,
    FeatureChangeSpec,
    FeatureSpec,
    MeasuredSpec,
    Metrics,
    MetricSpec,
    MetricsSpec,
    OneStepSpec,
    PopulationSpec,
    ProbeSpec,
    Result,
    Spec,
    TrainSpec,
    fingerprint,
    networks_needed,
    painted,
)
from autonat.storage.store import Store
from models.evaluate import Block
from models.feature_change import Change
from models.frechet import Influence, Reference, Statistics, accumulate, merge_all, standard_error
from models.metric_blocks import MetricBlock, kid_subset_images, merged_metrics, of_kept_features, variety_shares
from models.metrics import WITH_REAL_IMAGES
from models.population import PerturbedBlock, ratio_columns, regress

Say = Callable[[str], None]


class Fulfiller(Protocol):
    """Whatever turns requests into results: the memo here, or a simulated landscape."""

    def fulfil(self, requests: Sequence[Spec]) -> list[Result]: ...

    def begin(self, study_id: int, stopping: Callable[[], bool]) -> None:
        """What follows is for this study, and no more work is begun once `stopping` says so."""

    def tick(self) -> None:
        """Called now and then from another thread while a study runs."""


class Memo:
    """Results of specs, from the store or computed by the executor, with a ledger of the tasks once a study has begun.

    `say` gets a line where something is repaired. `computed` counts what was really computed, by class of spec.
    """

    def __init__(self, store: Store, executor: Executor, say: Say = lambda line: None) -> None:
        self.store, self.executor, self.say = store, executor, say
        self.computed: dict[str, int] = {}
        self._verified: set[str] = set()
        self._references: dict[str, Reference] = {}
        self._real: dict[MetricSpec, Tensor] = {}  # features of single real images
        self._partials = Partials(store.artifacts)
        self._ledger: Ledger | None = None

    def begin(self, study_id: int, stopping: Callable[[], bool] = lambda: False) -> None:
        """See ``Fulfiller``."""
        self._ledger = Ledger(self.store.database, study_id, stopping)

    def tick(self) -> None:
        """Write the ledger down."""
        if self._ledger is not None:
            self._ledger.flush()

    def fulfil(self, requests: Sequence[Spec]) -> list[Result]:
        """Results in the order of the requests; equal requests are computed once.

        Raises StudyStopped where the study was stopped before all was done; what was finished is recorded.
        """
        wanted = {fingerprint(spec): spec for spec in requests}
        known: dict[str, Result] = {}
        for name, spec in wanted.items():
            found = self._recorded(spec)
            if found is not None:
                known[name] = found
        missing = [spec for name, spec in wanted.items() if name not in known]
        self._train([spec for spec in missing if isinstance(spec, TrainSpec | FeatureSpec)])
        measured = [spec for spec in missing if isinstance(spec, MeasuredSpec | FeatureChangeSpec)]
        # A measurement needs its networks: trained by now as a rule, trained again where a file is lost or damaged.
        needed = {fingerprint(part): part for spec in measured for part in networks_needed(spec)}
        self._train([part for part in needed.values() if self._recorded(part) is None])
        torch.set_num_threads(1)
        self._evaluate([spec for spec in painted(measured) if isinstance(spec, EvaluationSpec | OneStepSpec)])
        self._probe([spec for spec in measured if isinstance(spec, ProbeSpec)])
        self._perturb([spec for spec in measured if isinstance(spec, PopulationSpec)])
        self._measure([spec for spec in measured if isinstance(spec, MetricsSpec)], measured)
        self._compare_features([spec for spec in measured if isinstance(spec, FeatureChangeSpec)])
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
            flaw = self.store.artifacts.flaw(name, sha256)
            if flaw is not None:
                path = self.store.artifacts.path(name)
                self.say(f"checkpoint {path} {flaw}: training it again")
                self.store.artifacts.discard(path)
                return None
            self._verified.add(name)
        return result

    def _record(
        self, spec: Spec, result: Result, seconds: float, sha256: str | None = None, images: int | None = None
    ) -> None:
        if self._ledger is None:
            self.store.record(spec, result, seconds, sha256, images=images)
        else:
            with self._ledger.unwritten() as rows:
                self.store.record(spec, result, seconds, sha256, rows, images)
        kind = type(spec).__name__
        self.computed[kind] = self.computed.get(kind, 0) + 1

    def _perform(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """Tasks as they finish, written into the ledger."""
        if not tasks:
            return
        listener = SILENT if self._ledger is None else self._ledger.batch(tasks)
        left = len(tasks)
        try:
            for done in self.executor.run(tasks, listener):
                left -= 1
                yield done
        except BaseException:
            with suppress(UserError):  # what went wrong first is the message to see
                self.tick()
            raise
        if left:
            raise StudyStopped

    def _train(self, specs: Sequence[TrainSpec | FeatureSpec]) -> None:
        """Train what is not recorded; a training that goes on from another's weights comes after it."""
        wanted = {fingerprint(spec): spec for spec in specs}
        needed = {fingerprint(part): part for spec in specs for part in networks_needed(spec)}
        first = {name: part for name, part in needed.items() if name in wanted or self._recorded(part) is None}
        if first:
            self._train(list(first.values()))
        specs = [spec for name, spec in wanted.items() if name not in first]
        for index, (result, sha256), seconds in self._perform([TrainTask(spec) for spec in specs]):
            self._verified.discard(fingerprint(specs[index]))
            self._record(specs[index], result, seconds, sha256)
            # Not before: until here a kill costs no more than loading it. A part of a training has none of its name.
            self.store.artifacts.discard(self.store.artifacts.state_path(fingerprint(specs[index])))

    def _reference(self, spec: MetricSpec) -> Reference:
        name = fingerprint(spec)
        if name not in self._references:
            for _, reference, _ in self._perform([ReferenceTask(spec)]):
                self._references[name] = reference
        return self._references[name]

    def _by_spec(
        self,
        groups: Sequence[tuple[Any, Sequence[Task]]],
        finish: Callable[[Any, list[Any], float], None],
        keep: Callable[[Any, Task, Any], Any] = lambda spec, task, result: result,
    ) -> None:
        """Run each spec's tasks; when a spec's last one is in, `finish` gets in task order what `keep` made of them."""
        owner = [number for number, (_, tasks) in enumerate(groups) for _ in tasks]
        first = {number: owner.index(number) for number in set(owner)}
        parts: list[dict[int, Any]] = [{} for _ in groups]
        seconds_of = [0.0] * len(groups)
        for index, result, seconds in self._perform([task for _, tasks in groups for task in tasks]):
            number = owner[index]
            spec, tasks = groups[number]
            parts[number][index] = keep(spec, tasks[index - first[number]], result)
            seconds_of[number] += seconds
            if len(parts[number]) == len(tasks):
                finish(spec, [part for _, part in sorted(parts[number].items())], seconds_of[number])
                parts[number] = {}

    def _evaluate(self, specs: Sequence[EvaluationSpec | OneStepSpec]) -> None:
        def keep(spec: EvaluationSpec | OneStepSpec, task: Any, result: Statistics | Tensor) -> Statistics | None:
            return self._keep_block(spec, task.block, result)

        for features in {spec.features for spec in specs}:
            self._reference(features)  # now, as an executor runs one batch of tasks at a time
        groups: list[tuple[EvaluationSpec | OneStepSpec, list[Task]]] = []
        for spec in specs:
            known = self._partials.known(fingerprint(spec))
            groups.append(
                (spec, [EvaluationTask(spec, block) for block in range(spec.num_blocks) if block not in known])
            )
        self._by_spec([group for group in groups if group[1]], self._finish_evaluation, keep)
        for spec, tasks in groups:
            if not tasks:  # cut off between its last block and its record
                self._finish_evaluation(spec, [], 0.0)

    def _keep_block(
        self, spec: EvaluationSpec | OneStepSpec, block: int, result: Statistics | Tensor
    ) -> Statistics | None:
        """Small statistics stay in memory, wide features wait on disk."""
        if isinstance(result, Statistics):
            return result
        self._partials.keep(fingerprint(spec), block, result)
        return None

    def _finish_evaluation(
        self, spec: EvaluationSpec | OneStepSpec, kept: Sequence[Statistics | None], seconds: float
    ) -> None:
        """kept: what ``_keep_block`` made of the blocks, in their order."""
        reference = self._reference(spec.features)
        in_memory = [block for block in kept if block is not None]
        name, count = fingerprint(spec), spec.num_blocks
        try:
            merged = merge_all(in_memory) if in_memory else accumulate(self._partials.blocks(name, count))
            influence = reference.influence(merged)
            shares = (
                [influence.of_statistics(block) for block in in_memory]
                if in_memory  # of wide features a block's covariance would cost more than its images
                else [float(influence.of_features(rows_BD).mean()) for rows_BD in self._partials.blocks(name, count)]
            )
        except FileNotFoundError:
            if self.store.result(spec) is None:
                raise
            self._partials.forget(name)  # another driver of this database was faster, and has removed the blocks
            return
        value = reference.distance(merged.mean, merged.covariance)
        evaluation = Evaluation(
            value, standard_error(shares), spec.num_images, spec.features.metric, spec.seed, tuple(shares)
        )
        self._record(spec, evaluation, seconds)
        self._partials.forget(name)

    def _probe(self, specs: Sequence[ProbeSpec]) -> None:
        bases: dict[ProbeSpec, tuple[float, tuple[Influence, Influence], float]] = {}

        def finish_base(spec: ProbeSpec, blocks: list[Statistics | Tensor], seconds: float) -> None:
            found = [block if isinstance(block, Statistics) else Statistics.of(block) for block in blocks]
            reference = self._references[fingerprint(spec.features)]
            merged = merge_all(found)
            value = reference.distance(merged.mean, merged.covariance)
            # Even blocks are scored by what the odd ones say and the other way round: base images scored by their own
            # statistics look closer than the probes' images do, which had no part in them, by the order of D / N.
            influences = reference.influence(merge_all(found[1::2])), reference.influence(merge_all(found[::2]))
            bases[spec] = value, influences, seconds

        def finish(spec: ProbeSpec, blocks: list[list[float]], seconds: float) -> None:
            value, _, base_seconds = bases[spec]
            differences = Differences(
                value, spec.features.metric, spec.num_images, tuple(tuple(block) for block in blocks)
            )
            self._record(spec, differences, seconds + base_seconds)

        for features in {spec.features for spec in specs}:
            self._reference(features)
        base_groups = [
            (spec, [EvaluationTask(spec, block, dithered=True) for block in range(spec.num_blocks)]) for spec in specs
        ]
        self._by_spec(base_groups, finish_base)
        groups = [
            (spec, [ProbeTask(spec, block, bases[spec][1][block % 2]) for block in range(spec.num_blocks)])
            for spec in specs
        ]
        self._by_spec(groups, finish)

    def _perturb(self, specs: Sequence[PopulationSpec]) -> None:
        def finish(spec: PopulationSpec, blocks: list[PerturbedBlock], seconds: float) -> None:
            reference = self._references[fingerprint(spec.features)]
            merged = accumulate(torch.cat([block.forward_HD, block.backward_HD]) for block in blocks)
            influence = reference.influence(merged)
            parts: list[tuple[Tensor, Tensor]] = []
            for block in blocks:
                gaps_H = influence.of_features(block.forward_HD) - influence.of_features(block.backward_HD)
                parts += zip(block.signs_HP.chunk(block.parts), gaps_H.chunk(block.parts), strict=True)
            changes, errors = regress(parts, ratio_columns(spec.schedule.num_steps))
            value = reference.distance(merged.mean, merged.covariance)
            result = Changes(value, spec.features.metric, spec.num_images, tuple(changes), tuple(errors))
            self._record(spec, result, seconds)

        for features in {spec.features for spec in specs}:
            self._reference(features)
        groups = [(spec, [PopulationTask(spec, block) for block in range(spec.num_blocks)]) for spec in specs]
        self._by_spec(groups, finish)

    def _measure(self, specs: Sequence[MetricsSpec], wanted: Collection[Spec]) -> None:
        """Metrics of single images, and what is wanted of the evaluations of the same images: the first metrics of an
        evaluation carry it, images and seconds are then its own."""
        carried = {spec.evaluation: spec for spec in reversed(specs) if spec.evaluation in wanted}

        def carries(spec: MetricsSpec) -> bool:
            return carried.get(spec.evaluation) is spec

        real = {spec: self._real_images(spec) for spec in specs}
        for features in {spec.features for spec in specs}:
            self._reference(features)

        def keep(spec: MetricsSpec, task: Any, block: MetricBlock) -> tuple[MetricBlock, Statistics | None]:
            if block.for_distance is None:
                return block, None
            kept = self._keep_block(spec.evaluation, task.block, block.for_distance)
            return replace(block, for_distance=None), kept

        def finish(spec: MetricsSpec, kept: list[tuple[MetricBlock, Statistics | None]], seconds: float) -> None:
            painted = iter(kept)
            found = [known[spec].get(block) or next(painted) for block in range(spec.num_blocks)]
            blocks = [block for block, _ in found]
            if carries(spec):
                self._finish_evaluation(spec.evaluation, [statistics for _, statistics in found], seconds)
            rows_MD = real[spec]
            sampled = sum(len(block.features_BD) for block in blocks)
            compared = 0 if rows_MD is None else len(rows_MD)
            metrics = Metrics(
                values=merged_metrics(spec.names, blocks, rows_MD),
                variety_shares=variety_shares(blocks),
                metric=spec.features.metric,
                seed=spec.seed,
                num_images=spec.num_images,
                sampled_images=sampled,
                reference_images=compared,
                kid_subset_images=kid_subset_images(spec.names, sampled, compared),
            )
            self._record(spec, metrics, *((0.0, None, 0) if carries(spec) else (seconds,)))

        known = {spec: self._kept_blocks(spec) if carries(spec) else {} for spec in specs}
        groups = [
            (spec, [MetricsTask(spec, block, carries(spec)) for block in range(spec.num_blocks) if block not in blocks])
            for spec, blocks in known.items()
        ]
        self._by_spec([group for group in groups if group[1]], finish, keep)
        for spec, tasks in groups:
            if not tasks:  # cut off between its last block and its record
                finish(spec, [], 0.0)

    def _kept_blocks(self, spec: MetricsSpec) -> dict[int, tuple[MetricBlock, None]]:
        """Blocks of a carried evaluation that were finished before it was cut off. Logits are not kept."""
        if "isc" in spec.names:
            return {}
        name = fingerprint(spec.evaluation)
        kept = {}
        for index in self._partials.known(name):
            block = Block(index, spec.num_blocks, spec.block_size, spec.seed)
            features_BD = self._partials.read(name, index)
            kept[index] = (of_kept_features(features_BD, spec.training.network.num_classes, block), None)
        return kept

    def _real_images(self, spec: MetricsSpec) -> Tensor | None:
        """Features of single real images [M, D] for metrics that compare with them; None for others."""
        if WITH_REAL_IMAGES.isdisjoint(spec.names):
            return None
        if spec.features not in self._real:
            for _, rows_MD, _ in self._perform([RealFeaturesTask(spec.features)]):
                self._real[spec.features] = rows_MD
        return self._real[spec.features]

    def _compare_features(self, specs: Sequence[FeatureChangeSpec]) -> None:
        def finish(spec: FeatureChangeSpec, blocks: list[list[Change]], seconds: float) -> None:
            found = [{(change.step, change.layer, change.group): change for change in block} for block in blocks]
            # What only some blocks have (where ties let counts differ) is no mean over the images.
            names = tuple(name for name in found[0] if all(name in block for block in found))
            changes = FeatureChanges(
                names=names,
                cosines=tuple(tuple(block[name].cosine for name in names) for block in found),
                relatives=tuple(tuple(block[name].relative for name in names) for block in found),
                num_images=spec.num_images,
                seed=spec.seed,
            )
            self._record(spec, changes, seconds)

        groups = [(spec, [FeatureChangeTask(spec, block) for block in range(spec.num_blocks)]) for spec in specs]
        self._by_spec(groups, finish)
