"""One rollout under Sluice's default spec, 1/5/50/100 with its dwells, in one world.

Problem: what the tables state must be what the product decides. Invariant: every rule is `sluice`'s own (its bars,
weights, biases, floors and limits); what is here is when they are asked, as the controller and the gate do: harm at
every event, a pass at every look of the gate, a stage's counting from its settling on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.verdict.cells import Fault, World
from benchmarks.verdict.latencies import exceedances
from benchmarks.verdict.line import Lines, lines
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
from benchmarks.verdict.users import Floats, Ints, Population, population
from benchmarks.verdict.watch import (
    LOOK_S,
    first_above,
    process_starts,
    rows_of,
    settled,
    watched_levels,
)
from benchmarks.verdict.world import SETTLE_S, Day, Events, added
from sluice.evidence import KINDS, SLOW_KINDS, Baseline, Kind
from sluice.objective import watch_limits
from sluice.spec_policy import DEFAULT_STAGES, Gates

SAMPLES_PER_S: Final = 200.0
HORIZON_S: Final = 4 * 3600.0
FIRST_LOOK_S: Final = 5.0
POLL_S: Final = 2.0
OPEN_S: Final = 5.0  # from a pass to the next stage acknowledged: the scheduler's part of it is seconds
TICK_S: Final = 0.25  # of the guard
LOG_S: Final = 0.1  # from the end of a request to its entry in the controller
MOST_LOOKS: Final = 120  # of a stretch; a hold of an hour is not looked at every two seconds here
BEFORE_100: Final = 3  # stages

GATES: Final = Gates()


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a rollout. found_s: from the fault to the harm verdict. reached_s: when 100 % opened.

    candidate_s: seconds of all the service's requests that went to the candidate, share x time. ended: `promoted`,
    `turned back` or `held` at the horizon; turned back at 100 % is `turned back` with stage 3. requests: candidate
    requests from the fault to the verdict.
    """

    ended: str = "held"
    stage: int = 0
    found_s: float | None = None
    reached_s: float | None = None
    bad_s: float = 0.0
    requests: float | None = None
    why: str = ""
    opened: list[float] = field(default_factory=list)


