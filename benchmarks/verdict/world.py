"""One rollout's world: where the hash put each user, and every event of a stretch of a stage.

Problem: ten thousand rollouts of a day's traffic have too many requests to make. Invariant: events are drawn as the
requests would make them (Poisson in time, users in proportion to their own rates), and a request without an event is
never drawn: whether a sample saw a user by some time is one exponential per user and stage.

Both versions share incidents, rhythm and users. The fault multiplies the failures, or changes the latencies, of the
candidate's users from the moment that it begins.
"""

from dataclasses import dataclass
from math import pi
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict.cells import (
    INCIDENT_RATE,
    INCIDENT_S,
    LONG_SHARE,
    Fault,
    World,
)
from benchmarks.verdict.latencies import exceedances
from benchmarks.verdict.line import Lines
from benchmarks.verdict.users import Floats, Ints, Population
from sluice.buckets import BUCKETS

DAY_S: Final = 86_400.0
SWING: Final = 0.6  # of the daily rhythm, about its mean
COLD_TIMES: Final = 9.0  # as many events more right after an opening, and then less by 1/e every COLD_S
COLD_S: Final = 2.0
SETTLE_S: Final = 5.0
INCIDENT_BEGINS_S: Final = 300.0  # at the latest: over before 100 %, and within every compared tool's rollout
BEFORE_100_S: Final = 1200.0  # the dwells: what begins later finds the candidate at 100 %
WATCH_S: Final = 3600.0

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """In order of time. t: seconds since the stage opened. level: 0 for a failure, 1 to 4 for the widest slow limit
    that is exceeded."""

    t: Floats
    user: Ints
    level: NDArray[np.int8]


