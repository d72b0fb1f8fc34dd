"""The candidate's own rate: false "below" and false "above" are rare however often one looks."""

import random
from itertools import pairwise

import pytest
from scipy.stats import binom

from sluice.evidence import Baseline, Kind, ObjectiveCount
from sluice.objective import rates_above, rates_below, shown_above, shown_below, watch_limits

FAILURE = Kind.FAILURE


def _below(ok: int, bad: int, limit: float = 0.005, level: float = 0.005) -> bool:
    rows = (ObjectiveCount(kind=FAILURE, ok=ok, bad=bad),)
    return shown_below(rows, {FAILURE: limit}, level)[FAILURE].crossed


def _above(ok: int, bad: int, limit: float = 0.05, level: float = 0.005) -> bool:
    rows = (ObjectiveCount(kind=FAILURE, ok=ok, bad=bad),)
    (reading,) = shown_above(rows, {FAILURE: limit}, {FAILURE: level})[FAILURE]
    return reading.crossed


def test_a_service_without_failures_is_shown_below_its_objective_after_some_hundred_users():
    assert not _below(1000, 0)
    assert _below(1300, 0)
    assert not _below(1300, 6)


def test_no_users_show_nothing():
    assert not _below(0, 0)
    assert not _above(0, 0)
    assert shown_below((), {FAILURE: 0.005}, 0.005) == {}


def _ever(rate: float, seed: int, limit: float, level: float, *, peek: bool = False) -> bool:
    """Whether 400 users of this rate are ever shown below the limit, looked at after every tenth.

    peek: the broken twin, a fixed-sample binomial test at each look.
    """
    rng = random.Random(seed)
    bad = 0
    for users in range(1, 401):
        bad += rng.random() < rate
        if users % 10 == 0 and (
            binom.cdf(bad, users, limit) <= level if peek else _below(users - bad, bad, limit, level)
        ):
            return True
    return False


LEVEL, PATHS = 0.1, 300
MOST = binom.ppf(1 - 1e-6, PATHS, LEVEL)  # slack: one in a million


def test_a_rate_at_the_objective_is_rarely_shown_below_it():
    assert 0 < sum(_ever(0.05, seed, 0.05, LEVEL) for seed in range(PATHS)) <= MOST


def test_peeking_at_a_fixed_sample_test_shows_it_far_more_often():
    """The broken twin, against the same bound."""
    assert sum(_ever(0.05, seed, 0.05, LEVEL, peek=True) for seed in range(PATHS)) > MOST


def test_a_rate_far_above_the_limit_is_shown():
    assert _above(ok=170, bad=30)
    assert not _above(ok=950, bad=50)


@pytest.mark.parametrize("limit", [0.0001, 0.005, 0.05, 0.5, 0.99])
def test_mixed_rates_are_on_their_side_of_the_limit(limit):
    assert all(0 <= rate < limit for rate in rates_below(limit))
    assert all(limit < rate < 1 for rate in rates_above(limit))
    assert all(a < b for rates in (rates_below(limit), rates_above(limit)) for a, b in pairwise(rates))


def test_the_watch_allows_rho0_times_what_stable_had():
    objectives = {FAILURE: 0.005, Kind.SLOW_P95: 0.05}
    baselines = (Baseline(kind=FAILURE, rate=0.02), Baseline(kind=Kind.SLOW_P95, rate=0.01))
    assert watch_limits(objectives, baselines, 2.0) == {FAILURE: 0.04, Kind.SLOW_P95: 0.05}
    assert watch_limits(objectives, (), 2.0) == objectives
    assert watch_limits({FAILURE: 0.005}, (Baseline(kind=FAILURE, rate=1.0),), 2.0) == {FAILURE: 0.99}
