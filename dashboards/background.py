"""Work that needs the networks, done in a process of its own: this one stays light and answers at once."""

import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence

KEPT = 32
LIMIT_SECONDS = 600
FAILURE_SECONDS = 60.0


class Background:
    """Runs ``python -m MODULE ARGUMENTS`` once for each key, one at a time, and keeps its output in memory.

    What went wrong is kept for a minute alone: its cause may be gone by then.
    """

    def __init__(self) -> None:
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._done: OrderedDict[tuple[str, ...], tuple[bytes | str, float]] = OrderedDict()
        self._busy: set[tuple[str, ...]] = set()
        self._finished = 0

    @property
    def finished(self) -> int:
        """How many have ended so far: a page that waits asks again when this changes."""
        with self._lock:
            return self._finished

    def output(
        self,
        key: Sequence[str],
        command: Sequence[str],
        given: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> bytes | str | None:
        """The output (bytes), one line on what went wrong (str), or None while it is at work, which the first call
        starts. `given` is what the process reads from its standard input, `variables` are added to its environment:
        everyone on the machine can read the command."""
        name = tuple(key)
        with self._lock:
            found, ended = self._done.get(name, (None, 0.0))
            if isinstance(found, str) and time.monotonic() - ended > FAILURE_SECONDS:
                del self._done[name]
                found = None
            if found is not None:
                self._done.move_to_end(name)
                return found
            if name not in self._busy:
                self._busy.add(name)
                work = (name, tuple(command), given, dict(variables or {}))
                threading.Thread(target=self._run, args=work, daemon=True).start()
            return None

    def _run(self, name: tuple[str, ...], command: tuple[str, ...], given: str, variables: dict[str, str]) -> None:
        found: bytes | str
        with self._turn:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
            try:
                done = subprocess.run(
                    [sys.executable, "-m", *command],
                    input=given.encode(),
                    capture_output=True,
                    timeout=LIMIT_SECONDS,
                    env=environment,
                    check=False,
                )
                lines = done.stderr.decode(errors="replace").strip().splitlines()
                found = done.stdout if done.returncode == 0 else (lines[-1] if lines else "it ended without a word")
            except (OSError, subprocess.TimeoutExpired) as error:
                found = " ".join(str(error).split())
        with self._lock:
            self._busy.discard(name)
            self._done[name] = (found, time.monotonic())
            self._finished += 1
            while len(self._done) > KEPT:
                self._done.popitem(last=False)
