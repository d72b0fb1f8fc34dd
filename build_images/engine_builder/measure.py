"""How fast the candidates are, one beside the other.

Problem: measured one after the other, the candidate that ran while a neighbour was busy loses. Invariants: the
candidates take turns within every round, each warmed before; a measurement has its n beside it; the time is
bounded, since a build runs beside live traffic.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from build_images.engine_builder.backend import Feed, Run

WARM_UP: Final = 3
ROUNDS_MIN: Final = 10  # even when that takes longer than the budget: fewer say nothing
ROUNDS_MAX: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Of one candidate at one shape. n: measured runs. rows_per_s: batch rows answered per second, by the mean."""

    n: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    rows_per_s: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def measure(candidates: Mapping[str, Run], feed: Feed, *, budget_s: float) -> dict[str, Timing]:
    """Time every candidate on the same bytes. budget_s: of all together, kept after ROUNDS_MIN rounds."""
    for run in candidates.values():
        for _ in range(WARM_UP):
            run(feed)
    taken_ns: dict[str, list[int]] = {name: [] for name in candidates}
    names = list(candidates)
    end = time.monotonic() + budget_s
    for number in range(ROUNDS_MAX):
        if number >= ROUNDS_MIN and time.monotonic() > end:
            break
        for name in (*names[number % len(names) :], *names[: number % len(names)]):  # nobody is always first
            start = time.perf_counter_ns()
            candidates[name](feed)
            taken_ns[name].append(time.perf_counter_ns() - start)
    rows = next(iter(feed.values())).shape[0]
    return {name: timing(values, rows) for name, values in taken_ns.items()}


def timing(taken_ns: list[int], rows: int) -> Timing:
    """Summary of run times in nanoseconds. ValueError without any."""
    if not taken_ns:
        raise ValueError("no run was measured")
    ms = np.asarray(taken_ns, dtype=np.float64) / 1e6
    return Timing(
        n=len(ms),
        mean_ms=float(ms.mean()),
        p50_ms=float(np.percentile(ms, 50)),
        p99_ms=float(np.percentile(ms, 99)),
        rows_per_s=float(rows * 1000.0 / ms.mean()),
    )
