"""Forecasts: right where the future is like the past, unknown where nothing can be said."""

import math

import pytest

from sluice.coins import no_harm_odds
from sluice.evalues import bernoulli_log_e, coin_log_e
from sluice.forecast import latest, soonest, until_evidence, until_users
from sluice.objective import rates_below


@pytest.mark.parametrize(
    ("have", "need", "elapsed_s", "wanted"),
    [
        (10, 77, 20.0, 134.0),
        (77, 77, 20.0, 0.0),
        (0, 77, 20.0, None),
        (10, None, 20.0, None),
        (10, 77, 0.0, None),
        (10, 77, -3.0, None),
    ],
)
def test_until_users(have, need, elapsed_s, wanted):
    assert until_users(have, need, elapsed_s) == wanted


def test_until_evidence_is_when_the_grown_counts_reach_the_bar():
    """100 users in 10 s without a failure: about 1 263 are needed."""
    rates, level = rates_below(0.005), -math.log(0.005)

    def log_e_at(times: float) -> float:
        return bernoulli_log_e(0, 100 * times, 0.005, rates)

    need = next(n for n in range(1, 5000) if bernoulli_log_e(0, n, 0.005, rates) >= level)
    found = until_evidence(log_e_at, level, 10.0)
    assert found is not None
    assert math.isclose(found, (need - 100) / 10, rel_tol=0.03)


def test_evidence_that_does_not_grow_has_no_forecast():
    odds = no_harm_odds(2.0)
    assert until_evidence(lambda times: coin_log_e([(0.5, 30 * times, 30 * times)], odds), 5.0, 10.0) is None
    assert until_evidence(lambda times: 0.0, 5.0, 10.0) is None
    assert until_evidence(lambda times: math.nan, 5.0, 10.0) is None


def test_evidence_that_is_there_needs_no_time():
    assert until_evidence(lambda times: 6.0, 5.0, 0.0) == 0.0
    assert until_evidence(lambda times: 4.0, 5.0, 0.0) is None


def test_of_two_ways_the_sooner_and_of_all_conditions_the_last():
    assert soonest([None, 3.0, 5.0]) == 3.0
    assert soonest([None]) is None
    assert latest([1.0, 3.0]) == 3.0
    assert latest([1.0, None]) is None
    assert latest([]) == 0.0
