"""E-values of a growing row of coins at many places at once: `sluice.evalues.mixed_strata_log_e` on arrays.

Invariant: the same counts give the same number to 1e-9; a test holds both against each other.
"""

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict.users import Floats

Codes = NDArray[np.int64]
MANY_HEADS = 32


class Odds:
    """A set of odds ratios on a line: what a head gains and what a toss of each bias costs, per ratio."""

    def __init__(self, odds: tuple[float, ...], biases: Floats) -> None:
        """biases: (strata, ways to have been seen)."""
        self.strata, self.ways = biases.shape
        self.least = float(biases.min())
        self.gain = np.log(np.array(odds))
        self.cost = np.log1p((np.array(odds) - 1) * biases.reshape(-1)[:, None])  # (codes, odds)
        self._cost_by_stratum = self.cost.reshape(self.strata, self.ways, -1)

    def may_reach(self, code: Codes, heads: NDArray[np.bool_], ends: NDArray[np.int64], level: float) -> bool:
        """Whether `log_e` can reach `level` at any of these ends, by a bound that is cheaper than it is.

        A mean of mixtures is at most their largest part, and that of k heads among n tosses at most n times the
        divergence of k/n from the least bias. Ends are at heads; odds are above 1.
        """
        if _reaches(ends, self.least, level):
            return True
        if self.strata == 1:
            return False
        stratum = code // self.ways if self.ways > 1 else code
        for index in range(self.strata):
            places = np.flatnonzero(heads[stratum == index])
            if _reaches(places + 1, self.least, level):
                return True
        return False

    def log_e(
        self, code: Codes, heads: NDArray[np.bool_], ends: NDArray[np.int64], carried: Floats | None = None
    ) -> Floats:
        """log e-value of the first `ends[i]` coins, for every i.

        code: stratum x ways + way of each coin. heads: whether it is the candidate's. ends: from 0 to all.
        carried: (strata, odds) log likelihood ratios of earlier stages' coins.
        """
        ratios = self.log_ratios(code, heads, ends)
        if carried is not None:
            ratios = ratios + carried
        pooled = _log_mean_exp(ratios.sum(axis=1))
        if self.strata == 1:
            return pooled
        return np.logaddexp(pooled, _log_mean_exp(_log_mean_exp(ratios))) - np.log(2.0)

    def log_ratios(self, code: Codes, heads: NDArray[np.bool_], ends: NDArray[np.int64]) -> Floats:
        """(ends, strata, odds): of the first `ends[i]` coins, for every i."""
        codes = self.strata * self.ways
        one_hot = code[:, None] == np.arange(codes)
        tosses = _at(one_hot, ends).reshape(len(ends), self.strata, self.ways)
        won = _at(one_hot & heads[:, None], ends).reshape(len(ends), self.strata, self.ways).sum(axis=2)
        return won[:, :, None] * self.gain - np.einsum("msw,swo->mso", tosses, self._cost_by_stratum)


def _at(flags: NDArray[np.bool_], ends: NDArray[np.int64]) -> Floats:
    """(ends, columns): how many of the first so many rows are set."""
    grown = np.cumsum(flags, axis=0, dtype=np.int32)
    out = (
        grown[np.maximum(ends, 1) - 1].astype(np.float64)
        if len(flags)
        else np.zeros((len(ends), flags.shape[1]))
    )
    out[ends == 0] = 0.0
    return out


def _log_mean_exp(values: Floats) -> Floats:
    """Over the last axis; values are finite."""
    top = values.max(axis=-1)
    return top + np.log(np.exp(values - top[..., None]).mean(axis=-1))


def _reaches(ends: NDArray[np.int64], bias: float, level: float) -> bool:
    """Whether the divergence bound reaches `level`; ends: tosses up to and with each head."""
    if not len(ends):
        return False
    heads = np.arange(1, len(ends) + 1)
    more = heads - bias * ends
    # n x KL is at most the chi-square of the same counts, which needs no logarithm.
    if len(ends) > MANY_HEADS and (np.where(more > 0, more, 0) ** 2 / ends).max() < level * bias * (1 - bias):
        return False
    return bool(_divergence(heads, ends, bias).max() >= level)


def _divergence(heads: NDArray[np.int64], tosses: NDArray[np.int64], bias: float) -> Floats:
    """tosses x KL(heads/tosses from bias) where there are more heads than the bias gives, 0 where not."""
    share = heads / tosses
    up = np.flatnonzero(share > bias)
    heads, tosses, share = heads[up], tosses[up], share[up]
    tails = tosses - heads
    lost = tails * np.log(np.maximum(1 - share, 1e-300) / (1 - bias))
    return np.concatenate([[0.0], heads * np.log(share / bias) + lost])
