"""E-values against brute force: every path of a small game, added up."""

import math
from itertools import product

import pytest

from sluice.errors import FatalError
from sluice.evalues import bernoulli_log_e, coin_log_e, log_mean_exp, mixed_strata_log_e

ODDS = (1.5, 3.0, 50.0, 1000.0)
LOW_ODDS = (0.66, 0.5, 0.25, 0.06)


def _naive_coin_e(tosses: list[tuple[float, bool]], odds: tuple[float, ...]) -> float:
    """The mean over odds of the product of likelihood ratios, toss by toss."""
    total = 0.0
    for rho in odds:
        ratio = 1.0
        for bias, heads in tosses:
            chance = rho * bias / (1 - bias + rho * bias)
            ratio *= chance / bias if heads else (1 - chance) / (1 - bias)
        total += ratio / len(odds)
    return total


def _counts(tosses: list[tuple[float, bool]]) -> list[tuple[float, float, float]]:
    return [
        (bias, sum(h for b, h in tosses if b == bias), sum(not h for b, h in tosses if b == bias))
        for bias in sorted({bias for bias, _ in tosses})
    ]


@pytest.mark.parametrize("odds", [ODDS, LOW_ODDS])
def test_coins_equal_the_naive_product_whatever_the_order(odds):
    for sides in product((True, False), repeat=6):
        tosses = list(zip((0.01, 0.5, 0.01, 0.2, 0.5, 0.2), sides, strict=True))
        assert math.isclose(
            math.exp(coin_log_e(_counts(tosses), odds)), _naive_coin_e(tosses, odds), rel_tol=1e-9
        )


@pytest.mark.parametrize("odds", [ODDS, LOW_ODDS])
def test_the_expectation_of_coins_over_all_paths_is_exactly_1(odds):
    biases = (0.01, 0.04 / 0.99, 0.5, 0.01, 0.5)
    mean = 0.0
    for sides in product((True, False), repeat=len(biases)):
        tosses = list(zip(biases, sides, strict=True))
        chance = math.prod(b if heads else 1 - b for b, heads in tosses)
        mean += chance * math.exp(coin_log_e(_counts(tosses), odds))
    assert math.isclose(mean, 1.0, rel_tol=1e-12)


def test_the_expectation_over_strata_is_exactly_1_also_with_an_empty_stratum():
    biases = {"a": (0.1, 0.1), "b": (0.5, 0.3), "c": ()}
    flat = [(arch, bias) for arch, own in biases.items() for bias in own]
    mean = 0.0
    for sides in product((True, False), repeat=len(flat)):
        tosses = list(zip(flat, sides, strict=True))
        chance = math.prod(bias if heads else 1 - bias for (_, bias), heads in tosses)
        strata = [_counts([(b, h) for (arch, b), h in tosses if arch == name]) for name in biases]
        mean += chance * math.exp(mixed_strata_log_e(strata, ODDS))
    assert math.isclose(mean, 1.0, rel_tol=1e-12)


def test_strata_mix_the_pooled_e_value_with_the_average():
    strata = [[(0.1, 3.0, 1.0)], [(0.5, 1.0, 4.0)]]
    pooled = math.exp(coin_log_e([count for own in strata for count in own], ODDS))
    apart = sum(math.exp(coin_log_e(own, ODDS)) for own in strata) / 2
    assert math.isclose(math.exp(mixed_strata_log_e(strata, ODDS)), (pooled + apart) / 2, rel_tol=1e-12)


def test_a_local_fault_is_seen_by_the_average_where_pooling_drowns_it():
    """All ten heads are on one of four architectures; the other three are quietly fine."""
    local = [[(0.5, 12.0, 0.0)], *([[(0.5, 20.0, 20.0)]] * 3)]
    pooled = coin_log_e([count for own in local for count in own], ODDS)
    assert mixed_strata_log_e(local, ODDS) > pooled + 2


@pytest.mark.parametrize(("true_rate", "most"), [(0.05, 1.0), (0.3, 1.0), (1.0, 1.0)])
def test_below_the_limit_has_expectation_at_most_1_when_the_rate_is_not(true_rate, most):
    rates, limit = (0.0, 0.01, 0.03), 0.05
    means = [
        sum(
            math.comb(n, bad)
            * true_rate**bad
            * (1 - true_rate) ** (n - bad)
            * math.exp(bernoulli_log_e(bad, n - bad, limit, rates))
            for bad in range(n + 1)
        )
        for n in range(1, 12)
    ]
    assert max(means) <= most + 1e-12
    assert true_rate != limit or math.isclose(means[-1], 1.0, rel_tol=1e-9)


def test_above_the_limit_has_expectation_at_most_1_when_the_rate_is_not():
    for true_rate in (0.0, 0.02, 0.05):
        for n in range(1, 12):
            mean = sum(
                math.comb(n, bad)
                * true_rate**bad
                * (1 - true_rate) ** (n - bad)
                * math.exp(bernoulli_log_e(bad, n - bad, 0.05, (0.1, 0.5, 0.9)))
                for bad in range(n + 1)
            )
            assert mean <= 1 + 1e-12


def test_huge_counts_neither_overflow_nor_vanish():
    assert coin_log_e([(0.5, 1e9, 0.0)], ODDS) > 1e8
    assert math.isfinite(coin_log_e([(0.01, 0.0, 1e12)], ODDS))
    assert math.isfinite(bernoulli_log_e(1e9, 1e9, 0.005, (0.0, 0.001)))
    assert log_mean_exp([-math.inf, -math.inf]) == -math.inf
    assert math.isclose(log_mean_exp([1e6, -math.inf]), 1e6 - math.log(2))


def test_no_coins_say_nothing():
    assert coin_log_e([], ODDS) == 0.0
    assert mixed_strata_log_e([], ODDS) == 0.0
    assert mixed_strata_log_e([[], []], ODDS) == 0.0


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param((0.0, 1, 0), id="heads-of-a-coin-that-has-none"),
        pytest.param((1.0, 0, 1), id="tails-of-a-coin-that-has-none"),
        pytest.param((math.nan, 1, 1), id="bias-nan"),
        pytest.param((0.5, math.nan, 1), id="heads-nan"),
        pytest.param((0.5, -1, 1), id="heads-negative"),
        pytest.param((0.5, 1, math.inf), id="tails-infinite"),
        pytest.param((1.5, 1, 1), id="bias-above-1"),
    ],
)
def test_impossible_counts_are_refused(counts):
    with pytest.raises(FatalError):
        coin_log_e([counts], ODDS)


@pytest.mark.parametrize(
    "trials", [(math.nan, 1, 0.1), (1, math.nan, 0.1), (1, 1, 0.0), (1, 1, math.nan), (-1, 1, 0.1)]
)
def test_impossible_trials_are_refused(trials):
    with pytest.raises(FatalError):
        bernoulli_log_e(*trials, (0.01,))
