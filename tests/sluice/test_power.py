"""The power floor against a binomial sum written out, and against simulation of its own claim."""

import math
import random

import pytest

from sluice.coins import HARM_ODDS, bar
from sluice.evalues import bernoulli_log_e, coin_log_e
from sluice.objective import rates_above
from sluice.power import AT_LEAST, POWER, stage_floor, watch_floor

LEVELS = {share: bar(0.01 / 2, process) for process, share in enumerate((0.01, 0.05, 0.5))}


def _chance_of_harm(users: int, share: float, rate: float, level: float) -> float:
    """P(harm) with this many candidate users and no event of stable's: every number of heads, added up."""
    return sum(
        math.comb(users, heads) * rate**heads * (1 - rate) ** (users - heads)
        for heads in range(users + 1)
        if coin_log_e([(share, heads, 0)], HARM_ODDS) >= level
    )


@pytest.mark.parametrize("share", LEVELS)
def test_the_floor_is_the_least_number_with_the_power(share):
    need = stage_floor(share, 0.0, LEVELS[share], HARM_ODDS)
    assert need is not None
    assert _chance_of_harm(need, share, AT_LEAST, LEVELS[share]) >= POWER
    assert _chance_of_harm(need - 1, share, AT_LEAST, LEVELS[share]) < POWER


def test_what_the_floor_costs_with_the_default_gates():
    """The figures that the forecast states before a rollout starts."""
    assert [stage_floor(share, 0.0, level, HARM_ODDS) for share, level in LEVELS.items()] == [77, 105, 353]


def test_the_power_holds_in_simulation_also_when_stable_has_events():
    share, stable_rate, level = 0.05, 0.004, LEVELS[0.05]
    need = stage_floor(share, stable_rate, level, HARM_ODDS)
    assert need is not None
    rng = random.Random(3)
    others = round(need * (1 - share) / share)
    called = 0
    for _ in range(300):
        heads = sum(rng.random() < AT_LEAST for _ in range(need))
        tails = sum(rng.random() < stable_rate for _ in range(others))
        called += coin_log_e([(share, heads, tails)], HARM_ODDS) >= level
    assert called / 300 > POWER - 0.06


def test_ten_times_a_high_rate_is_seen_sooner_than_five_percent():
    level = LEVELS[0.01]
    floors = [stage_floor(0.01, rate, level, HARM_ODDS) for rate in (0.005, 0.02, 0.1)]
    assert floors == sorted(floors, reverse=True)
    assert stage_floor(0.01, 0.1, level, HARM_ODDS) == stage_floor(0.01, 0.9, level, HARM_ODDS)


def test_the_watch_floor_is_the_least_number_with_the_power():
    limit, level = 0.005, -math.log(0.005)
    rates = rates_above(limit)
    need = watch_floor(limit, level, rates)
    assert need is not None

    def chance(users: int) -> float:
        return sum(
            math.comb(users, bad) * 0.05**bad * 0.95 ** (users - bad)
            for bad in range(users + 1)
            if bernoulli_log_e(bad, users - bad, limit, rates) >= level
        )

    assert chance(need) >= POWER
    assert chance(need - 1) < POWER


def test_a_floor_that_no_number_of_users_reaches_is_none():
    """Odds that look for a better version never call a worse one harm."""
    assert stage_floor(0.5, 0.0, 5.0, (0.5,)) is None
