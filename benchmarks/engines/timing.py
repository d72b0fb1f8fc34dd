"""One side's run times at one shape, summed up."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

RUNS_MIN: Final = 5  # whatever the budget says: fewer say nothing


def timed(
    run: Callable[[Any], Any],
    feed: Mapping[str, np.ndarray],
    *,
    warm: int,
    runs: int,
    budget_s: float,
    least: int = RUNS_MIN,
) -> dict[str, Any]:
    """Warm, then time `runs` runs, as `summary` has them; both end after budget_s, though not before `least` runs."""
    _repeat(run, feed, warm, budget_s, least)
    return summary(_repeat(run, feed, runs, budget_s, least), rows=len(next(iter(feed.values()))))


def summary(taken_ms: Sequence[float], *, rows: int) -> dict[str, Any]:
    """{n, mean_ms, p50_ms, p90_ms, p99_ms, rows_per_s}; rows_per_s by the mean. ValueError without a run."""
    if not taken_ms:
        raise ValueError("no run was measured")
    ms = np.asarray(taken_ms, dtype=np.float64)
    p50, p90, p99 = (float(value) for value in np.percentile(ms, (50, 90, 99)))
    mean = float(ms.mean())
    return {
        "n": len(ms),
        "mean_ms": mean,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "rows_per_s": rows * 1000.0 / mean,
    }


def _repeat(run: Callable[[Any], Any], feed: Any, times: int, budget_s: float, least: int) -> list[float]:
    taken: list[float] = []
    end = time.monotonic() + budget_s
    while len(taken) < times and (len(taken) < min(times, least) or time.monotonic() < end):
        start = time.perf_counter_ns()
        run(feed)
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken
