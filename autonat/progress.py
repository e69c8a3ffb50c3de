"""What a person sees while a study runs: bars on a terminal, plain lines elsewhere."""

import json
import signal
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from autonat.execution.listener import SILENT, Listener
from autonat.execution.tasks import Task, TrainTask, block_of
from autonat.search.program import Ask, Decision
from autonat.search.variety import KEY
from autonat.specs import Differences, Evaluation, Features, Metrics, Result, TrainSpec, fingerprint, painted
from autonat.storage.artifacts import Artifacts
from autonat.units import counted

# Without a terminal, a batch of tasks that takes longer than this says how far it is, again and again.
SPEAK_SECONDS = 15.0


class ProgressReporter:
    """An orchestrator's observer, and the executor's: wrap the executor with ``watch`` to see single tasks.

    On a terminal: one bar for the batch in work with the last distance and the time left. Elsewhere: a line a batch,
    and a line every 15 seconds while one takes longer.
    """

    def __init__(self, console: Console, artifacts: Artifacts) -> None:
        self.console, self.artifacts = console, artifacts
        self.started = time.monotonic()
        self.images = 0
        self.last: str = ""
        self._phase = ""
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )

    def __enter__(self) -> "ProgressReporter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        text = f"[{time.monotonic() - self.started:6.1f} s] {line}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    # What the orchestrator tells

    def asked(self, ask: Ask) -> None:
        phase = ask.phase
        title = f"{phase.name}, round {phase.round}: {phase.purpose}"
        if title != self._phase:
            self._phase = title
            trainings = [spec for spec in ask.requests if isinstance(spec, TrainSpec)]
            labels = ", ".join(spec.mask_ratio.label for spec in trainings)
            self.say(title + (f" of {labels}" if labels else ""))

    def answered(self, ask: Ask, results: list[Result]) -> None:
        self.images += sum(spec.images for spec in painted(ask.requests))
        evaluations = [result for result in results if isinstance(result, Evaluation)]
        for result in results:
            if isinstance(result, Features):
                self.say(
                    f"feature network: test accuracy {result.test_accuracy:.3f}; real test against real training "
                    f"images {result.floor:.3f} +- {result.floor_standard_error:.3f}"
                )
            if isinstance(result, Differences):
                self.last = f"distance {result.value:.3f}"
        if evaluations:
            best = min(evaluations, key=lambda evaluation: evaluation.value)
            self.last = f"distance {best.value:.3f} +- {best.standard_error:.3f}"
            if ask.phase.purpose != "warm start":
                values = ", ".join(f"{e.value:.3f} +- {e.standard_error:.3f}" for e in evaluations)
                varieties = [r.values[KEY] for r in results if isinstance(r, Metrics) and KEY in r.values]
                if len(varieties) >= len(evaluations):  # those of the evaluations come first
                    values += "; variety " + ", ".join(f"{variety:.3g}" for variety in varieties[: len(evaluations)])
                self.say(f"  {values}  ({evaluations[0].num_images:,} images each, {self.images:,} so far)")

    def decided(self, decision: Decision) -> None:
        facts = decision.facts
        if decision.phase.purpose == "gradient":
            self.say(
                f"  iterate {facts['iteration']}: distance {facts['distance']:.3f}  ({self.images:,} images so far)"
            )
        elif decision.phase.purpose == "schedule":
            self.say(f"  schedule kept: distance {facts['distance']:.3f} +- {facts['standard_error']:.3f}")
        elif decision.phase.purpose == "mask ratio":
            self.say(
                f"  mask ratio kept: {facts['mask_ratio'].label} (gain {facts['gain']:.3f} +- "
                f"{facts['gain_standard_error']:.3f})"
            )
            for point in facts["candidates"]:
                if "ended_at_step" in point:
                    self.say(f"  {point['mask_ratio'].label}: training left off at step {point['ended_at_step']:,}")

    # What the executor does

    def watch(self, executor: Any) -> "WatchedExecutor":
        return WatchedExecutor(executor, self)


class WatchedExecutor:
    """An executor that shows how far it is."""

    def __init__(self, executor: Any, reporter: ProgressReporter) -> None:
        self._executor, self._reporter = executor, reporter

    def __enter__(self) -> "WatchedExecutor":
        self._executor.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._executor.__exit__(*details)

    def run(self, tasks: Any, listener: Listener = SILENT) -> Any:
        if not tasks:
            return
        with _Ticker(self._reporter, tasks) as ticker:
            for item in self._executor.run(tasks, listener):
                ticker.done(item[0])
                yield item


class _Ticker:
    """Moves the bar (or prints a line now and then) while one batch of tasks runs."""

    def __init__(self, reporter: ProgressReporter, tasks: list[Task]) -> None:
        self._reporter, self._tasks = reporter, tasks
        self._finished: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._bar_task: Any = None

    def _weight(self, task: Task) -> float:
        return float(task.spec.steps) if isinstance(task.spec, TrainSpec) else 1.0

    def _share(self, index: int) -> float:
        """How much of a task is done, 0 to 1; a training says so in a small file."""
        if index in self._finished:
            return 1.0
        task = self._tasks[index]
        if isinstance(task, TrainTask):
            try:
                text = self._reporter.artifacts.progress_path(fingerprint(task.spec)).read_text()
                state = json.loads(text)
                return state["step"] / state["steps"]
            except (OSError, ValueError, KeyError):
                return 0.0
        return 0.0

    def _fraction(self) -> float:
        total = sum(self._weight(task) for task in self._tasks)
        done = sum(self._weight(task) * self._share(index) for index, task in enumerate(self._tasks))
        return done / total

    def _label(self) -> str:
        trainings = sum(isinstance(task, TrainTask) for task in self._tasks)
        blocks = sum(block_of(task) is not None for task in self._tasks)
        what = counted(trainings, "training") if trainings else counted(blocks, "block")
        return f"{self._reporter._phase or 'work'} ({what})  {self._reporter.last}".rstrip()

    def _run(self) -> None:
        began = spoke = time.monotonic()
        before = self._fraction()  # what an earlier run had done of a training
        while not self._stop.wait(0.5):
            fraction = self._fraction()
            bar = self._reporter._bar
            if bar is not None:
                if self._bar_task is None:
                    self._bar_task = bar.add_task(self._label(), total=1.0)
                bar.update(self._bar_task, completed=fraction, description=self._label())
            elif time.monotonic() - spoke > SPEAK_SECONDS:
                spoke = time.monotonic()
                done = fraction - before
                left = f", about {(spoke - began) * (1 - fraction) / done:.0f} s left" if done > 0.02 else ""
                try:
                    self._reporter.say(f"  {self._label()}: {100 * fraction:.0f}%{left}")
                except SystemExit:  # rich's, where nobody reads any more, which would end this thread alone
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return

    def done(self, index: int) -> None:
        self._finished.add(index)

    def __enter__(self) -> "_Ticker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar_task is not None and self._reporter._bar is not None:
            self._reporter._bar.remove_task(self._bar_task)
