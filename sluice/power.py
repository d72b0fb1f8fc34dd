"""The power floor: how many candidate users a stage must have seen before it may pass.

Problem: a quiet stage passes every test that looks for harm. Invariant: no stage passes before so many candidate
users were seen that a plainly bad version would have been called harm with probability POWER.

Plainly bad: ten times stable's event rate, or 5 % of users, whichever is more. The rate is per user, and a user
has one request or more, so a version that fails 5 % of *requests* is seen at least as surely.

The computation is exact in the candidate's part: with n candidate users the number of heads is Bin(n, rate);
tails are set to their mean, n (1-w)/w times stable's rate; the floor is the least n (found by bisection; it is
exact without stable events) for which P(heads reach the bar) >= POWER. A rate above MOST_RATE stands for users
who all had an event sooner or later: ten times as many have none, so that is the most that is asked for.
"""

from collections.abc import Callable
from functools import lru_cache
from math import log10
from typing import Final

from scipy.special import bdtrc

from sluice.evalues import bernoulli_log_e, coin_log_e

POWER: Final = 0.9
WORSE: Final = 10.0  # times stable's rate
AT_LEAST: Final = 0.05
MOST_RATE: Final = 0.1
MOST_USERS: Final = 10_000_000


def stage_floor(share: float, stable_rate: float, level: float, odds: tuple[float, ...]) -> int | None:
    """Candidate users needed in a stage of this share; None when MOST_USERS are not enough.

    share: of the hash line, in (0, 1). stable_rate: users with an event among stable's, 0 to 1; rounded up to two
    digits, so that results can be kept. level: what the log e-value must reach.
    """
    return _stage_floor(share, min(_rounded_up(stable_rate), MOST_RATE), round(level, 3), odds)


@lru_cache(maxsize=512)
def watch_floor(limit: float, level: float, rates: tuple[float, ...]) -> int | None:
    """Users needed at 100 %: ten times the limit, or 5 %, would be shown above the limit. limit in (0, 1)."""
    worse = min(max(WORSE * limit, AT_LEAST), 1.0)

    def reached(users: int, bad: int) -> bool:
        return bernoulli_log_e(bad, users - bad, limit, rates) >= level

    return _least_users(worse, reached)


@lru_cache(maxsize=16_384)
def _stage_floor(share: float, rate: float, level: float, odds: tuple[float, ...]) -> int | None:
    worse = min(max(WORSE * rate, AT_LEAST), 1.0)
    tails_per_user = rate * (1 - share) / share

    def reached(users: int, heads: int) -> bool:
        return coin_log_e([(share, heads, users * tails_per_user)], odds) >= level

    return _least_users(worse, reached)


def _least_users(rate: float, reached: Callable[[int, int], bool]) -> int | None:
    """The least n with P(Bin(n, rate) >= k(n)) >= POWER, where k(n) is the least count that is `reached`."""

    def enough(users: int) -> bool:
        if not reached(users, users):
            return False
        least = _first(lambda count: reached(users, count), users)
        return least == 0 or float(bdtrc(least - 1, users, rate)) >= POWER

    most = 1
    while not enough(most):
        most *= 2
        if most > MOST_USERS:
            return None
    return _first(enough, most)


def _first(holds: Callable[[int], bool], known: int) -> int:
    """The least whole number >= 0 for which `holds`, given that it holds for `known` and above."""
    low, high = -1, known
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _rounded_up(rate: float) -> float:
    """To two significant digits, never less than it was; 0 stays 0."""
    if rate <= 0:
        return 0.0
    digits = 1 - int(log10(rate) // 1)
    rounded = round(rate, digits)
    return rounded if rounded >= rate else round(rounded + 10.0**-digits, digits)