class Setting:
    """What all rollouts of a block share: the users and what follows from them alone."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        self.sampled = sampled_share(world.rps)
        self.people: Population = population(world, rng, self.sampled)
        self.lines: Lines = lines(world.shares)
        self.rates = (self.people.rates * self.sampled).astype(np.float32)
        self.watch_starts: Floats = process_starts(self.people, HORIZON_S)


def sampled_share(rps: float) -> float:
    """Share of requests in the sample: a power of 1/2 of at most SAMPLES_PER_S."""
    share = 1.0
    while rps * share > SAMPLES_PER_S:
        share /= 2
    return share


class Rollout:
    """One rollout; `run` once."""

    def __init__(self, setting: Setting, fault: Fault) -> None:
        self.setting, self.world, self.fault = setting, setting.world, fault
        self.people, self.rng = setting.people, setting.rng
        self.day = Day(self.world, fault, self.people, setting.lines, self.rng)
        self.seen = np.full(self.people.size, -1, dtype=np.int8)  # newest stage that saw the user
        self.firsts = dict.fromkeys(KINDS, 0)
        self.baseline_users = 0.0
        self.done = Outcome()

    def run(self) -> Outcome:
        """Through the stages until it is turned back, promoted, or at the horizon."""
        now = 0.0
        for stage in range(BEFORE_100):
            self.done.stage = stage
            self.done.opened.append(now)
            left = self._stage(stage, now)
            if left is None:
                return self.done
            now = left
        self.done.stage, self.done.reached_s = BEFORE_100, now
        self.done.opened.append(now)
        self._watch(now)
        return self.done

    # --- below 100 %

    def _stage(self, stage: int, opened_s: float) -> float | None:
        """Seconds into the rollout at which the next stage opens; None when it ended or holds to the horizon."""
        dwell = self._dwell(stage)
        part = _Part(self, stage, opened_s)
        last = self._horizon() - opened_s
        end = min(self._first_stretch(stage, dwell), last)
        looked = max(dwell, FIRST_LOOK_S)
        while True:
            part.extend(end)
            harm = part.harm(end)
            passed = part.passes(self._looks(looked, end))
            if harm is not None and (passed is None or harm.at_s <= passed):
                self._turned_back(stage, opened_s, harm)
                return None
            if passed is not None:
                part.leave(passed + OPEN_S)
                self._exposed(stage, opened_s, passed + OPEN_S)
                return opened_s + passed + OPEN_S
            if end >= last:
                self.done.why = part.why
                self._exposed(stage, opened_s, last)
                return None
            looked, end = max(looked, end), min(end * 2.0 + 60.0, last)

    def _dwell(self, stage: int) -> float:
        return self.world.dwell_50_s if stage == BEFORE_100 - 1 else DEFAULT_STAGES[stage].dwell_s

    def _horizon(self) -> float:
        """A fault that begins late in a stage that stays open is given as long as one that was there all the time."""
        late = self.world.dwell_50_s > DEFAULT_STAGES[2].dwell_s
        return HORIZON_S + (self.world.dwell_50_s if late else 0.0)

    def _first_stretch(self, stage: int, dwell: float) -> float:
        """A fault ends most stages early, and what is not reached need not be drawn."""
        whole = dwell + 30.0
        if self.fault.rho == 1 and self.fault.shape is None:
            return whole
        ill_s = self.day.ill_from(stage)
        return min(whole, ill_s + 120.0) if np.isfinite(ill_s) else whole

    def _looks(self, begin: float, end: float) -> Floats:
        """The gate's looks in [begin, end)."""
        first = np.ceil(max(begin - FIRST_LOOK_S, 0.0) / POLL_S)
        many = int(max(0.0, np.ceil((end - FIRST_LOOK_S) / POLL_S) - first))
        looks = FIRST_LOOK_S + POLL_S * (first + np.arange(many))
        if self.world.scrape_loss:
            looks = looks[self.rng.random(many) >= self.world.scrape_loss]
        return looks[:: max(1, len(looks) // MOST_LOOKS)]

    def _share(self, stage: int) -> float:
        return self.setting.lines.lines[stage].share

    def _exposed(self, stage: int, opened_s: float, seconds: float) -> None:
        until = min(opened_s + seconds, HORIZON_S)
        self.done.bad_s += self._share(stage) * max(0.0, until - opened_s)

    def _turned_back(self, stage: int, opened_s: float, harm: Harm) -> None:
        at_s = LOG_S + TICK_S * np.ceil(harm.at_s / TICK_S)
        self._end(stage, opened_s, at_s, harm.kind)

    def _end(self, stage: int, opened_s: float, at_s: float, kind: Kind) -> None:
        self._exposed(stage, opened_s, at_s)
        self.done.ended, self.done.why = "turned back", kind.value
        first, after_s = self.fault.begins
        if stage < first or (stage == first and at_s < after_s):
            return  # before the fault: as false as of a healthy one
        begin_s = self.done.opened[first] + after_s if first < len(self.done.opened) else opened_s
        self.done.found_s = opened_s + at_s - begin_s
        requests = 0.0
        ends = [*self.done.opened[1 : stage + 1], opened_s + at_s]
        for index, (start, end) in enumerate(zip(self.done.opened, ends, strict=True)):
            requests += self.world.rps * self._share(index) * max(0.0, end - max(start, begin_s))
        self.done.requests = requests

    # --- at 100 %

    def _watch(self, opened_s: float) -> None:
        """Turned back by the candidate's own rates, or promoted at the first look that lets it pass."""
        dwell, starts = DEFAULT_STAGES[BEFORE_100].dwell_s, self.setting.watch_starts
        until = dwell + 600.0
        limits = self._limits()
        rows = rows_of(self.day, opened_s, until, self.setting.sampled, starts)
        levels = watched_levels(GATES)
        above = {kind: first_above(row, limits[kind], levels[kind]) for kind, row in rows.items()}
        crossed = [(at_s, kind) for kind, at_s in above.items() if at_s is not None]
        passed = next(
            (
                look
                for look in np.arange(dwell, until, LOOK_S)
                if all(settled(row, limits[k], levels[k], starts, self.people, look) for k, row in rows.items())
            ),
            None,
        )
        if crossed and (passed is None or min(crossed)[0] <= passed):
            at_s, kind = min(crossed)
            self._end(BEFORE_100, opened_s, at_s, kind)
            return
        self._exposed(BEFORE_100, opened_s, HORIZON_S - opened_s)
        self.done.ended = "held" if passed is None else "promoted"
        self.done.why = "" if passed is not None else "a rate above its limit in the watch"

    def _limits(self) -> dict[Kind, float]:
        """From stable's first sampled requests at 50 %, as the tally keeps them."""
        sane = exceedances(self.world.latency_sigma)
        rates = {Kind.FAILURE: float(self.people.fails.mean()), **dict(zip(SLOW_KINDS, sane, strict=True))}
        many = int(self.baseline_users)
        objectives = {kind: GATES.objectives[kind.metric] for kind in KINDS}
        found = [Baseline(kind=kind, rate=self.rng.binomial(many, rate) / many) for kind, rate in rates.items()]
        return watch_limits(objectives, found if many >= 200 else (), GATES.rho0)


class _Part:
    """The open stage of a rollout: its events so far, and what they say."""

    def __init__(self, of: Rollout, stage: int, opened_s: float) -> None:
        self.of, self.stage, self.opened_s = of, stage, opened_s
        self.day, self.people = of.day, of.people
        self.cohort = of.day.cohort(stage)
        self.kinds = counting(stage >= of.world.like_load_from)
        self.biases = of.setting.lines.biases(stage)
        self.odds = harm_odds(self.biases)
        self.better = better_odds(self.biases, GATES.rho0)
        # One draw a user and stage says when a sample first sees them.
        self.luck = of.rng.random(self.people.size, dtype=np.float32)
        self.end, self.found = 0.0, [Events(t=np.zeros(0), user=np.zeros(0, np.int32), level=np.zeros(0, np.int8))]
        self.rows: dict[Kind, Row] = {}
        self.all: Events = self.found[0]
        self.why = ""
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
        made, bucket = self.of.setting.lines, self.day.buckets[user]
        heads = made.inside[self.stage][bucket]
        seen = self.of.seen[user]
        coin = ~((seen >= 0) & made.inside[np.maximum(seen, 0), bucket])
        code = made.archs[bucket].astype(np.int64) * (self.stage + 1) + seen + 1
        kept = ~heads | (self.of.rng.random(len(t)) < 1 / GATES.rho0)
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
        return first_harm(self.rows, self.of.firsts, self.odds, GATES, until)

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
        share = self.of.setting.lines.lines[self.stage].share
        stable = np.interp(self._passed(looks), self.people.times_s, self.people.seen) * (1 - share)
        failed = np.searchsorted(firsts, looks, side="right")
        times, _ = self._seen_at()
        have = np.searchsorted(times, looks, side="right")
        rates = [float(value) for value in failed / np.maximum(stable, 1.0)]
        return power_floor_reached(share, GATES, self.of.firsts[Kind.FAILURE], rates, have.tolist())

    def _seen_at(self) -> tuple[Floats, Ints]:
        """When a sample first sees each coin of the candidate's, in order, and who they are."""
        if self._first_seen is None:
            seen, inside = self.of.seen[self.cohort], self.of.setting.lines.inside
            coins = ~((seen >= 0) & inside[np.maximum(seen, 0), self.day.buckets[self.cohort]])
            users = self.cohort[coins]
            times = self._first_sampled(users)
            order = np.argsort(times)
            self._first_seen = times[order], users[order]
        return self._first_seen

    def _first_sampled(self, users: Ints) -> Floats:
        """Seconds since the stage opened, from the settling on."""
        rates = self.people.rates[users] * self.of.setting.sampled
        passed = -np.log1p(-self.luck[users].astype(np.float64)) / np.maximum(rates, 1e-12)
        if not self.of.world.rhythm:
            return SETTLE_S + passed
        grid = SETTLE_S + np.linspace(0.0, HORIZON_S, 241)
        return np.interp(passed, self._passed(grid), grid, right=np.inf)

    def _no_harm(self, kind: Kind, looks: Floats) -> Any:
        """Whether no harm is shown at each look, by the coins or by the candidate's own rate."""
        half = GATES.beta / 2
        shown = self._own_rate_shown(kind, looks, half)
        if not shown.all() and kind in self.rows:
            shown |= no_harm_shown(Row.make(self.counted, self._of(kind) & self.counted.kept), self.better, half, looks)
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
            self._own = times[order], self.cohort[order], self.of.rng.random((2, len(order)))
        times, users, luck = self._own
        if kind is Kind.FAILURE:
            return times, luck[0] < self._failing(users, times)
        place = SLOW_KINDS.index(kind)
        sane, ill = exceedances(self.of.world.latency_sigma), exceedances(self.of.world.latency_sigma, self.of.fault.shape)
        rate = np.where(self._ill(users, times), ill[place], sane[place])
        return times, luck[1] < rate

    def _ill(self, users: Ints, times: Floats) -> Any:
        reached = np.zeros(self.people.size, dtype=np.bool_)
        reached[self.day.affected(self.stage, self.cohort)] = True
        return reached[users] & (times >= self.day.ill_from(self.stage))

    def _failing(self, users: Ints, times: Floats) -> Floats:
        fails = self.people.fails[users]
        if self.of.fault.rho > 1:
            fails = fails + np.where(self._ill(users, times), added(fails, self.of.fault), 0.0)
        return fails + self.day.incident_rate(self.opened_s + times)

    def leave(self, at_s: float) -> None:
        """The next stage opens: number its processes after these, and keep whom this one saw."""
        for kind in KINDS:
            row = self.rows.get(kind)
            self.of.firsts[kind] += 1 if row is None else row.processes_by(at_s)
        gone = float(self.day.pace(self.opened_s + at_s) - self.day.pace(self.opened_s))
        self.of.seen[self.luck < -np.expm1(self.of.setting.rates * np.float32(-gone))] = self.stage
        self.of.seen[self.all.user[self.all.t <= at_s]] = self.stage
        share = self.of.setting.lines.lines[self.stage].share
        self.of.baseline_users = float(np.interp(gone, self.people.times_s, self.people.seen)) * (1 - share)


def rollouts(world: World, fault: Fault, many: int, rng: np.random.Generator) -> Sequence[Outcome]:
    """So many rollouts with one population."""
    setting = Setting(world, rng)
    return [Rollout(setting, fault).run() for _ in range(many)]
