"""The page's words and numbers. Pure.

Invariants: what is missing shows as a dash, never as a zero; a difference below `SAME` is called none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from plugins.model_card import DASH
from plugins.performance.document import mapping, ranked
from sluice.cost import known, ratio

SAME: Final = 0.05  # of a ratio: two builds of one model differ by that much from run to run
TIMES: Final = "\N{MULTIPLICATION SIGN}"
GOOD, BAD, PLAIN, ALONE, UNKNOWN = "good", "bad", "plain", "alone", "unknown"


def figure(value: Any, unit: str = "") -> str:
    """Three significant digits, thousands apart; a dash for what is not a number above 0."""
    found = known(value)
    if found is None:
        return DASH
    text = f"{found:,.0f}" if found >= 100 else f"{found:#.3g}"
    return f"{text} {unit}" if unit else text


def mib(value: Any) -> str:
    """Bytes as MiB."""
    found = known(value)
    return figure(None if found is None else found / 2**20, "MiB")


def percent(value: Any) -> str:
    """A share of 1 as a percentage; zero is a number here."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return DASH
    return f"{value * 100:.0f} %"


def times(value: float | None) -> str:
    """`0.84` and the sign of multiplication."""
    return DASH if value is None else f"{value:.2f}{TIMES}"


def tone(value: float | None, *, less_is_better: bool = True) -> str:
    """Whether a ratio to the champion's figure is good, bad or neither."""
    if value is None:
        return UNKNOWN
    if abs(value - 1) <= SAME:
        return PLAIN
    return GOOD if (value < 1) is less_is_better else BAD


def verdict(arch: str, one: Mapping[str, Any]) -> tuple[str, str]:
    """(tone, one line) of an architecture: what was chosen, how fast it is beside the champion, what it costs."""
    speed, theirs = ranked(one), ranked(one.get("champion"))
    if known(speed.get("p50_ms")) is None:
        why = one.get("why_not_measured") or "the report has no timing"
        return UNKNOWN, f"{one['precision']} is chosen, not timed: {why}."
    change = ratio(speed.get("p50_ms"), theirs.get("p50_ms"))
    head = f"{one['precision']} answers in {figure(speed['p50_ms'], 'ms')} (p50)"
    parts = [head]
    if change is None:
        said = one.get("why_no_champion") or f"the champion was not timed at {one['ranked_by']}"
        parts.append(f"not compared: {said}")
    else:
        parts = [f"{head}, {_faster(change, str(mapping(one['champion']).get('version')))}"]
    cost, before = one.get("cost_per_million"), mapping(one.get("champion")).get("cost_per_million")
    if known(cost):
        parts.append(f"a million rows cost {figure(cost)}{_dearer(ratio(cost, before))}")
    return (ALONE if change is None else tone(change)), "; ".join(parts) + "."


def _faster(change: float, version: str) -> str:
    if abs(change - 1) <= SAME:
        return f"as fast as version {version} ({times(change)})"
    return f"{abs(1 - change) * 100:.0f} % {'less' if change < 1 else 'more'} than version {version}"


def _dearer(change: float | None) -> str:
    if change is None:
        return ""
    if abs(change - 1) <= SAME:
        return ", as before"
    return f", {abs(1 - change) * 100:.0f} % {'less' if change < 1 else 'more'}"


def includes(one: Mapping[str, Any]) -> str:
    """What the timings of an engine include, in words."""
    if not one.get("timings"):
        return ""
    found = one.get("includes")
    if found is None and str(one.get("backend", "")).startswith("onnxruntime"):
        return (
            "Timings are of the whole call. A CPU target has no transfers, no CUDA graph and no second clock."
        )
    if not isinstance(found, Mapping):
        return "The report does not say what its timings include."
    return " ".join(text[bool(found.get(name))] for name, text in _INCLUDES.items())


_INCLUDES: Final = {
    "transfers": (
        "Host time is without the copies of inputs and outputs to and from the GPU.",
        "Host time includes the copies of inputs to the GPU and of outputs back.",
    ),
    "cuda_graph": (
        "Each run launches its kernels one by one.",
        "Each run replays one CUDA graph, so launching kernels takes next to no time.",
    ),
    "spin": (
        "The host sleeps until the GPU is done, which adds the time to wake up.",
        "The host spins until the GPU is done, so waking up takes no time, and a core is busy.",
    ),
}


def shapes(timings: Mapping[str, Any]) -> list[str]:
    """The shapes, smallest first by their sizes in order."""
    return sorted(timings, key=lambda shape: [int(size) for size in re.findall(r"=(\d+)", shape)])


def axes(names: Iterable[str]) -> str:
    """`batch x sequence` of `batch=8 sequence=128`; empty when the shapes do not agree."""
    found = {f" {TIMES} ".join(re.findall(r"(\S+)=\d+", shape)) for shape in names}
    return found.pop() if len(found) == 1 else ""


def short(shape: str) -> str:
    """`8 x 128` of `batch=8 sequence=128`."""
    return f" {TIMES} ".join(re.findall(r"=(\d+)", shape)) or shape


def device(one: Mapping[str, Any]) -> str:
    """The machine that the engine was built on, which is the one that timed it if it was timed."""
    found, threads = mapping(one.get("device")), one.get("threads")
    cpu = str(one.get("backend", "")).startswith("onnxruntime")
    parts = (
        str(found.get("name") or ""),
        f"{found['sm_count']} SMs" if found.get("sm_count") else "",
        f"driver {found['driver']}" if found.get("driver") else "",
        f"CUDA {found['cuda']}" if found.get("cuda") else "",
        f"{threads} thread{'s' if threads != 1 else ''}" if threads and cpu else "",
    )
    return ", ".join(filter(None, parts)) or DASH
