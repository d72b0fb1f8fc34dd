"""One open stage of a rollout: its events so far, what they say, and what it leaves to the next one.

Invariant: this is bookkeeping as `sluice.tally` does it (who was seen, who is a coin of which bias, who counts after
settling); what it adds up to is asked of `stage`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict.cells import INCIDENT_RATE
from benchmarks.verdict.epochs import coins_of
from benchmarks.verdict.latencies import exceedances
from benchmarks.verdict.setting import BEFORE_100, GATES, HORIZON_S, Setting
from benchmarks.verdict.stage import (
    Counted,
    Harm,
    Row,
    better_odds,
    counting,
    first_harm,
    harm_odds,
    no_harm_shown,
    objective_shown,
    power_floor_reached,
)
from benchmarks.verdict.users import Floats, Ints
from benchmarks.verdict.world import SETTLE_S, Day, Events, added, added_to_incident
from sluice.evidence import KINDS, SLOW_KINDS, Kind


@dataclass(slots=True, kw_only=True)
class Past:
    """What earlier stages left. seen: the newest stage that saw each user, -1 for none. firsts: number of each kind's
    next process. baseline_users: of stable, seen in the stage before."""

    seen: NDArray[np.int8]
    firsts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    baseline_users: float = 0.0
    carried: dict[Kind, Floats] | None = None


class Part:
    """The open stage of a rollout: its events so far, and what they say."""

    def __init__(self, setting: Setting, day: Day, past: Past, stage: int, opened_s: float) -> None:
        """past: what the stages before have left; `leave` adds to it."""
        self.setting, self.day, self.past, self.stage, self.opened_s = setting, day, past, stage, opened_s
        self.people, self.rng, self.world = setting.people, setting.rng, setting.world
        self.cohort = day.cohort(stage)
        self.kinds = counting(stage >= self.world.like_load_from)
        biases = setting.lines.biases(stage)
        self.odds = harm_odds(biases)
        self.better = better_odds(biases, GATES.rho0)
        # One draw a user and stage says when a sample first sees them.
        self.luck = self.rng.random(self.people.size, dtype=np.float32)
        self.end, self.found = (
            0.0,
            [Events(t=np.zeros(0), user=np.zeros(0, np.int32), level=np.zeros(0, np.int8))],
        )
        self.rows: dict[Kind, Row] = {}
        self.all: Events = self.found[0]
        self.why = ""
        self.hopeless = False  # the cohort has fewer users than the floor asks for
        self._first_seen: tuple[Floats, Ints] | None = None
        self._own: tuple[Floats, Ints, Any] | None = None

    def extend(self, end: float) -> None:
        """Let time pass until `end` seconds since the stage opened."""
        self.found.append(self.day.events(self.stage, self.opened_s, self.end, end, self.cohort))
        self.end = end
        columns = zip(*((e.t, e.user, e.level) for e in self.found), strict=True)
        t, user, level = (np.concatenate(column) for column in columns)
        self.all = Events(t=t, user=user, level=level)
        self.found = [self.all]
        self._make_rows()

    def _make_rows(self) -> None:
        counts = self.all.t >= SETTLE_S
        t, user, level = self.all.t[counts], self.all.user[counts], self.all.level[counts]
        made, bucket = self.setting.lines, self.day.buckets[user]
        heads = made.inside[self.stage][bucket]
        seen = self.past.seen[user]
        coin = ~((seen >= 0) & made.inside[np.maximum(seen, 0), bucket])
        code = made.archs[bucket].astype(np.int64) * (self.stage + 1) + seen + 1
        kept = ~heads | (self.rng.random(len(t)) < 1 / GATES.rho0)
        active = np.interp(self._passed(t), self.people.times_s, self.people.seen)
        self.counted = Counted(t=t, user=user, heads=heads, code=code, coin=coin, kept=kept, active=active)
        self.level = level
        self.rows = {kind: Row.make(self.counted, self._of(kind)) for kind in self.kinds}

    def _of(self, kind: Kind) -> Any:
        return self.level == 0 if kind is Kind.FAILURE else self.level > SLOW_KINDS.index(kind)

    def _passed(self, t: Floats) -> Floats:
        """Mean traffic since the settling ended."""
        return self.day.pace(self.opened_s + t) - float(self.day.pace(self.opened_s + SETTLE_S))

    def harm(self, until: float) -> Harm | None:
        """The first crossing."""
        return first_harm(self.rows, self.past.firsts, self.odds, GATES, until, self.past.carried)

    def passes(self, looks: Floats) -> float | None:
        """The first of these looks at which the gate says pass; None when all hold, with `why`."""
        if not len(looks):
            return None
        from_floor = self._floor(looks)
        if from_floor is None:
            self.why = "power floor"
            return None
        looks = looks[from_floor:]
        if self.stage < BEFORE_100 - 1:
            return float(looks[0])
        shown = np.ones(len(looks), dtype=np.bool_)
        for kind in KINDS:
            shown &= self._no_harm(kind, looks)
            if not shown.any():
                self.why = f"no harm not shown for {kind.value}"
                return None
        return float(looks[shown.argmax()])

    def _floor(self, looks: Floats) -> int | None:
        row = self.rows[Kind.FAILURE]
        firsts = row.t[(row.before < 0) & ~row.heads]
        share = self.setting.lines.lines[self.stage].share
        stable = np.interp(self._passed(looks), self.people.times_s, self.people.seen) * (1 - share)
        failed = np.searchsorted(firsts, looks, side="right")
        times, _ = self._seen_at()
        have = np.searchsorted(times, looks, side="right")
        rates = [float(value) for value in failed / np.maximum(stable, 1.0)]
        reached, need = power_floor_reached(
            share, GATES, self.past.firsts[Kind.FAILURE], rates, have.tolist()
        )
        self.hopeless = need is None or need > len(times)
        return reached

    def _seen_at(self) -> tuple[Floats, Ints]:
        """When a sample first sees each coin of the candidate's, in order, and who they are."""
        if self._first_seen is None:
            seen, inside = self.past.seen[self.cohort], self.setting.lines.inside
            coins = ~((seen >= 0) & inside[np.maximum(seen, 0), self.day.buckets[self.cohort]])
            users = self.cohort[coins]
            times = self._first_sampled(users)
            order = np.argsort(times)
            self._first_seen = times[order], users[order]
        return self._first_seen

    def _first_sampled(self, users: Ints) -> Floats:
        """Seconds since the stage opened, from the settling on."""
        rates = self.people.rates[users] * self.setting.sampled
        passed = -np.log1p(-self.luck[users].astype(np.float64)) / np.maximum(rates, 1e-12)
        if not self.world.rhythm:
            return SETTLE_S + passed
        grid = SETTLE_S + np.linspace(0.0, HORIZON_S, 241)
        return np.interp(passed, self._passed(grid), grid, right=np.inf)

    def _no_harm(self, kind: Kind, looks: Floats) -> Any:
        """Whether no harm is shown at each look, by the coins or by the candidate's own rate."""
        half = GATES.beta / 2
        shown = self._own_rate_shown(kind, looks, half)
        if not shown.all() and kind in self.rows:
            shown |= no_harm_shown(
                Row.make(self.counted, self._of(kind) & self.counted.kept), self.better, half, looks
            )
        return shown

    def _own_rate_shown(self, kind: Kind, looks: Floats, level: float) -> Any:
        limit = GATES.objectives[kind.metric]
        if kind not in self.rows:
            return np.zeros(len(looks), dtype=np.bool_)
        times, bad = self._first_requests(kind)
        upto = np.searchsorted(times, looks, side="right")
        grown = np.concatenate([[0], np.cumsum(bad)])[upto].astype(np.float64)
        return objective_shown(upto - grown, grown, limit, level)

    def _first_requests(self, kind: Kind) -> tuple[Floats, Any]:
        """(when, whether bad) of the first sampled request of each of the candidate's users, in order."""
        if self._own is None:
            times = self._first_sampled(self.cohort)
            order = np.argsort(times)
            self._own = times[order], self.cohort[order], self.rng.random((2, len(order)))
        times, users, luck = self._own
        if kind is Kind.FAILURE:
            return times, luck[0] < self._failing(users, times)
        place = SLOW_KINDS.index(kind)
        sane, ill = (
            exceedances(self.world.latency_sigma),
            exceedances(self.world.latency_sigma, self.day.fault.shape),
        )
        rate = np.where(self._ill(users, times), ill[place], sane[place])
        return times, luck[1] < rate

    def _ill(self, users: Ints, times: Floats) -> Any:
        reached = np.zeros(self.people.size, dtype=np.bool_)
        reached[self.day.affected(self.stage, self.cohort)] = True
        return reached[users] & (times >= self.day.ill_from(self.stage))

    def _failing(self, users: Ints, times: Floats) -> Floats:
        fails = self.people.fails[users]
        if self.day.fault.rho > 1:
            fails = fails + np.where(self._ill(users, times), added(fails, self.day.fault), 0.0)
        shared = self.day.incident_rate(self.opened_s + times)
        if self.day.fault.rho > 1 and self.world.incident_multiplied:
            more = added_to_incident(self.day.fault) / INCIDENT_RATE
            shared = shared * (1 + more * self._ill(users, times))
        return fails + shared

    def leave(self, at_s: float) -> None:
        """The next stage opens: number its processes after these, and keep whom this one saw."""
        for kind in KINDS:
            row = self.rows.get(kind)
            self.past.firsts[kind] += 1 if row is None else row.processes_by(at_s)
        self._carry(at_s)
        gone = float(self.day.pace(self.opened_s + at_s) - self.day.pace(self.opened_s))
        self.past.seen[self.luck < -np.expm1(self.setting.rates * np.float32(-gone))] = self.stage
        self.past.seen[self.all.user[self.all.t <= at_s]] = self.stage
        share = self.setting.lines.lines[self.stage].share
        self.past.baseline_users = float(np.interp(gone, self.people.times_s, self.people.seen)) * (1 - share)

    def _carry(self, at_s: float) -> None:
        """Process 0 of the rollout goes on: its coins of this stage multiply with those of the stages before."""
        carried = self.past.carried or {
            kind: np.zeros((self.odds.strata, len(self.odds.gain))) for kind in KINDS
        }
        for kind, row in self.rows.items():
            places = coins_of(row.before, row.coin, row.begins, 0)
            end = np.searchsorted(row.t[places], at_s, side="right")
            carried[kind] = (
                carried[kind] + self.odds.log_ratios(row.code[places], row.heads[places], np.array([end]))[0]
            )
        self.past.carried = carried
