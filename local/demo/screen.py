"""What the person at the terminal sees while a rollout runs: one panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from local.demo.follow import Seen

PLAIN_EVERY_S = 5.0
COLOURS = {"pass": "green", "hold": "yellow", "harm": "bold red"}


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


def percent(seen: Seen) -> float:
    return float((seen.rollout or {}).get("percent") or 0)


def verdict(seen: Seen) -> dict[str, Any]:
    return ((seen.evidence or {}).get("verdict") if seen.evidence else None) or {}


def live_rows(seen: Seen) -> list[tuple[str, dict[str, Any]]]:
    return sorted(((seen.evidence or {}).get("live") or {}).items())


def line(seen: Seen, elapsed_s: float) -> str:
    """One line for logs."""
    parts = [f"  {elapsed_s:5.0f} s", f"{percent(seen):g} %", seen.running_task]
    if percent(seen):
        parts += [
            f"v{name}: {number(row, 'rps')} rps p99 {number(row, 'p99_ms')} ms"
            for name, row in live_rows(seen)
        ]
        parts.append(f"{verdict(seen).get('action', '-')}: {verdict(seen).get('reason', '-')}")
    return " | ".join(parts)


def number(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def panel(title: str, seen: Seen, elapsed_s: float) -> Panel:
    """The live panel: task, share, both versions side by side, the gate's evidence."""
    share = Table.grid(padding=(0, 2))
    share.add_row("task", seen.running_task)
    share.add_row("share", f"{percent(seen):g} %", ProgressBar(total=100, completed=percent(seen), width=40))
    versions = Table("version", "requests/s", "events", "p50 ms", "p99 ms", "users", box=None, pad_edge=False)
    for name, row in live_rows(seen):
        versions.add_row(name, *(number(row, key) for key in ("rps", "events", "p50_ms", "p99_ms", "users")))
    found = verdict(seen)
    action = str(found.get("action", "-"))
    gate = Text.assemble(("gate  ", "dim"), (action, COLOURS.get(action, "")), f"  {found.get('reason', '')}")
    forecast = found.get("forecast_s")
    waits = Text(f"      forecast {forecast:.0f} s" if forecast is not None else "", style="dim")
    heading = f"{title}  {elapsed_s:.0f} s"
    return Panel(Group(share, Text(), versions, Text(), gate, waits), title=heading, title_align="left")
