"""One rollout under Sluice's default spec, 1/5/50/100 with its dwells, in one world.

Problem: what the tables state must be what the product decides. Invariant: every rule is `sluice`'s own (its bars,
weights, biases, floors and limits); what is here is when they are asked, as the controller and the gate do: harm at
every event, a pass at every look of the gate, a stage's counting from its settling on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.verdict.cells import Fault, World
from benchmarks.verdict.latencies import exceedances
from benchmarks.verdict.part import Part, Past
from benchmarks.verdict.setting import (
    BEFORE_100,
    FIRST_LOOK_S,
    GATES,
    HORIZON_S,
    LOG_S,
    MOST_LOOKS,
    OPEN_S,
    POLL_S,
    TICK_S,
    Setting,
)
from benchmarks.verdict.stage import Harm
from benchmarks.verdict.users import Floats
from benchmarks.verdict.watch import LOOK_S, first_above, rows_of, settled, watched_levels
from benchmarks.verdict.world import Day
from sluice.evidence import KINDS, SLOW_KINDS, Baseline, Kind
from sluice.objective import watch_limits
from sluice.spec_policy import DEFAULT_STAGES


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


class Rollout:
    """One rollout; `run` once. part: how a stage is counted; broken twins count otherwise."""

    part = Part

    def __init__(self, setting: Setting, fault: Fault) -> None:
        self.setting, self.world, self.fault = setting, setting.world, fault
        self.people, self.rng = setting.people, setting.rng
        self.day = Day(self.world, fault, self.people, setting.lines, self.rng)
        self.past = Past(seen=np.full(self.people.size, -1, dtype=np.int8))
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
        part = self.part(self.setting, self.day, self.past, stage, opened_s)
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
            looked, end = max(looked, end), last if part.hopeless else min(end * 2.0 + 60.0, last)

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
                if all(
                    settled(row, limits[k], levels[k], starts, self.people, look) for k, row in rows.items()
                )
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
        many = int(self.past.baseline_users)
        objectives = {kind: GATES.objectives[kind.metric] for kind in KINDS}
        found = [
            Baseline(kind=kind, rate=self.rng.binomial(many, rate) / many) for kind, rate in rates.items()
        ]
        return watch_limits(objectives, found if many >= 200 else (), GATES.rho0)


def rollouts(world: World, fault: Fault, many: int, rng: np.random.Generator) -> Sequence[Outcome]:
    """So many rollouts with one population."""
    setting = Setting(world, rng)
    return [Rollout(setting, fault).run() for _ in range(many)]
