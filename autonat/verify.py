"""Whether recorded results can be had again: a random sample of them is computed anew and compared to the last bit."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from autonat.execution.executor import Executor
from autonat.memo import Memo
from autonat.specs import (
    FeatureSpec,
    Spec,
    TrainSpec,
    fingerprint,
    networks_needed,
)
from autonat.storage.store import Store

KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Spec)}

NewExecutor = Callable[[str], Executor]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A recorded result beside a new one. same: None where it could not be computed again, and `note` says why."""

    kind: str
    fingerprint: str
    same: bool | None
    note: str = ""


def spec_from_json(kind: str, text: str) -> Spec:
    """A recorded spec. Raises ValueError where it is not one of this version of autonat."""
    try:
        spec: Spec = TypeAdapter(KINDS[kind]).validate_json(text)
    except (ValidationError, KeyError) as error:
        raise ValueError("was recorded by another version of autonat") from error
    return spec


def sample_size(total: int, count: int | None, fraction: float | None) -> int:
    """How many of `total` results to compute again: a number, or a share of at least one; five unless told."""
    if fraction is not None:
        return min(total, max(1, round(total * fraction)))
    return min(total, 5 if count is None else count)


def verify(store: Store, study_id: int, new_executor: NewExecutor, *, size: int, seed: int) -> list[Verdict]:
    """Compute `size` of a study's results again, in folders of their own, and compare each with the recorded one.

    What begins with networks uses the recorded ones, whose hashes are checked.
    new_executor: makes an executor for the artifact folder it is given.
    """
    recorded = store.recorded_specs(study_id)
    chosen = [recorded[place] for place in sorted(random.Random(seed).sample(range(len(recorded)), size))]
    verdicts: dict[str, Verdict] = {}
    specs: dict[str, Spec] = {}
    for name, kind, text in chosen:
        try:
            spec = spec_from_json(kind, text)
            if fingerprint(spec) != name:
                raise ValueError("was recorded by another version of autonat")
            specs[name] = spec
        except ValueError as error:
            verdicts[name] = Verdict(kind, name, None, str(error))
    for name, spec in specs.items():
        flaw = next((flaw for part in networks_needed(spec) if (flaw := _flaw(store, part)) is not None), None)
        if flaw is not None:
            verdicts[name] = Verdict(type(spec).__name__, name, None, flaw)
    ready = [spec for name, spec in specs.items() if name not in verdicts]
    # Apart, so that nothing begins with a network that was trained just now.
    trainings: list[Spec] = [spec for spec in ready if isinstance(spec, TrainSpec | FeatureSpec)]
    measured: list[Spec] = [spec for spec in ready if not isinstance(spec, TrainSpec | FeatureSpec)]
    first = [spec for spec in trainings if not networks_needed(spec)]
    later = [[spec] for spec in trainings if networks_needed(spec)]
    for group in (first, *later, measured):
        for spec, again in zip(group, _compute(store, group, new_executor), strict=True):
            name = fingerprint(spec)
            verdicts[name] = _compared(type(spec).__name__, name, store.results([name])[name], again)
    return [verdicts[name] for name, _, _ in chosen]


def _flaw(store: Store, part: TrainSpec | FeatureSpec) -> str | None:
    found = store.result(part)
    flaw = "is missing" if found is None or found[1] is None else store.artifacts.flaw(fingerprint(part), found[1])
    return None if flaw is None else f"needs the network {fingerprint(part)[:12]}, which {flaw}"


def _compute(store: Store, specs: Sequence[Spec], new_executor: NewExecutor) -> list[tuple[Any, str | None]]:
    """Results and artifact hashes, computed in a store of their own beside copies of the networks they need."""
    if not specs:
        return []
    with TemporaryDirectory(prefix="autonat-verify-") as folder:
        scratch = Store.open(str(Path(folder) / "verify.db"))
        for spec in specs:
            for part in networks_needed(spec):
                found = store.result(part)
                assert found is not None
                shutil.copy(store.artifacts.fetched(fingerprint(part)), scratch.artifacts.path(fingerprint(part)))
                scratch.record(part, found[0], 0.0, found[1])
        with new_executor(scratch.artifacts.address) as executor:
            Memo(scratch, executor).fulfil(specs)
        new = scratch.results([fingerprint(spec) for spec in specs])
        scratch.close()
    return [new[fingerprint(spec)] for spec in specs]


def _compared(kind: str, name: str, old: tuple[Any, str | None], new: tuple[Any, str | None]) -> Verdict:
    before, after = (json.dumps(asdict(result), sort_keys=True) for result, _ in (old, new))
    if before != after:
        return Verdict(kind, name, False, f"recorded {_short(before)}, now {_short(after)}")
    if old[1] != new[1]:
        return Verdict(kind, name, False, "the weights differ")
    return Verdict(kind, name, True)


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
