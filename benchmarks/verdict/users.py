"""The users of a service: how active each is, and how prone to fail.

Problem: what breaks tests that count requests is that users differ. Invariant: a population is drawn once for a block
of rollouts; the hash line, which is what the tests rest on, is drawn anew for every rollout.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict.cells import CHRONIC_TRAFFIC, CHRONIC_USERS, TENANT_SHARE, World

PER_USER: Final = 16  # places of a drawing table for an average user, at least
TABLE_LEAST: Final = 1 << 19
CURVE_POINTS: Final = 48

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """rates: requests a second of each user. fails: chance that a request of theirs fails, 0 to 1. tenant: who is the
    tenant's. by_rate, by_failure: tables from which users are drawn in proportion. failures_per_s: of all together.
    times_s, seen: the mean number of users seen by a sample within so many seconds.
    """

    rates: Floats
    fails: Floats
    tenant: NDArray[np.bool_]
    by_rate: Ints
    by_failure: Ints
    failures_per_s: float
    times_s: Floats
    seen: Floats

    @property
    def size(self) -> int:
        """How many users."""
        return len(self.rates)


def population(world: World, rng: np.random.Generator, sampled: float) -> Population:
    """Draw the users of a world. sampled: share of requests in the sample, (0, 1]."""
    half = world.sigma / sqrt(2)
    activity = np.exp(rng.normal(0.0, half, world.users)) if half else np.ones(world.users)
    prone = np.exp(rng.normal(-half * half / 2, half, world.users)) if half else np.ones(world.users)
    share = activity / activity.sum()
    if world.chronic:
        chronic = max(1, round(CHRONIC_USERS * world.users))
        share[:chronic] = 0.0
        share *= (1 - CHRONIC_TRAFFIC) / share.sum()
        share[:chronic] = CHRONIC_TRAFFIC / chronic
    fails = np.minimum(world.base * prone, 1.0)
    # The level is a property of the cell, not of the draw: a few busy and prone users must not move it.
    fails = np.minimum(fails * (world.base / float(share @ fails)), 1.0)
    if world.chronic:
        fails[:chronic] = 1.0
    rates = world.rps * share
    times_s, seen = _curve(rates * sampled)
    return Population(
        rates=rates,
        fails=fails,
        tenant=rng.random(world.users) < TENANT_SHARE,
        by_rate=_table(rates),
        by_failure=_table(rates * fails),
        failures_per_s=float(rates @ fails),
        times_s=times_s,
        seen=seen,
    )


def _table(weights: Floats) -> Ints:
    """Users, each as often as its weight asks for."""
    size = max(TABLE_LEAST, 1 << int(PER_USER * len(weights) - 1).bit_length())
    ends = np.rint(np.cumsum(weights) * (size / weights.sum())).astype(np.int64)
    return np.repeat(np.arange(len(weights), dtype=np.int32), np.diff(ends, prepend=0))


def _curve(sampled_rates: Floats) -> tuple[Floats, Floats]:
    times_s = np.concatenate([[0.0], np.geomspace(0.5, 4 * 3600.0, CURVE_POINTS)])
    rates = sampled_rates.astype(np.float32)
    seen = [float(-np.expm1(-rates * np.float32(t)).sum(dtype=np.float64)) for t in times_s]
    return times_s, np.array(seen)
