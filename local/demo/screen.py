"""What the person at the terminal sees while a rollout runs: one panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live

from local.demo.follow import Seen
from local.demo.panel import live_rows, number, panel, percent, verdict

PLAIN_EVERY_S = 5.0


class Screen:
    """Shows `Seen`. On a terminal it redraws in place; in a log it prints a line when something changed."""

    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console = title, console
        self._live = (
            Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        )
        self._began = time.monotonic()
        self._last = ("", 0.0)

    def __enter__(self) -> Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, seen: Seen) -> None:
        if self._live:
            self._live.update(panel(self._title, seen, time.monotonic() - self._began))
            return
        key = f"{seen.running_task}|{percent(seen)}|{verdict(seen).get('action')}"
        now = time.monotonic()
        if key != self._last[0] or now - self._last[1] > PLAIN_EVERY_S:
            self._last = (key, now)
            self._console.print(line(seen, now - self._began), highlight=False, soft_wrap=True)


def line(seen: Seen, elapsed_s: float) -> str:
    """One line for logs."""
    parts = [f"  {elapsed_s:5.0f} s", f"{percent(seen):g} %", seen.running_task]
    if percent(seen):
        parts += [
            f"v{name}: {number(row, 'rps')} rps, {number(row, 'events')} events, p99 {number(row, 'p99_ms')} ms"
            for name, row in live_rows(seen)
        ]
        parts.append(f"{verdict(seen).get('action', '-')}: {verdict(seen).get('reason', '-')}")
    return " | ".join(parts)