class Day:
    """The world of one rollout."""

    def __init__(
        self, world: World, fault: Fault, people: Population, lines: Lines, rng: np.random.Generator
    ) -> None:
        self.world, self.fault, self.people, self.lines, self.rng = world, fault, people, lines, rng
        self.buckets = rng.integers(0, BUCKETS, people.size, dtype=np.uint16)
        self.phase = rng.random() * DAY_S
        first_s = {"no": np.inf, "before 100 %": 0.0, "watch": BEFORE_100_S + 60.0}[world.incident]
        last_s = INCIDENT_BEGINS_S if world.incident == "before 100 %" else WATCH_S - INCIDENT_S
        self.incident_s = first_s + rng.random() * last_s
        self._sane = exceedances(world.latency_sigma)
        self._ill = exceedances(world.latency_sigma, fault.shape)

    def pace(self, at_s: Floats | float) -> Floats:
        """Seconds of mean traffic that have passed by `at_s` seconds into the rollout."""
        at = np.asarray(at_s, dtype=np.float64)
        if not self.world.rhythm:
            return at
        turn = 2 * pi / DAY_S
        return at - SWING / turn * (np.cos(turn * (at + self.phase)) - np.cos(turn * self.phase))

    def incident_rate(self, at_s: Floats) -> Floats:
        """How much likelier any request is to fail then; `at_s` seconds into the rollout."""
        return np.where((at_s >= self.incident_s) & (at_s < self.incident_s + INCIDENT_S), INCIDENT_RATE, 0.0)

    def cohort(self, stage: int) -> Ints:
        """The users whom the candidate serves."""
        return np.flatnonzero(self.lines.inside[stage][self.buckets]).astype(np.int32)

    def affected(self, stage: int, cohort: Ints) -> Ints:
        """Those of the cohort whom the fault reaches; of none when there is none."""
        if self.fault.rho == 1 and self.fault.shape is None:
            return cohort[:0]
        if self.fault.where == "one architecture":
            last = self.lines.strata - 1
            return cohort[self.lines.archs[self.buckets[cohort]] == last]
        if self.fault.where == "one tenant":
            return cohort[self.people.tenant[cohort]]
        return cohort

    def ill_from(self, stage: int) -> float:
        """Seconds into this stage from which the fault is there; infinite in the stages before it."""
        first, after_s = self.fault.begins
        return np.inf if stage < first else after_s if stage == first else 0.0

    def events(
        self, stage: int, opened_s: float, begin: float, end: float, cohort: Ints, *, least: int = 1
    ) -> Events:
        """Every event from `begin` to `end` seconds since the stage opened, `opened_s` into the rollout.

        least: the first slow limit that anybody asks about, 1 to 4.
        """
        affected = self.affected(stage, cohort)
        ill = min(max(begin, self.ill_from(stage)), end)
        drawn = [
            self._failures(opened_s, begin, end),
            self._incident(opened_s, begin, end),
            self._slow(opened_s, begin, end, affected, ill, least),
        ]
        if len(affected) and ill < end:
            drawn += self._faulty(opened_s, ill, end, affected, least)
        if self.world.cold_start and begin < 20 * COLD_S:
            drawn.append(self._cold(begin, end, cohort))
        t, user, level = (np.concatenate(column) for column in zip(*drawn, strict=True))
        order = np.argsort(t)
        return Events(t=t[order], user=user[order], level=level[order])

    def _times(self, per_s: float, opened_s: float, begin: float, end: float) -> Floats:
        """Instants of a Poisson process of so many a second of mean traffic, in no order."""
        if not self.world.rhythm:
            many = self.rng.poisson(per_s * (end - begin))
            return begin + (end - begin) * self.rng.random(many)
        grid = np.linspace(begin, end, 2 + int((end - begin) / 60))
        passed = self.pace(opened_s + grid)
        many = self.rng.poisson(per_s * (passed[-1] - passed[0]))
        where = passed[0] + (passed[-1] - passed[0]) * self.rng.random(many)
        return np.interp(where, passed, grid)

    def _drawn(self, table: Ints, many: int) -> Ints:
        return table[self.rng.integers(0, len(table), many, dtype=np.int32)]

    def _failures(self, opened_s: float, begin: float, end: float) -> tuple[Floats, Ints, NDArray[np.int8]]:
        t = self._times(self.people.failures_per_s, opened_s, begin, end)
        return t, self._drawn(self.people.by_failure, len(t)), np.zeros(len(t), dtype=np.int8)

    def _incident(self, opened_s: float, begin: float, end: float) -> tuple[Floats, Ints, NDArray[np.int8]]:
        first, last = self._incident_within(opened_s, begin, end)
        t = np.zeros(0)
        if first < last:
            t = self._times(self.world.rps * INCIDENT_RATE, opened_s, first, last)
        return t, self._drawn(self.people.by_rate, len(t)), np.zeros(len(t), dtype=np.int8)

    def _incident_within(self, opened_s: float, begin: float, end: float) -> tuple[float, float]:
        first = self.incident_s - opened_s
        return max(first, begin), min(first + INCIDENT_S, end)

    def _levels(self, many: int, exceeded: tuple[float, ...], least: int = 1) -> NDArray[np.int8]:
        """`least` to 4, given that limit number `least` is exceeded."""
        u = self.rng.random(many, dtype=np.float32) * np.float32(exceeded[least - 1])
        level = np.full(many, least, dtype=np.int8)
        for limit in exceeded[least:]:
            level += u < np.float32(limit)
        return level

    def _slow(
        self, opened_s: float, begin: float, end: float, affected: Ints, ill: float, least: int
    ) -> tuple[Floats, Ints, NDArray[np.int8]]:
        t = self._times(self.world.rps * self._sane[least - 1], opened_s, begin, end)
        user, level = self._drawn(self.people.by_rate, len(t)), self._levels(len(t), self._sane, least)
        if self.fault.shape is None or not len(affected):
            return t, user, level
        reached = np.zeros(self.people.size, dtype=np.bool_)
        reached[affected] = True
        keep = (t < ill) | ~reached[user]
        return t[keep], user[keep], level[keep]

    def _faulty(
        self, opened_s: float, begin: float, end: float, affected: Ints, least: int
    ) -> list[tuple[Floats, Ints, NDArray[np.int8]]]:
        """The failures that the fault adds, and the slow requests of those whom it reaches."""
        rates, out = self.people.rates[affected], []
        weights = rates * added(self.people.fails[affected], self.fault)
        if self.fault.rho > 1 and weights.sum() > 0:
            t = self._times(float(weights.sum()), opened_s, begin, end)
            out.append((t, affected[self._weighted(weights, len(t))], np.zeros(len(t), dtype=np.int8)))
        first, last = self._incident_within(opened_s, begin, end)
        if self.fault.rho > 1 and self.world.incident_multiplied and first < last:
            t = self._times(float(rates.sum()) * added_to_incident(self.fault), opened_s, first, last)
            out.append((t, affected[self._weighted(rates, len(t))], np.zeros(len(t), dtype=np.int8)))
        if self.fault.shape is not None:
            t = self._times(float(rates.sum()) * self._ill[least - 1], opened_s, begin, end)
            level = self._levels(len(t), self._ill, least)
            out.append((t, affected[self._weighted(rates, len(t))], level))
        return out

    def _cold(self, begin: float, end: float, cohort: Ints) -> tuple[Floats, Ints, NDArray[np.int8]]:
        """Events of the candidate's that an opening adds while replicas are cold, of every kind."""
        rates = self.people.rates[cohort]
        first, last = np.exp(-begin / COLD_S), np.exp(-end / COLD_S)
        per_s = float(rates.sum()) * (self.world.base + self._sane[0])
        many = self.rng.poisson(per_s * COLD_TIMES * COLD_S * (first - last))
        t = -COLD_S * np.log(last + (first - last) * self.rng.random(many))
        failed = self.rng.random(many) * (self.world.base + self._sane[0]) < self.world.base
        level = np.where(failed, np.int8(0), self._levels(many, self._sane))
        return t, cohort[self._weighted(rates, many)], level.astype(np.int8)

    def _weighted(self, weights: Floats, many: int) -> NDArray[np.int64]:
        ends = np.cumsum(weights)
        places = np.searchsorted(ends, self.rng.random(many) * ends[-1], side="right")
        return np.minimum(places, len(weights) - 1)


def added(fails: Floats, fault: Fault) -> Floats:
    """How much likelier each user's request is to fail under the fault; no request fails more than always."""
    more = np.minimum(fault.rho * fails, 1.0) - fails
    return more * LONG_SHARE if fault.where == "long inputs" else more


def added_to_incident(fault: Fault) -> float:
    """The same for what a shared incident does to any request."""
    return INCIDENT_RATE * (fault.rho - 1) * (LONG_SHARE if fault.where == "long inputs" else 1.0)
