"""Ctrl-C and SIGTERM, made certain."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

AGAIN_AFTER_SECONDS = 0.05


class Interruption:
    """Within this context SIGINT and SIGTERM raise KeyboardInterrupt, the one interruption that all libraries pass on.

    Outside, SIGTERM is SystemExit(143), the status that shells give it. `asked`: the signal that came, or None.

    Two kinds of places cannot be interrupted: a module's import, as C++ code that imports ends the process at an
    exception, and destructors and weak references' callbacks, where Python prints and drops it. There the signal is
    sent to this process again a moment later.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._again: threading.Timer | None = None
        self._ended = False
        self._previous: dict[int, Any] = {}
        self._entered_from: FrameType | None = None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._entered_from = sys._getframe(1)
            self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._dropped
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._ended, self._entered_from = True, None
        if self._again is not None:
            self._again.cancel()
            self._again.join()
        if self._previous:
            sys.unraisablehook = self._previous_hook
        for number, handler in self._previous.items():
            if handler is not None:  # not Python's own
                signal.signal(number, handler)
        if kind is KeyboardInterrupt and self.asked == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM) from None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._ended:
            return
        self.asked = number
        if self._is_importing(frame):
            self._send_again(number)
        else:
            raise KeyboardInterrupt

    def _dropped(self, unraisable: Any) -> None:
        if self.asked is not None and unraisable.exc_type is KeyboardInterrupt:
            self._send_again(self.asked)
        else:
            self._previous_hook(unraisable)

    def _send_again(self, number: int) -> None:
        # To the main thread by name: a signal that another thread takes does not wake a waiting main thread.
        main = threading.main_thread().ident
        assert main is not None
        self._again = threading.Timer(AGAIN_AFTER_SECONDS, signal.pthread_kill, (main, number))
        self._again.daemon = True
        self._again.start()

    def _is_importing(self, frame: FrameType | None) -> bool:
        """Whether an import that began within the context is under way; one around it is a module that runs a study."""
        while frame is not None and frame is not self._entered_from:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                return True
            frame = frame.f_back
        return False
