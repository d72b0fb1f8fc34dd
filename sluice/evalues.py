"""E-values of coins with known bias and of Bernoulli trials, in logarithms.

Problem: the gates are looked at several times a second, so the evidence must be valid whenever one looks.

Invariant: under its null hypothesis every e-value here is a non-negative (super)martingale that starts at 1,
so the chance that it ever reaches 1/alpha is at most alpha (Ville 1939). Everything is a function of counts,
and sums of exponentials are taken by log-sum-exp, so no count overflows.

Coins. A coin of bias b (its chance of heads under the null) has, when the odds are multiplied by rho, the
chance p = rho b / (1 - b + rho b). Its likelihood ratio is p/b for heads and (1-p)/(1-b) for tails; with
s = 1 + (rho-1) b that is rho/s and 1/s. Its mean under the null is b rho/s + (1-b)/s = 1, so the product over
coins is a martingale for each rho, and so is any fixed mixture over rho. The product depends on the numbers
of heads and tails per bias alone, not on the order.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import exp, inf, isfinite, log, log1p

from sluice.errors import FatalError

Counts = tuple[float, float, float]  # bias in [0, 1], heads >= 0, tails >= 0


def log_mean_exp(values: Sequence[float]) -> float:
    """log of the mean of exp(values); values may be -inf, not empty, never NaN or +inf."""
    top = max(values)
    if top == -inf:
        return -inf
    return top + log(sum(exp(value - top) for value in values) / len(values))


def coin_log_e(coins: Iterable[Counts], odds: tuple[float, ...]) -> float:
    """log e-value of "the odds are multiplied by one of `odds`" against "the bias is as stated".

    odds: each > 0, mixed with equal weights. Raises FatalError for counts that the bias makes impossible.
    """
    return log_mean_exp(coin_log_ratios(coins, odds))


def coin_log_ratios(coins: Iterable[Counts], odds: tuple[float, ...]) -> list[float]:
    """log likelihood ratio of each of `odds`, in their order; zeros for no coins."""
    heads_in_all = 0.0
    spent = [0.0] * len(odds)
    for bias, heads, tails in coins:
        check_counts(bias, heads, tails)
        heads_in_all += heads
        tosses = heads + tails
        for index, log_scale in enumerate(_log_scales(bias, odds)):
            spent[index] += tosses * log_scale
    return [heads_in_all * log_odds - paid for log_odds, paid in zip(_logs(odds), spent, strict=True)]


def mixed_strata_log_e(strata: Sequence[Sequence[Counts]], odds: tuple[float, ...]) -> float:
    """log of the mean of the pooled e-value and of the average over strata.

    strata: the coins of each stratum; a stratum without coins counts as 1, so the list must name every
    stratum from the start. A mean of martingales with fixed weights is a martingale. The pooled one finds
    what is wrong everywhere, the average what is wrong in one place.
    """
    if not strata:
        return 0.0
    ratios = [coin_log_ratios(coins, odds) for coins in strata]
    pooled = log_mean_exp([sum(column) for column in zip(*ratios, strict=True)])
    if len(strata) == 1:
        return pooled  # both halves are the same number
    return log_mean_exp([pooled, log_mean_exp([log_mean_exp(row) for row in ratios])])


def bernoulli_log_e(bad: float, ok: float, limit: float, rates: tuple[float, ...]) -> float:
    """log e-value against "the rate is on the far side of `limit`", mixed over `rates`.

    bad, ok: numbers of trials, >= 0. limit: in (0, 1). rates: all below `limit` to show "below it" (the null
    is rate >= limit), or all above it to show "above it" (the null is rate <= limit); in [0, 1].

    Proof: one trial of chance p multiplies by q/limit with chance p and by (1-q)/(1-limit) otherwise. The mean
    is linear in p, 1 at p = limit, and falls (q < limit) or rises (q > limit) with p, so it is at most 1 on
    all of the null. That holds as well when p varies from trial to trial on the null's side.
    """
    if not (0 < limit < 1 and bad >= 0 and ok >= 0 and isfinite(bad + ok)):
        raise FatalError(
            f"bad {bad!r}, ok {ok!r}, limit {limit!r} are no trials", "send counts and a rate in (0, 1)"
        )
    return log_mean_exp([_bernoulli_log_ratio(bad, ok, limit, rate) for rate in rates])


def check_counts(bias: float, heads: float, tails: float) -> None:
    """Raise FatalError unless these are counts of a coin of this bias. NaN never is."""
    if not (0 <= bias <= 1 and 0 <= heads < inf and 0 <= tails < inf):
        raise FatalError(f"bias {bias!r}, heads {heads!r}, tails {tails!r} are no coins", "count them again")
    if (bias == 0 and heads > 0) or (bias == 1 and tails > 0):
        raise FatalError(f"bias {bias!r} cannot give {heads!r} heads, {tails!r} tails", "check the hash line")


def _bernoulli_log_ratio(bad: float, ok: float, limit: float, rate: float) -> float:
    gained = 0.0
    if bad:
        gained += bad * (log(rate / limit) if rate > 0 else -inf)
    if ok:
        gained += ok * (log1p(-rate) - log1p(-limit) if rate < 1 else -inf)
    return gained


@lru_cache(maxsize=512)
def _log_scales(bias: float, odds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(log1p((rho - 1) * bias) for rho in odds)


@lru_cache(maxsize=16)
def _logs(odds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(log(rho) for rho in odds)
