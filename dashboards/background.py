"""Work that needs the networks, done in a process of its own: this one stays light and answers at once."""

import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence

KEPT = 32
LIMIT_SECONDS = 600


class Background:
    """Runs ``python -m MODULE ARGUMENTS`` once for each key, one at a time, and keeps its output in memory."""

    def __init__(self) -> None:
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._done: OrderedDict[tuple[str, ...], bytes | str] = OrderedDict()
        self._busy: set[tuple[str, ...]] = set()

    @property
    def finished(self) -> int:
        """How many there are: a page that waits asks again when this changes."""
        with self._lock:
            return len(self._done)

    def output(self, key: Sequence[str], command: Sequence[str], given: str = "") -> bytes | str | None:
        """The output (bytes), one line on what went wrong (str), or None while it is at work, which the first call
        starts. `given` is what the process reads from its standard input."""
        name = tuple(key)
        with self._lock:
            if name in self._done:
                self._done.move_to_end(name)
                return self._done[name]
            if name not in self._busy:
                self._busy.add(name)
                threading.Thread(target=self._run, args=(name, tuple(command), given), daemon=True).start()
            return None

    def _run(self, name: tuple[str, ...], command: tuple[str, ...], given: str) -> None:
        found: bytes | str
        with self._turn:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
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
            self._done[name] = found
            while len(self._done) > KEPT:
                self._done.popitem(last=False)
