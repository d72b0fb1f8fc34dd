"""One side's run times at one shape, summed up."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from build_images.engine_builder.measure import timing

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
    """The builder's own `Timing` of them, without what only a device tells. ValueError without a run."""
    return {name: value for name, value in timing(taken_ms, rows).to_dict().items() if value is not None}


def _repeat(run: Callable[[Any], Any], feed: Any, times: int, budget_s: float, least: int) -> list[float]:
    taken: list[float] = []
    end = time.monotonic() + budget_s
    while len(taken) < times and (len(taken) < min(times, least) or time.monotonic() < end):
        start = time.perf_counter_ns()
        run(feed)
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken
