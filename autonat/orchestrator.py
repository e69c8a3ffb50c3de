"""The main loop: a search program asks, the memo answers, the journal remembers."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from autonat.config import Recipe
from autonat.errors import StudyStopped, UserError
from autonat.interruption import Interruption
from autonat.memo import Fulfiller
from autonat.search.alternation import alternate
from autonat.search.program import Ask, Decision, Program
from autonat.specs import Result, TrainSpec, fingerprint
from autonat.storage.ownership import HEARTBEAT_SECONDS
from autonat.storage.store import Heartbeat, Store, decision_json

T = TypeVar("T")


class Observer(Protocol):
    """Told what happens, to show it."""

    def asked(self, ask: Ask) -> None: ...

    def answered(self, ask: Ask, results: list[Result]) -> None: ...

    def decided(self, decision: Decision) -> None: ...


def run_program(
    program: Program[T],
    fulfiller: Fulfiller,
    observer: Observer | None = None,
    journal: Callable[[list[dict[str, Any]]], None] = lambda entries: None,
) -> T:
    """Drive a program to its end and return what it returns."""
    results: list[Result] | None = None
    while True:
        try:
            event = program.send(results)
        except StopIteration as stop:
            return stop.value
        where = {"phase": event.phase.name, "round": event.phase.round, "purpose": event.phase.purpose}
        if isinstance(event, Decision):
            journal([{**where, "decision": decision_json(event.facts)}])
            results = None
            if observer is not None:
                observer.decided(event)
        else:
            if observer is not None:
                observer.asked(event)
            results = fulfiller.fulfil(event.requests)
            journal([{**where, "fingerprint": fingerprint(spec)} for spec in event.requests])
            if observer is not None:
                observer.answered(event, results)


class _Heart:
    """Beats while a driver holds a study: the lease on it, its running time, and whether it is to go on."""

    def __init__(self, store: Store, study_id: int, fulfiller: Fulfiller) -> None:
        self._store, self._study_id, self._fulfiller = store, study_id, fulfiller
        self._end = threading.Event()
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.verdict: Heartbeat = "go on"

    def stopping(self) -> bool:
        """Whether no more work is to be begun. Raises UserError where another driver took the study over."""
        if self.verdict == "lost":
            raise UserError(
                "another driver took the study over while this one was silent for too long (suspended, or cut off from "
                "the database); what was finished is kept"
            )
        return self.verdict == "stop"

    def _beat(self) -> None:
        now = time.monotonic()
        verdict = self._store.heartbeat(self._study_id, now - self._last)
        self._last = now
        if verdict != "go on":
            self.verdict = verdict
        self._fulfiller.tick()

    def _run(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            with suppress(UserError):  # a full disk is reported by the main thread's next write
                self._beat()

    def __enter__(self) -> "_Heart":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        with suppress(UserError):
            self._beat()


def run_study(recipe: Recipe, store: Store, fulfiller: Fulfiller, observer: Observer | None = None) -> dict[str, Any]:
    """Run a recipe's study to its end, from wherever an earlier run left it, and return the summary.

    Raises UserError where another driver holds the study or a file of the recipe is missing. An interruption or an
    error is recorded and passed on, SIGTERM as SystemExit(143); what was finished stays.
    """
    recipe = recipe.with_files_looked_at()
    study_id = store.claim(recipe.name, as_recorded(recipe, store))
    trainings: set[str] = set()
    next_number = 0

    def journal(entries: list[dict[str, Any]]) -> None:
        nonlocal next_number
        store.write_journal(study_id, next_number, entries)
        next_number += len(entries)

    def counted(program: Program[dict[str, Any]]) -> Program[dict[str, Any]]:
        """The program, with its trainings counted on the way."""
        results = None
        while True:
            try:
                event = program.send(results)
            except StopIteration as stop:
                return stop.value
            if interruption.asked is not None:
                raise KeyboardInterrupt
            if heart.stopping():
                raise StudyStopped
            if isinstance(event, Ask):
                trainings.update(fingerprint(spec.whole) for spec in event.requests if isinstance(spec, TrainSpec))
            results = yield event

    with Interruption() as interruption:
        try:
            with _Heart(store, study_id, fulfiller) as heart:
                fulfiller.begin(study_id, heart.stopping)
                summary = run_program(counted(alternate(recipe)), fulfiller, observer, journal)
            summary["trainings"] = len(trainings)
        except StudyStopped:
            _release(store, study_id, "stopped")
            raise
        except (KeyboardInterrupt, SystemExit):  # SystemExit: rich's end where nobody reads the output any more
            _release(store, study_id, "interrupted")
            raise
        except BaseException as error:
            if interruption.asked is not None:  # a library stumbled over the KeyboardInterrupt in its midst
                _release(store, study_id, "interrupted")
                raise KeyboardInterrupt from None
            _release(store, study_id, "failed", " ".join(str(error).split()) or type(error).__name__)
            raise
        store.release(study_id, "finished", summary=summary)
    return summary


def as_recorded(recipe: Recipe, store: Store) -> str:
    """The recipe's text; that of the study of its name where it says the same, as an earlier version may have written
    it, without the keys that came later."""
    for row in store.studies():
        if row.name == recipe.name:
            with suppress(ValueError):  # not a recipe of this version
                if Recipe.model_validate_json(row.recipe) == recipe:
                    return row.recipe
    return recipe.model_dump_json()


def _release(store: Store, study_id: int, state: str, error: str | None = None) -> None:
    with suppress(UserError):  # what went wrong first is the message to see
        store.release(study_id, state, error)
