"""Blocks of traffic as one JSON object with what was promised and whether it holds. Pure.

Invariants: a pair is an off block and the on block of the same cycle; what is said of the promise follows from the
figures alone; too few or too short blocks leave it undecided, and blocks in which nothing was copied break it.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy import stats

OFF, ON, CONTROL = "off", "on", "control"
KINDS: Final = (OFF, ON, CONTROL)
BLOCKS, BLOCK_S, RATIO, SHARE = 20, 30.0, 1.05, 0.95
TARGET: Final = (
    "Mirroring 1 % of traffic: the 95 % interval of the paired client-p99 ratio over at least 20 alternating 30 s "
    "blocks includes 1.05 or less."
)

Block = Mapping[str, Any]  # n, failed, p50_ms, p99_ms, copies


def block(latencies_ms: Sequence[float], *, failed: int, copies: int) -> Block:
    """One block's figures. latencies_ms: of every request that was answered; copies: what the recorder got in it."""
    answered = bool(latencies_ms)
    return {
        "n": len(latencies_ms),
        "failed": failed,
        "p50_ms": round(float(np.quantile(latencies_ms, 0.5)), 3) if answered else None,
        "p99_ms": round(float(np.quantile(latencies_ms, 0.99)), 3) if answered else None,
        "copies": copies,
    }


def order(cycle: int) -> tuple[str, ...]:
    """Which block comes when: each kind is first, second and third equally often."""
    start = cycle % len(KINDS)
    return KINDS[start:] + KINDS[:start]


def interval(ratios: Sequence[float]) -> dict[str, Any]:
    """{pairs, mean, low, high}: the geometric mean and its 95 % interval (t, of the logarithms); null below 2 pairs."""
    if len(ratios) < 2:
        return {"pairs": len(ratios), "mean": None, "low": None, "high": None}
    logs = [math.log(ratio) for ratio in ratios]
    mean, spread = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    half = float(stats.t.ppf(0.5 + SHARE / 2, len(logs) - 1)) * spread
    low, high = math.exp(mean - half), math.exp(mean + half)
    return {
        "pairs": len(ratios),
        "mean": round(math.exp(mean), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def ratios(cycles: Sequence[Mapping[str, Block]], kind: str, name: str) -> list[float]:
    """`kind` by off of each cycle in which both have the figure `name`."""
    pairs = [(cycle[kind][name], cycle[OFF][name]) for cycle in cycles]
    return [one / other for one, other in pairs if one is not None and other]


def result(
    hardware: Mapping[str, Any], cycles: Sequence[Mapping[str, Block]], **settings: Any
) -> dict[str, Any]:
    """{benchmark, hardware, n, figures, acceptance}. settings: percent, block_s, rate_rps."""
    figures = {
        **settings,
        "ratio": {name: interval(ratios(cycles, ON, name)) for name in ("p50_ms", "p99_ms")},
        "control": {name: interval(ratios(cycles, CONTROL, name)) for name in ("p50_ms", "p99_ms")},
        "requests": {kind: sum(cycle[kind]["n"] for cycle in cycles) for kind in KINDS},
        "failed": {kind: sum(cycle[kind]["failed"] for cycle in cycles) for kind in KINDS},
        "copies": {kind: sum(cycle[kind]["copies"] for cycle in cycles) for kind in KINDS},
        "cycles": list(cycles),
    }
    return {
        "benchmark": "mirroring",
        "hardware": dict(hardware),
        "n": {"cycles": len(cycles), "requests": sum(figures["requests"].values())},
        "figures": figures,
        "acceptance": [acceptance(figures)],
    }


def acceptance(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The one line of the promise."""
    found = figures["ratio"]["p99_ms"]
    line = {"id": "calibration.5", "target": TARGET, "value": found}
    if wrong := _wrong(figures):
        return {**line, "holds": False, "reason": wrong}
    if missing := _missing(figures, found):
        return {**line, "holds": None, "reason": missing}
    holds = found["low"] <= RATIO
    return {**line, "holds": holds} | ({} if holds else {"reason": f"all of the interval is above {RATIO}"})


def _wrong(figures: Mapping[str, Any]) -> str:
    """Why these blocks compare something else."""
    copies, failed = figures["copies"], figures["failed"]
    if figures["requests"][ON] and not copies[ON]:
        return "nothing was copied while mirroring was on"
    if copies[OFF] or copies[CONTROL]:
        return f"{copies[OFF] + copies[CONTROL]} requests were copied while mirroring was off"
    if failed[ON] > failed[OFF] + failed[CONTROL]:
        return f"{failed[ON]} requests failed while mirroring was on, {failed[OFF] + failed[CONTROL]} while it was off"
    return ""


def _missing(figures: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    blocks = 2 * found["pairs"]
    if blocks < BLOCKS or figures["block_s"] < BLOCK_S:
        return f"{blocks} alternating blocks of {figures['block_s']:g} s, wanted {BLOCKS} of {BLOCK_S:g} s"
    return "" if figures["percent"] == 1 else f"{figures['percent']:g} % were mirrored, wanted 1"
