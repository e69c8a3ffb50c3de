"""Searches as programs: a generator yields what it wants measured and is sent the results.

A program never evaluates anything. Who runs it (``autonat.orchestrator.run_program``) looks each request up in the
store or has it computed, so the same program runs on one machine, on a cluster or against a simulated landscape, and a
killed one is resumed by running it again from the start.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from autonat.search.variety import Variety
from autonat.specs import (
    Changes,
    Compute,
    Evaluation,
    EvaluationSpec,
    GeneratorSpec,
    MetricSpec,
    PopulationSpec,
    ProbeSpec,
    Result,
    Spec,
    TrainSpec,
    derived_seed,
)
from models.mask_ratio import AnyMaskRatio
from models.probes import Probe
from models.schedule import GenerationSchedule


@dataclass(frozen=True, slots=True)
class Phase:
    """Where in the alternation something happens; `purpose` says what for, in a word or two."""

    name: str
    round: int
    purpose: str = ""

    def at(self, purpose: str) -> "Phase":
        return Phase(self.name, self.round, purpose)


@dataclass(frozen=True, slots=True)
class Ask:
    """Requests that may run side by side; the answer is the list of their results, in this order."""

    phase: Phase
    requests: tuple[Spec, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Something a search settled, for the record: what was chosen and what is known of it."""

    phase: Phase
    facts: dict[str, Any] = field(hash=False)


T = TypeVar("T")
Program = Generator[Ask | Decision, Sequence[Result] | None, T]


def together(programs: Sequence[Program[T]]) -> Program[list[T]]:
    """Run programs side by side: their requests of one turn become one Ask. Returns what each returns, in order."""
    returned: dict[int, T] = {}
    answers: dict[int, Sequence[Result] | None] = dict.fromkeys(range(len(programs)))
    while len(returned) < len(programs):
        asks: dict[int, Ask] = {}
        for number in [number for number in answers if number not in returned]:
            try:
                event = programs[number].send(answers[number])
                while isinstance(event, Decision):
                    yield event
                    event = programs[number].send(None)
                asks[number] = event
            except StopIteration as stop:
                returned[number] = stop.value
        if asks:
            phase = next(iter(asks.values())).phase
            results = yield Ask(phase, tuple(request for ask in asks.values() for request in ask.requests))
            assert results is not None
            for number, ask in asks.items():
                answers[number], results = results[: len(ask.requests)], results[len(ask.requests) :]
    return [returned[number] for number in range(len(programs))]


@dataclass(frozen=True, slots=True)
class Pair:
    """What a study looks for: a trained network (by its mask ratio's distribution) and a schedule."""

    training: GeneratorSpec
    schedule: GenerationSchedule

    @property
    def mask_ratio(self) -> AnyMaskRatio:
        return self.training.mask_ratio


def _images_of(spec: Any) -> int:
    return int(spec.images)


@dataclass
class Laboratory:
    """Turns a search's wishes into specs and counts the images and trainings they cost.

    The count is of what was asked for, recorded or not, so a resumed study takes the same turns. cost: images that
    are generated for a spec. variety: what searches have to keep of it; None: they look at the distance alone.
    """

    features: MetricSpec
    seed: int
    block_size: int
    budget_images: int | None = None
    compute: Compute = field(default_factory=Compute)
    spent_images: int = 0
    trained: set[TrainSpec] = field(default_factory=set)
    cost: Callable[[Any], int] = _images_of
    variety: Variety | None = None

    def whole_blocks(self, num_images: int) -> int:
        """The largest number of whole blocks' images up to `num_images`, at least two blocks'."""
        return max(2, num_images // self.block_size) * self.block_size

    def has_budget(self) -> bool:
        return self.budget_images is None or self.spent_images < self.budget_images

    def seed_for(self, *address: int | str) -> int:
        return derived_seed(self.seed, *address)

    def evaluation(self, pair: Pair, num_images: int, seed: int, *, random_labels: bool = False) -> EvaluationSpec:
        return EvaluationSpec(
            training=pair.training,
            features=self.features,
            schedule=pair.schedule,
            seed=seed,
            num_images=num_images,
            block_size=self.block_size,
            labels="random" if random_labels else "balanced",
            compute=self.compute,
        )

    def evaluate(self, phase: Phase, specs: Sequence[EvaluationSpec]) -> Program[list[Evaluation]]:
        self.spent_images += sum(self.cost(spec) for spec in specs)
        results = yield Ask(phase, tuple(specs))
        assert results is not None
        evaluations = [result for result in results if isinstance(result, Evaluation)]
        assert len(evaluations) == len(specs)
        return evaluations

    def judge(self, phase: Phase, specs: Sequence[EvaluationSpec]) -> Program[list[Evaluation]]:
        """Evaluations as a search counts them: farther than they were measured where variety is lacking."""
        if self.variety is None:
            return (yield from self.evaluate(phase, specs))
        metrics = self.variety.metrics(specs)
        self.spent_images += sum(self.cost(spec) for spec in metrics)  # the evaluations are of the same images
        results = yield Ask(phase, (*specs, *metrics))
        assert results is not None
        return self.variety.judge(results, len(specs))

    def probe(self, phase: Phase, pair: Pair, probes: Sequence[Probe], num_images: int, seed: int) -> Program[Any]:
        spec = ProbeSpec(
            training=pair.training,
            features=self.features,
            schedule=pair.schedule,
            probes=tuple(probes),
            seed=seed,
            num_images=num_images,
            block_size=self.block_size,
            compute=self.compute,
        )
        self.spent_images += self.cost(spec)
        results = yield Ask(phase, (spec,))
        assert results is not None
        return results[0]

    def perturb(
        self,
        phase: Phase,
        pair: Pair,
        lows: Sequence[float],
        highs: Sequence[float],
        num_images: int,
        seed: int,
    ) -> Program[Changes]:
        spec = PopulationSpec(
            training=pair.training,
            features=self.features,
            schedule=pair.schedule,
            lows=tuple(lows),
            highs=tuple(highs),
            seed=seed,
            num_images=num_images,
            block_size=self.block_size,
            compute=self.compute,
        )
        self.spent_images += self.cost(spec)
        results = yield Ask(phase, (spec,))
        assert results is not None
        (result,) = results
        assert isinstance(result, Changes)
        return result

    def train(self, phase: Phase, specs: Sequence[TrainSpec]) -> Program[None]:
        self.trained.update(spec.whole for spec in specs)
        yield Ask(phase, tuple(specs))
