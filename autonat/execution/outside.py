"""Somebody else's generator in place of ours: specs answered by calling a function of the user's, block by block.

Such a function takes one schedule a call and shows nothing of its steps. So a probe cannot share the steps before it
with the base, as ours do, and is a call of its own; and a population's perturbations change from call to call and not
from image to image. N images of one call, D features, P values of the schedule, R pairs of calls.
"""

import hashlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from autonat.errors import UserError
from autonat.specs import (
    Changes,
    Differences,
    Evaluation,
    EvaluationSpec,
    PopulationSpec,
    ProbeSpec,
    Result,
    Spec,
    derived_seed,
    fingerprint,
)
from autonat.storage.store import Store
from models.evaluate import Block, dithers, labels_of
from models.frechet import Reference, Statistics, merge_all, standard_error
from models.population import regress
from models.random_streams import stream
from models.schedule import GenerationSchedule, components

# Images to numbers: what the measurements of one spec are worth, image by image (or call by call).
Worth = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class OutsideGenerator:
    """What stands in a spec where our own studies have a network. name: the user's, with its version."""

    name: str
    answers: Literal["features", "scores"]
    num_classes: int
    dithered: bool
    mask_ratio: None = None  # how it was trained is not known


@dataclass(frozen=True, slots=True)
class OutsideMetric:
    """What stands in a spec where our own studies have a feature network. reference_sha256: of mean and covariance."""

    name: str
    reference_sha256: str | None = None

    @property
    def metric(self) -> str:
        return self.name if self.reference_sha256 is None else f"FD({self.name}, reference:{self.reference_sha256[:8]})"


class Instrument(Protocol):
    """What measures a schedule by calling the user's function."""

    # Whether every call has a whole block of images; where not, a population's calls may be smaller.
    whole_blocks: bool

    def ask(self, schedule: GenerationSchedule, block: Block, offsets: tuple[float, ...] | None) -> Tensor:
        """One call: a row for each image, or one for all. offsets: the block's dither, None for the plain floor.

        Raises UserError where the answer is not what was asked for.
        """

    def judge(self, calls: Sequence[Tensor]) -> tuple[float, Worth]:
        """The value of all calls together, and what a row adds to it: the mean over rows moves as the value does."""


class Sampled:
    """A sampler: (schedule, labels int64 [N], seed) -> features [N, D], judged by their Frechet distance."""

    whole_blocks = False

    def __init__(self, sampler: Callable[..., Any], reference: Reference, num_classes: int) -> None:
        self.sampler, self.reference, self.num_classes = sampler, reference, num_classes
        self.takes_dither = _has_parameter(sampler, "dither")

    def ask(self, schedule: GenerationSchedule, block: Block, offsets: tuple[float, ...] | None) -> Tensor:
        labels = labels_of(self.num_classes, block)
        options = {"dither": offsets} if self.takes_dither else {}
        features = _numbers(self.sampler(schedule, labels, _seed_of(block), **options), "the sampler")
        wanted = (block.size, len(self.reference.mean))
        if features.shape != wanted:
            raise UserError(
                f"the sampler returned features of shape {list(features.shape)}; {wanted[0]} labels and a reference of "
                f"{wanted[1]} dimensions need {list(wanted)}"
            )
        return features

    def judge(self, calls: Sequence[Tensor]) -> tuple[float, Worth]:
        merged = merge_all(Statistics.of(rows) for rows in calls)
        value = self.reference.distance(merged.mean, merged.covariance)
        return value, self.reference.influence(merged).of_features


class Scored:
    """An evaluation function: (schedule, number of images N, seed) -> one number, or one for each image; the less the
    better. One number may hang on N, so every call has a whole block."""

    whole_blocks = True

    def __init__(self, evaluate: Callable[..., Any]) -> None:
        self.evaluate = evaluate

    def ask(self, schedule: GenerationSchedule, block: Block, offsets: tuple[float, ...] | None) -> Tensor:
        scores = _numbers(self.evaluate(schedule, block.size, _seed_of(block)), "the evaluate function")
        if scores.ndim == 0:
            return scores[None, None]
        if scores.shape != (block.size,):
            raise UserError(
                f"the evaluate function returned an array of shape {list(scores.shape)}; {block.size} images need one "
                f"number or [{block.size}]"
            )
        return scores[:, None]

    def judge(self, calls: Sequence[Tensor]) -> tuple[float, Worth]:
        means = torch.stack([rows.to(torch.float64).mean() for rows in calls])
        return float(means.mean()), lambda rows: rows[:, 0].to(torch.float64)


def reference_sha256(reference: Reference) -> str:
    """Of the mean and covariance, float64, in this order."""
    digest = hashlib.sha256()
    for part in (reference.mean, reference.covariance):
        digest.update(np.ascontiguousarray(part.numpy()).tobytes())
    return digest.hexdigest()


