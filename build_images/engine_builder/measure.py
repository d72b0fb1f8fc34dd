"""How fast the candidates are, one beside the other.

Problem: measured one after the other, the candidate that ran while a neighbour was busy loses. Invariants: the
candidates take turns within every round, each warmed before; a measurement has its n beside it; the time is
bounded, since a build runs beside live traffic.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from build_images.engine_builder.runs import Feed, Run

WARM_UP: Final = 3
ROUNDS_MIN: Final = 10  # even when that takes longer than the budget: fewer say nothing
ROUNDS_MAX: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Of one candidate at one shape, from numpy array to numpy array, in ms. n: measured runs.

    rows_per_s: batch rows answered per second, by the mean. device_*: of the kernels alone, and gpu_utilisation the
    share of the time in which they ran, 0 to 1; None where there is no GPU.
    """

    n: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    rows_per_s: float
    device_mean_ms: float | None = None
    device_p50_ms: float | None = None
    device_p99_ms: float | None = None
    gpu_utilisation: float | None = None

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
    return {
        name: timing([value / 1e6 for value in values], rows_of(feed)) for name, values in taken_ns.items()
    }


def rows_of(feed: Feed) -> int:
    """Size of the batch."""
    return int(next(iter(feed.values())).shape[0])


def timing(host_ms: Sequence[float], rows: int, device_ms: Sequence[float] = ()) -> Timing:
    """Summary of run times in ms. ValueError without any, on one that is no time, on another number of device times."""
    if not host_ms:
        raise ValueError("no run was measured")
    ms = np.asarray(host_ms, dtype=np.float64)
    if not (np.isfinite(ms) & (ms > 0)).all():
        raise ValueError(f"a run took {ms[~(np.isfinite(ms) & (ms > 0))][0]} ms")
    p50, p90, p95, p99 = (float(value) for value in np.percentile(ms, (50, 90, 95, 99)))
    return Timing(
        n=len(ms),
        mean_ms=float(ms.mean()),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        rows_per_s=float(rows * 1000.0 / ms.mean()),
        **_device(ms, device_ms),
    )


def _device(host_ms: np.ndarray, device_ms: Sequence[float]) -> dict[str, float]:
    if not device_ms:
        return {}
    if len(device_ms) != len(host_ms):
        raise ValueError(f"{len(device_ms)} device times for {len(host_ms)} runs")
    ms = np.asarray(device_ms, dtype=np.float64)
    if not (np.isfinite(ms) & (ms >= 0)).all():
        raise ValueError(f"kernels took {ms[~(np.isfinite(ms) & (ms >= 0))][0]} ms")
    return {
        "device_mean_ms": float(ms.mean()),
        "device_p50_ms": float(np.percentile(ms, 50)),
        "device_p99_ms": float(np.percentile(ms, 99)),
        "gpu_utilisation": min(1.0, float(ms.sum() / host_ms.sum())),
    }
