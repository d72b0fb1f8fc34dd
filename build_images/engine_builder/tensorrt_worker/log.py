"""The library's log, from which alone one learns why something failed, and its progress.

TensorRT answers None and logs the reason. Its log is at the same time the only sign of life of a build in versions
without IProgressMonitor: every tactic that is timed is one message.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import tensorrt as trt

Tell = Callable[[str], None]

ERRORS_KEPT = 5
PROGRESS_S = 5.0  # between two lines of progress
TIMED = "Timing Runner"


class Log(trt.ILogger):
    """Keeps the last errors, and says every few seconds how many tactics were timed. tell: gets those lines."""

    def __init__(self, tell: Tell) -> None:
        trt.ILogger.__init__(self)
        self._tell = tell
        self._errors: deque = deque(maxlen=ERRORS_KEPT)
        self._start = self._said = time.monotonic()
        self.timed = 0

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        """Called by the library, from any of its threads."""
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self._errors.append(" ".join(message.split()))
        elif TIMED in message:
            self.timed += 1
            self.say(f"{self.timed} tactics timed")

    def say(self, what: str, *, now: bool = False) -> None:
        """Tell `what` unless something was told just before."""
        moment = time.monotonic()
        if now or moment - self._said >= PROGRESS_S:
            self._said = moment
            self._tell(f"{what}, {moment - self._start:.1f} s")

    def forget(self) -> None:
        """Before the next piece of work: an earlier error is not its reason."""
        self._errors.clear()
        self._start = self._said = time.monotonic()
        self.timed = 0

    def errors(self) -> list[str]:
        """The last errors."""
        return list(self._errors)

    def reason(self) -> str:
        """The last errors on one line."""
        return " | ".join(self._errors) or "the library gave no reason"

    @property
    def out_of_memory(self) -> bool:
        """Whether an error speaks of memory."""
        said = self.reason().lower()
        return "out of memory" in said or "outofmemory" in said or "requested amount of gpu memory" in said
