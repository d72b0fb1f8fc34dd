"""How long this run may still take, and what it says meanwhile."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class OutOfTimeError(RuntimeError):
    """The budget is spent: what was not begun is not run."""


@dataclass(frozen=True, slots=True)
class Clock:
    """budget_s: of the whole run; None: no limit."""

    budget_s: float | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Since it was made."""
        return time.monotonic() - self.began

    def left_s(self) -> float | None:
        """What is left; None without a limit. Raises OutOfTimeError when nothing is."""
        if self.budget_s is None:
            return None
        left = self.budget_s - self.elapsed_s
        if left <= 0:
            raise OutOfTimeError(f"not run: the budget of {self.budget_s:g} s was spent")
        return left

    def say(self, text: str) -> None:
        """One progress line on stderr."""
        print(f"[{self.elapsed_s:6.1f} s] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Says when it begins and what it took. Raises OutOfTimeError instead of beginning too late."""
        self.left_s()
        start = time.monotonic()
        self.say(name)
        try:
            yield
        finally:
            self.say(f"{name}: {time.monotonic() - start:.1f} s")
