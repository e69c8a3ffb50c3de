"""How far a pass over many images or captions is: a bar on a terminal, a line now and then elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_SECONDS = 15.0


class ImageProgress:
    """Counts images (`what`) up to ``total``; ``done`` of them were finished by an earlier run and say nothing about
    speed."""

    def __init__(
        self,
        console: Console,
        total: int,
        done: int = 0,
        every_seconds: float = LINE_EVERY_SECONDS,
        what: str = "images",
    ) -> None:
        self._console, self._total, self._done, self._what = console, total, done, what
        self._first, self._every_seconds = done, every_seconds
        self._started = self._spoke = time.monotonic()
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self._bar.disable = not console.is_terminal
        self._task = self._bar.add_task(what, total=total, completed=done)

    def __enter__(self) -> "ImageProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def reach(self, done: int) -> None:
        """So many of the images are finished now."""
        self._done = done
        self._bar.update(self._task, completed=done)
        now = time.monotonic()
        if self._console.is_terminal or now - self._spoke < self._every_seconds or done == self._first:
            return
        self._spoke = now
        rate = (done - self._first) / (now - self._started)
        left = (self._total - done) / rate
        self.say(f"{done:,} of {self._total:,} {self._what}, {rate:,.1f} a second, about {_duration(left)} left")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