def _has_parameter(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions do not tell
        return False


def _seed_of(block: Block) -> int:
    """The seed of one call, below 2^32: NumPy's and JAX's generators take no more."""
    return derived_seed(block.seed, "call", block.index) % 2**32


def _numbers(answer: Any, who: str) -> Tensor:
    """A copy of an array of finite numbers, float32 where it came with no more, else float64."""
    if isinstance(answer, Tensor):
        answer = answer.detach().cpu()
        answer = (answer.float() if answer.dtype in (torch.bfloat16, torch.float16) else answer).numpy()
    try:
        array = np.asarray(answer)
    except (TypeError, ValueError) as error:
        raise UserError(f"{who} returned {type(answer).__name__}, which is no array of numbers") from error
    if array.dtype.kind not in "fiu":
        raise UserError(f"{who} returned {type(answer).__name__} of {array.dtype}, which is no array of numbers")
    small = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    # A copy, as the caller may use its buffer again; in rows, so that its layout does not reach the last bits.
    array = np.array(array, dtype=np.float32 if small else np.float64, order="C")
    wrong = int(array.size - np.isfinite(array).sum())
    if wrong:
        raise UserError(f"{who} returned {wrong} of {array.size} values that are not finite")
    return torch.from_numpy(array)


def design_rows(values: int, *, whole_blocks: bool) -> int:
    """How many perturbations tell `values` apart: a power of two above them, and where a call may give a single number
    at least twice as many, as the standard errors come from what is left over."""
    least = 2 * values if whole_blocks else values + 1
    return 1 << (least - 1).bit_length()


def design(rows: int, values: int, pairs: int, seed: int) -> np.ndarray:
    """Signs [R, P] of a two-level screening design (Plackett & Burman, 1946): columns of a Hadamard matrix. They are
    orthogonal, so every value's change is as well known as if it alone had moved, in all images.

    Which columns, which way round and in which order is drawn, so that what the design confounds (the product of three
    values with a fourth) changes with the seed.
    """
    from scipy.linalg import hadamard

    random = stream(seed, "design")
    columns = random.permutation(rows)[:values]
    flips = random.integers(2, size=values) * 2.0 - 1.0
    signs = np.tile(hadamard(rows)[:, columns] * flips, (pairs // rows, 1))
    return signs[random.permutation(pairs)]


class OutsideFulfiller:
    """Answers evaluations, probes and populations with an instrument, one call after another (see ``memo.Fulfiller``).

    fixed: by family, values that every schedule asked for keeps. store: remembers results by fingerprint, so the spec's
    generator and metric must name all that they depend on. images_spent: of what was asked for, remembered or not.
    """

    def __init__(
        self, instrument: Instrument, fixed: Mapping[str, tuple[float, ...]] | None = None, store: Store | None = None
    ) -> None:
        self.instrument, self.fixed, self.store = instrument, dict(fixed or {}), store
        self.images_spent = 0
        self._known: dict[str, Result] = {}

    def begin(self, study_id: int, stopping: Callable[[], bool]) -> None:
        """Nothing to prepare."""

    def tick(self) -> None:
        """Nothing to write down."""

    def fulfil(self, requests: Sequence[Spec]) -> list[Result]:
        """Results in the order of the requests; each is recorded before the next is begun."""
        return [self._answer(self._kept(spec)) for spec in requests]

    def kept(self, schedule: GenerationSchedule) -> GenerationSchedule:
        """The schedule with the fixed families as they are fixed."""
        fixed: dict[str, Any] = self.fixed
        return replace(schedule, **fixed) if fixed else schedule

    def _kept(self, spec: Any) -> Any:
        schedule = self.kept(spec.schedule)
        if not isinstance(spec, PopulationSpec):
            return replace(spec, schedule=schedule)
        ends = []
        for end in (spec.lows, spec.highs):
            names = zip(components(schedule.num_steps), schedule.values(), end, strict=True)
            ends.append(tuple(here if family in self.fixed else there for (family, _), here, there in names))
        return replace(spec, schedule=schedule, lows=ends[0], highs=ends[1])

    def _answer(self, spec: EvaluationSpec | ProbeSpec | PopulationSpec) -> Result:
        name = fingerprint(spec)
        if name in self._known:
            return self._known[name]
        self.images_spent += self.cost(spec)
        found = None if self.store is None else self.store.result(spec)
        if found is not None:
            result = found[0]
        else:
            began = time.perf_counter()
            result = self._measure(spec)
            if self.store is not None:
                self.store.record(spec, result, time.perf_counter() - began)
        self._known[name] = result
        return result

    def cost(self, spec: EvaluationSpec | ProbeSpec | PopulationSpec) -> int:
        """Images that the user's function generates for a spec."""
        spec = self._kept(spec)
        if isinstance(spec, EvaluationSpec):
            return spec.num_images
        if isinstance(spec, ProbeSpec):
            return spec.num_images * (1 + sum(probed != spec.schedule for probed in self._probed(spec)))
        pairs, size = self._pairs(spec)
        return 2 * pairs * size

    def _measure(self, spec: EvaluationSpec | ProbeSpec | PopulationSpec) -> Result:
        if isinstance(spec, EvaluationSpec):
            return self._evaluate(spec)
        return self._probe(spec) if isinstance(spec, ProbeSpec) else self._perturb(spec)

    def _evaluate(self, spec: EvaluationSpec) -> Evaluation:
        random_labels = spec.labels == "random"
        blocks = [
            Block(index, spec.num_blocks, spec.block_size, spec.seed, random_labels) for index in range(spec.num_blocks)
        ]
        calls = [self.instrument.ask(spec.schedule, block, None) for block in blocks]
        value, worth = self.instrument.judge(calls)
        shares = tuple(float(worth(rows).mean()) for rows in calls)
        return Evaluation(value, standard_error(shares), spec.num_images, spec.features.metric, spec.seed, shares)

    def _probed(self, spec: ProbeSpec) -> list[GenerationSchedule]:
        """Each probe's schedule; the base itself where the probe is of a fixed family."""
        schedules = []
        for probe in spec.probes:
            values = dict(zip(components(spec.schedule.num_steps), spec.schedule.values(), strict=True))
            values[probe.family, probe.step] = probe.value
            schedules.append(self.kept(spec.schedule.with_values(list(values.values()))))
        return schedules

    def _probe(self, spec: ProbeSpec) -> Differences:
        probed = self._probed(spec)
        blocks = [Block(index, spec.num_blocks, spec.block_size, spec.seed) for index in range(spec.num_blocks)]
        offsets = [dithers(spec.schedule.num_steps, block) for block in blocks]
        base = [
            self.instrument.ask(spec.schedule, block, dither) for block, dither in zip(blocks, offsets, strict=True)
        ]
        value, _ = self.instrument.judge(base)
        # Each half is scored by what the other says, as in the memo.
        worths = [self.instrument.judge(half)[1] for half in (base[1::2], base[::2])]
        changes = []
        for block, dither, rows in zip(blocks, offsets, base, strict=True):
            worth = worths[block.index % 2]
            here = float(worth(rows).mean())
            changes.append(
                tuple(
                    0.0
                    if schedule == spec.schedule
                    else float(worth(self.instrument.ask(schedule, block, dither)).mean()) - here
                    for schedule in probed
                )
            )
        return Differences(value, spec.features.metric, spec.num_images, tuple(changes))

    def _moving(self, spec: PopulationSpec) -> list[int]:
        return [index for index, ends in enumerate(zip(spec.lows, spec.highs, strict=True)) if ends[0] != ends[1]]

    def _pairs(self, spec: PopulationSpec) -> tuple[int, int]:
        """Pairs of calls for a population, a multiple of the design's rows, and images in a call, a block at most."""
        whole = self.instrument.whole_blocks
        rows = design_rows(len(self._moving(spec)), whole_blocks=whole)
        wanted = spec.num_images // 2
        pairs = rows * -(-wanted // (rows * spec.block_size))
        return pairs, spec.block_size if whole else max(1, wanted // pairs)

    def _perturb(self, spec: PopulationSpec) -> Changes:
        moving, (pairs, size) = self._moving(spec), self._pairs(spec)
        rows = design_rows(len(moving), whole_blocks=self.instrument.whole_blocks)
        signs_RP = design(rows, len(moving), pairs, spec.seed)
        forward: list[Tensor] = []
        backward: list[Tensor] = []
        for index, signs in enumerate(signs_RP):
            block = Block(index, pairs, size, spec.seed)
            dither = dithers(spec.schedule.num_steps, block)
            for calls, side in ((forward, 1.0), (backward, -1.0)):
                values = spec.schedule.values()
                for column, sign in zip(moving, signs, strict=True):
                    values[column] = (spec.highs if side * sign > 0 else spec.lows)[column]
                calls.append(self.instrument.ask(spec.schedule.with_values(values), block, dither))
        value, worth = self.instrument.judge([torch.cat(pair) for pair in zip(forward, backward, strict=True)])
        gaps = [worth(ahead) - worth(back) for ahead, back in zip(forward, backward, strict=True)]
        changes, errors = [0.0] * len(spec.lows), [0.0] * len(spec.lows)
        if moving:
            blocks = [
                (torch.from_numpy(signs).expand(len(gap), -1), gap) for signs, gap in zip(signs_RP, gaps, strict=True)
            ]
            for column, change, error in zip(moving, *regress(blocks), strict=True):
                changes[column], errors[column] = change, error
        return Changes(value, spec.features.metric, 2 * pairs * size, tuple(changes), tuple(errors))
