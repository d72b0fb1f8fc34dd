"""How often a request is slower than each of the slow limits, before and after a fault of a given shape.

Problem: a latency fault is a change of a distribution, and what the verdict sees of it are exceedances of four
frozen limits. Invariant: both are computed from one lognormal distribution, so a fault never changes the limits.
"""

from functools import lru_cache
from math import exp, log
from typing import Final

from scipy.special import ndtr, ndtri

MEDIAN_MS: Final = 50.0
FACTOR: Final = 1.5
TAIL_FACTOR: Final = 2.0
ADDED_MS: Final = 500.0
ADDED_SHARE: Final = 0.02
SHAPES: Final = ("all x1.5", "slowest 5 % x1.5", "slowest 1 % x2", "2 % +500 ms")


@lru_cache(maxsize=32)
def limits_ms(sigma: float) -> tuple[float, float, float, float]:
    """p95, p99, 1.25 x p99 and 1.5 x p99 of a lognormal latency; sigma > 0 of its logarithm. Milliseconds."""
    p95, p99 = (MEDIAN_MS * exp(sigma * float(ndtri(share))) for share in (0.95, 0.99))
    return p95, p99, 1.25 * p99, 1.5 * p99


@lru_cache(maxsize=64)
def exceedances(sigma: float, shape: str | None = None) -> tuple[float, ...]:
    """Share of requests above each limit, widest last, so the four never rise. shape: of SHAPES, None for no fault."""
    limits = limits_ms(sigma)
    p95, p99 = limits[:2]

    def above(ms: float) -> float:
        return 1.0 if ms <= 0 else float(ndtr(-log(ms / MEDIAN_MS) / sigma))

    def after(limit: float) -> float:
        if shape is None:
            return above(limit)
        if shape == SHAPES[0]:
            return above(limit / FACTOR)
        if shape == SHAPES[1]:
            return above(max(p95, limit / FACTOR)) + max(0.0, above(limit) - above(p95))
        if shape == SHAPES[2]:
            return above(max(p99, limit / TAIL_FACTOR)) + max(0.0, above(limit) - above(p99))
        if shape == SHAPES[3]:
            return (1 - ADDED_SHARE) * above(limit) + ADDED_SHARE * above(limit - ADDED_MS)
        raise ValueError(f"shape {shape!r}: one of {', '.join(SHAPES)}")

    return tuple(after(limit) for limit in limits)
