"""The live panel of one rollout: the task, the share, both versions side by side, the gate and its evidence.

Pure: what was seen goes in, something that rich can draw comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from local.demo.follow import Seen

COLOURS: Final = {"pass": "green", "hold": "yellow", "harm": "bold red"}
BAR_WIDTH: Final = 36
FIGURES: Final = {
    "requests/s": "rps",
    "events": "events",
    "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
    "users": "users",
}
METRICS: Final = ("failure", "slow")


def panel(title: str, seen: Seen, elapsed_s: float) -> Panel:
    """Everything that is known of the rollout now."""
    parts: list[RenderableType] = [_head(seen), Text(), _versions(seen)]
    if (rows := list(evidence(verdict(seen)))) != []:
        parts += [Text(), _evidence(rows)]
    parts += [Text(), _gate(verdict(seen))]
    return Panel(Group(*parts), title=f"{title}  {elapsed_s:.0f} s", title_align="left", padding=(0, 1))


def percent(seen: Seen) -> float:
    return float((seen.rollout or {}).get("percent") or 0)


def verdict(seen: Seen) -> dict[str, Any]:
    return ((seen.evidence or {}).get("verdict") if seen.evidence else None) or {}


def live_rows(seen: Seen) -> list[tuple[str, dict[str, Any]]]:
    return sorted(((seen.evidence or {}).get("live") or {}).items())


def number(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def evidence(found: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """(what is asked, of which metric, log e-value, what it must reach): the row that decides of each.

    Harm is called by the kind nearest to its bar; no harm is shown when the last kind has it, by either way.
    """
    numbers = found.get("numbers") or {}
    for name in ("harm", "watch"):
        yield from _foremost("harm", numbers.get(name) or {})
    ways = [numbers.get("no_harm") or {}, numbers.get("objective") or {}]
    kinds = {
        kind: [way[kind] for way in ways if kind in way] for kind in {kind for way in ways for kind in way}
    }
    best = {kind: max(rows, key=_progress) for kind, rows in kinds.items()}
    for metric in METRICS:
        mine = [row for kind, row in best.items() if kind.startswith(metric)]
        if mine:
            last = min(mine, key=_progress)
            yield "no harm", metric, last["log_e"], last["bar"]


def _foremost(asked: str, readings: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    for metric in METRICS:
        mine = [row for kind, row in readings.items() if kind.startswith(metric)]
        if mine:
            first = max(mine, key=_progress)
            yield asked, metric, first["log_e"], first["bar"]


def _progress(row: Mapping[str, float]) -> float:
    return row["log_e"] / row["bar"]


def _head(seen: Seen) -> Table:
    head = Table.grid(padding=(0, 2))
    head.add_row(Text("task", style="dim"), seen.running_task)
    opened = [f"{row['percent']:g} %" for row in (seen.rollout or {}).get("opened") or []]
    share = Text(" → ".join(opened) or "0 %")
    if opened:
        share.stylize("bold", len(share) - len(opened[-1]))
    bar = ProgressBar(
        total=100,
        completed=percent(seen),
        width=BAR_WIDTH,
        style="grey37",
        complete_style="cyan",
        finished_style="cyan",
    )
    head.add_row(Text("share", style="dim"), share, bar)
    return head


def _versions(seen: Seen) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("version")
    for name in FIGURES:
        table.add_column(name, justify="right")
    candidate = str(((seen.rollout or {}).get("candidate") or {}).get("version"))
    for version, row in sorted(live_rows(seen), key=lambda item: item[0] != candidate):
        side = "candidate" if version == candidate else "stable"
        table.add_row(side, version, *(number(row, key) for key in FIGURES.values()))
    return table


def _evidence(rows: list[tuple[str, str, float, float]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name, side in (
        ("evidence", "left"),
        ("", "left"),
        ("log e", "right"),
        ("needs", "right"),
        ("", "left"),
    ):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for asked, metric, log_e, bar in rows:
        colour = "red" if asked == "harm" else "green"
        done = min(max(log_e / bar, 0.0), 1.0) * 100
        meter = ProgressBar(
            total=100, completed=done, width=BAR_WIDTH, complete_style=colour, finished_style=colour
        )
        table.add_row(asked, metric, f"{log_e:.2f}", f"{bar:.2f}", meter)
    return table


def _gate(found: Mapping[str, Any]) -> Text:
    action, forecast = str(found.get("action", "-")), found.get("forecast_s")
    text = Text.assemble(("gate  ", "dim"), (action, COLOURS.get(action, "")), f"  {found.get('reason', '')}")
    if action == "hold" and forecast is not None:
        text.append(f"  (about {forecast:.0f} s more)", style="dim")
    return text
