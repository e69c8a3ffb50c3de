"""The schedule search from Python, for a generator that is not ours: ``from autonat import tune`` (docs/api.md)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from autonat.errors import UserError
from autonat.execution.outside import (
    Instrument,
    OutsideFulfiller,
    OutsideGenerator,
    OutsideMetric,
    Sampled,
    Scored,
    design_rows,
    reference_sha256,
)
from autonat.orchestrator import run_program
from autonat.search.program import Ask, Decision, Laboratory, Pair, Phase, Program
from autonat.search.schedule_search import tune_schedule
from autonat.search_config import AnySearch, StagedSearch
from autonat.seed_gap import seed_gap
from autonat.specs import Evaluation, EvaluationSpec, Result, paired_difference
from autonat.storage.store import Store
from models.frechet import Reference, Statistics
from models.schedule import FAMILIES, GenerationSchedule, components
from models.statistics_files import StatisticsError, read_statistics

# Warm start, descent and confirmation: some 50,000 images for four steps.
DEFAULT_SEARCH = StagedSearch()

# Real features [M, D]; (mean [D], covariance [D, D]); a statistics file.
AnyReference = Reference | str | Path | tuple[Any, Any] | np.ndarray | torch.Tensor


@dataclass(frozen=True, slots=True)
class Measured:
    """One evaluation on the way. purpose: what for; images_spent: by the whole search up to here."""

    purpose: str
    schedule: GenerationSchedule
    distance: float
    standard_error: float
    num_images: int
    images_spent: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """The schedule that a search found, and how good it is on a seed that the search never saw.

    evaluation, baseline: of `schedule` and of `start`, with the same labels and noise. search_time: what the search
    itself last measured of `schedule`; fresh: the same on as many images of a seed of its own. images_spent: by the
    search, the other three not counted. history: every evaluation in order.
    """

    schedule: GenerationSchedule
    evaluation: Evaluation
    start: GenerationSchedule
    baseline: Evaluation
    search_time: Evaluation
    fresh: Evaluation
    images_spent: int
    history: tuple[Measured, ...]

    @property
    def distance(self) -> float:
        return self.evaluation.value

    @property
    def standard_error(self) -> float:
        return self.evaluation.standard_error

    @property
    def gain(self) -> tuple[float, float]:
        """By how much the schedule is better than the start, and the standard error of that."""
        change, error = paired_difference(self.evaluation, self.baseline)
        return -change, error

    @property
    def gap(self) -> tuple[float, float]:
        """By how much the distance is larger than the search measured on as many images, and the standard error of
        that: a search that fits its own seeds promises more than fresh ones keep."""
        found = seed_gap(self.search_time, self.fresh)
        return found["gap"], found["gap_standard_error"]


def tune(
    sampler: Callable[..., Any] | None = None,
    *,
    start: GenerationSchedule,
    reference: AnyReference | None = None,
    evaluate: Callable[..., Any] | None = None,
    num_classes: int = 1,
    fixed: Sequence[str] = (),
    search: AnySearch | None = None,
    block_size: int = 100,
    held_out_images: int = 10_000,
    budget_images: int | None = None,
    seed: int = 0,
    name: str | None = None,
    db: str | None = None,
    watch: Callable[[Measured], None] = lambda measured: None,
) -> Tuned:
    """Search the generation schedule of any masked-token generator, beginning at `start`.

    Give one of two functions:

    sampler(schedule, labels, seed) -> features [N, D] of N generated images, an array or a tensor; `labels` is int64
    [N] below `num_classes` (caption numbers will do), balanced. `reference` says what the images are compared with:
    real features [M, D], a mean [D] and a covariance [D, D], or a statistics file.
    evaluate(schedule, num_images, seed) -> one number, or one for each image; the less the better.

    `seed` (below 2^32) must fix every random number that the function draws, the same ones under every schedule: the
    search compares schedules under common noise. Where they are not the same it still works, at many times the images.

    A sampler with a parameter `dither` is given T offsets in [0, 1) where differences are taken, else None: it adds
    them to L r(t) before the floor. Without them small differences of mask ratios can vanish between whole numbers.

    fixed: families of values that stay as in `start` (``("guidance_scales",)`` for a generator without guidance).
    search: settings, DEFAULT_SEARCH unless given. block_size: images a call at most. budget_images: no new step of
    the search is begun once they are spent. db: a database that remembers every measurement under `name`, so that the
    same call goes on after an interruption; `name` must then change with the generator. watch: told of each evaluation.

    Raises UserError, in one line, for arguments that do not fit and for answers that are not what was asked for; what
    the function itself raises comes through.
    """
    instrument, generator, metric = _instrument(sampler, evaluate, reference, num_classes, name)
    _check(start, fixed, block_size, held_out_images, budget_images)
    if db is not None and not name:
        raise UserError("db needs a name for this generator: what is remembered is told apart by it")
    moving = sum(family not in fixed for family, _ in components(start.num_steps))
    settings = _fitted(search or DEFAULT_SEARCH, instrument, moving, block_size)
    pair = Pair(generator, start)
    store = None if db is None else Store.open(db)
    try:
        fulfiller = OutsideFulfiller(instrument, {family: getattr(start, family) for family in fixed}, store)
        historian = _Historian(fulfiller, watch)
        lab = Laboratory(metric, seed, block_size, budget_images, cost=fulfiller.cost)
        return run_program(_search(lab, pair, settings, held_out_images, fulfiller, historian), fulfiller, historian)
    finally:
        if store is not None:
            store.close()


def _search(
    lab: Laboratory,
    start: Pair,
    settings: AnySearch,
    held_out_images: int,
    fulfiller: OutsideFulfiller,
    historian: "_Historian",
) -> Program[Tuned]:
    verdict = yield from tune_schedule(lab, Phase("schedule", 0), start, settings)
    spent = fulfiller.images_spent
    seed = lab.seed_for("held-out")
    again = lab.evaluation(verdict.pair, verdict.evaluation.num_images, lab.seed_for("held-out", "gap"))
    evaluation, baseline, fresh = yield from lab.evaluate(
        Phase("held-out", 0, "held-out"),
        [*(lab.evaluation(pair, held_out_images, seed) for pair in (verdict.pair, start)), again],
    )
    return Tuned(
        schedule=fulfiller.kept(verdict.pair.schedule),
        evaluation=evaluation,
        start=start.schedule,
        baseline=baseline,
        search_time=verdict.evaluation,
        fresh=fresh,
        images_spent=spent,
        history=tuple(historian.history),
    )


class _Historian:
    """An observer that keeps the evaluations."""

    def __init__(self, fulfiller: OutsideFulfiller, watch: Callable[[Measured], None]) -> None:
        self.history: list[Measured] = []
        self._fulfiller, self._watch = fulfiller, watch

    def asked(self, ask: Ask) -> None:
        """Nothing to note."""

    def answered(self, ask: Ask, results: list[Result]) -> None:
        for spec, result in zip(ask.requests, results, strict=True):
            if isinstance(spec, EvaluationSpec) and isinstance(result, Evaluation):
                measured = Measured(
                    ask.phase.purpose,
                    self._fulfiller.kept(spec.schedule),
                    result.value,
                    result.standard_error,
                    result.num_images,
                    self._fulfiller.images_spent,
                )
                self.history.append(measured)
                self._watch(measured)

    def decided(self, decision: Decision) -> None:
        """Nothing to note."""


def _instrument(
    sampler: Callable[..., Any] | None,
    evaluate: Callable[..., Any] | None,
    reference: AnyReference | None,
    num_classes: int,
    name: str | None,
) -> tuple[Instrument, Any, Any]:
    """The instrument, and what names it in specs. These two are no network and no metric of ours: specs take them, as
    searches hand them on unopened."""
    if (sampler is None) == (evaluate is None):
        raise UserError("give either a sampler or an evaluate function")
    function = sampler if sampler is not None else evaluate
    if not callable(function):
        raise UserError(
            f"{'sampler' if evaluate is None else 'evaluate'} must be callable, not {type(function).__name__}"
        )
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}")
    known = name or "unnamed"
    if sampler is None:
        assert evaluate is not None
        if reference is not None:
            raise UserError("an evaluate function takes no reference: it compares by itself")
        return Scored(evaluate), OutsideGenerator(known, "scores", num_classes, False), OutsideMetric(known)
    if reference is None:
        raise UserError("a sampler needs a reference: real features [M, D], (mean, covariance), or a statistics file")
    real = as_reference(reference)
    sampled = Sampled(sampler, real, num_classes)
    generator = OutsideGenerator(known, "features", num_classes, sampled.takes_dither)
    return sampled, generator, OutsideMetric(known, reference_sha256(real))


def as_reference(reference: AnyReference) -> Reference:
    """A reference from real features [M, D], (mean [D], covariance [D, D]), a statistics file, or itself.

    Raises UserError for anything else, and for numbers that are not finite.
    """
    if isinstance(reference, Reference):
        return reference
    if isinstance(reference, str | Path):
        try:
            return read_statistics(Path(reference)).reference()
        except StatisticsError as error:
            raise UserError(f"reference: {error}") from error
    if isinstance(reference, tuple):
        if len(reference) != 2:
            raise UserError(f"reference: (mean, covariance) has two parts, got {len(reference)}")
        mean, covariance = (_real(part) for part in reference)
        if covariance.ndim == 2 and not torch.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8):
            raise UserError("reference: the covariance is not symmetric")
        try:
            return Reference(mean, covariance)
        except ValueError as error:
            raise UserError(f"reference: {error}") from error
    features = _real(reference)
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"reference: real features have shape [M, D] with M of at least 2, got {list(features.shape)}")
    return Reference.of(Statistics.of(features))


def _real(part: Any) -> torch.Tensor:
    try:
        numbers = torch.as_tensor(part).to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"reference: {type(part).__name__} is no array of numbers") from error
    if not numbers.isfinite().all():
        raise UserError("reference: values that are not finite")
    return numbers


def _check(
    start: GenerationSchedule, fixed: Sequence[str], block_size: int, held_out_images: int, budget_images: int | None
) -> None:
    """Raises UserError for arguments that fit no search."""
    if not isinstance(start, GenerationSchedule):
        raise UserError(f"start must be a GenerationSchedule (maskgit_cosine(8), say), not {type(start).__name__}")
    unknown = [family for family in fixed if family not in FAMILIES]
    if isinstance(fixed, str) or unknown:
        raise UserError(f"fixed takes a list of families out of {', '.join(FAMILIES)}, got {fixed!r}")
    if all(family in fixed for family, _ in components(start.num_steps)):
        raise UserError("every family is fixed: nothing is left to search")
    if block_size < 2 or block_size % 2:
        raise UserError(f"block_size must be even and at least 2, got {block_size}")
    if budget_images is not None and budget_images < 1:
        raise UserError(f"budget_images must be at least 1, got {budget_images}")
    _check_count("held_out_images", held_out_images, block_size)


def _check_count(name: str, count: int, block_size: int) -> None:
    if count < 2 * block_size or count % block_size:
        raise UserError(f"{name} = {count} must be a multiple of block_size {block_size}, at least two")


def _fitted(search: AnySearch, instrument: Instrument, moving: int, block_size: int) -> AnySearch:
    """The settings, checked, with as many images in a gradient as the instrument needs at least."""
    for name, count in _image_counts(search, "search"):
        _check_count(name, count, block_size)
    if not instrument.whole_blocks or not isinstance(search, StagedSearch) or search.descent is None:
        return search
    least = 2 * design_rows(moving, whole_blocks=True) * block_size
    if search.descent.estimator != "population" or search.descent.images >= least:
        return search
    return search.model_copy(update={"descent": search.descent.model_copy(update={"images": least})})


def _image_counts(settings: BaseModel, where: str) -> Iterator[tuple[str, int]]:
    """Every number of images in the settings, with its name."""
    for key, value in settings:
        if isinstance(value, BaseModel):
            yield from _image_counts(value, f"{where}.{key}")
        elif key in ("images", "confirmation_images"):
            yield f"{where}.{key}", value
