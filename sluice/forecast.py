"""How long a hold will last if things go on as they do.

Problem: "hold" without a time makes people open gates by hand. Invariant: a forecast is None (unknown) rather
than a guess when nothing arrives or the evidence does not grow; it never enters a verdict's action.
"""

from collections.abc import Callable, Iterable
from typing import Final

MOST_TIMES: Final = 4096.0  # the evidence so far, times this: beyond it is "unknown"
STEPS: Final = 8  # of bisection: within 1 % of the time elapsed


def until_users(have: int, need: int | None, elapsed_s: float) -> float | None:
    """Seconds until `need` users at the rate seen so far; 0 when they are there, None when nobody comes.

    Users come more slowly as the pool of unseen ones empties, so this is a lower bound in a small service.
    """
    if need is None:
        return None
    if have >= need:
        return 0.0
    if have <= 0 or elapsed_s <= 0:
        return None
    return (need - have) * elapsed_s / have


def until_evidence(log_e_at: Callable[[float], float], bar: float, elapsed_s: float) -> float | None:
    """Seconds until the log e-value reaches its bar if the counts keep growing in their present proportions.

    log_e_at: the log e-value of the counts times a factor >= 1.
    """
    if log_e_at(1.0) >= bar:
        return 0.0
    if elapsed_s <= 0:
        return None
    high = 2.0
    while not log_e_at(high) >= bar:
        high *= 2
        if high > MOST_TIMES:
            return None
    low = high / 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if log_e_at(middle) >= bar else (middle, high)
    return (high - 1) * elapsed_s


def soonest(forecasts: Iterable[float | None]) -> float | None:
    """Of conditions of which one suffices; unknown only if all are."""
    known = [forecast for forecast in forecasts if forecast is not None]
    return min(known) if known else None


def latest(forecasts: Iterable[float | None]) -> float | None:
    """Of conditions that must all hold; unknown if one is, 0 for none."""
    most = 0.0
    for forecast in forecasts:
        if forecast is None:
            return None
        most = max(most, forecast)
    return most
