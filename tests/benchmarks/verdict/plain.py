"""The plain path: every request of a small service as an entry into a real tally, judged after every event."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.verdict.cells import Fault, World
from benchmarks.verdict.epochs import coins_of
from benchmarks.verdict.latencies import limits_ms
from benchmarks.verdict.line import lines
from benchmarks.verdict.stage import Counted, Row, harm_odds
from benchmarks.verdict.users import population
from benchmarks.verdict.world import SETTLE_S, Day
from sluice.buckets import keeps
from sluice.evidence import KINDS, SLOW_KINDS, Kind
from sluice.tally import Entry, Tally

SALT = "plain"
VERSION, STABLE = "2", "1"
GAP_S = 1.0  # between two stages


@dataclass
class Plain:
    """A service whose every request is made, through stages of the same length."""

    world: World
    fault: Fault
    seed: int
    seconds: float
    seen: Any = None
    counted: Counted | None = None
    level: Any = None
    entries: list[tuple[float, Entry]] = field(default_factory=list)
    carried: dict[Kind, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        people = population(self.world, rng, 1.0)
        self.day = Day(self.world, self.fault, people, lines(self.world.shares), rng)
        self.seen = np.full(people.size, -1, dtype=np.int8)
        self.tally = Tally(
            service="m", rollout="r", epoch=1, version=VERSION, stable=STABLE, salt=SALT, settle_s=SETTLE_S
        )
        self.tally.like_load = True

    def open(self, stage: int) -> float:
        """Open a stage in the tally and make its requests; when it opened."""
        opened_s = 1000.0 + stage * (self.seconds + GAP_S)
        line = self.day.lines.lines[stage]
        limits = limits_ms(self.world.latency_sigma)
        self.tally.open_stage(stage, line.share * 100, line, opened_s, limits)
        self._make(stage, opened_s)
        return opened_s

    def _make(self, stage: int, opened_s: float) -> None:
        day, rng = self.day, self.day.rng
        found = day.events(stage, 0.0, 0.0, self.seconds, day.cohort(stage))
        many = rng.poisson(self.world.rps * self.seconds)
        times = np.sort(rng.random(many) * self.seconds)
        users = rng.choice(day.people.size, many, p=day.people.rates / day.people.rates.sum())
        sampled = [
            (float(t), self._entry(stage, opened_s, t, u, None, ""))
            for t, u in zip(times, users, strict=True)
        ]
        ids = [f"{stage}-{index}" for index in range(len(found.t))]
        rows = zip(found.t, found.user, found.level, ids, strict=True)
        events = [(float(t), self._entry(stage, opened_s, t, u, int(k), name)) for t, u, k, name in rows]
        self.entries = sorted(sampled + events, key=lambda pair: pair[0])
        self._count(stage, found, times, users, ids)
        self.seen[users] = stage
        self.seen[found.user] = stage

    def _count(self, stage: int, found: Any, times: Any, users: Any, ids: list[str]) -> None:
        """What the fast path is given of the same stage."""
        keep = found.t >= SETTLE_S
        t, user = found.t[keep], found.user[keep]
        made, bucket, seen = self.day.lines, self.day.buckets[user], self.seen[user]
        heads = made.inside[stage][bucket]
        inside = (seen >= 0) & made.inside[np.maximum(seen, 0), bucket]
        late = times >= SETTLE_S
        _, where = np.unique(users[late], return_index=True)
        first_seen = np.sort(times[late][where])
        lucky = np.array([keeps(SALT, name, 0.5) for name in ids])[keep]
        self.counted = Counted(
            t=t,
            user=user,
            heads=heads,
            code=made.archs[bucket].astype(np.int64) * (stage + 1) + seen + 1,
            coin=~inside,
            kept=~heads | lucky,
            active=np.searchsorted(first_seen, t).astype(np.float64),
        )
        self.level = found.level[keep]

    def row(self, kind: Kind, *, thinned: bool = False) -> Row:
        """The fast path's view of a kind."""
        assert self.counted is not None
        mine = self.level == 0 if kind is Kind.FAILURE else self.level > SLOW_KINDS.index(kind)
        return Row.make(self.counted, mine & self.counted.kept if thinned else mine)

    def carry(self, stage: int) -> None:
        """Leave a stage: what the process that goes on over all stages takes along."""
        odds = harm_odds(self.day.lines.biases(stage))
        for kind, row in self.rows().items():
            places = coins_of(row.before, row.coin, row.begins, 0)
            now = odds.log_ratios(row.code[places], row.heads[places], np.array([len(places)]))[0]
            self.carried[kind] = self.carried.get(kind, 0.0) + now

    def rows(self) -> dict[Kind, Row]:
        """Of every kind."""
        return {kind: self.row(kind) for kind in KINDS}

    def _entry(self, stage: int, opened_s: float, t: float, user: int, level: int | None, name: str) -> Entry:
        bucket = int(self.day.buckets[user])
        line = self.day.lines.lines[stage]
        limits = limits_ms(self.world.latency_sigma)
        slow_ms = limits[level - 1] + 1e-6 if level else 1.0
        return Entry(
            at_s=opened_s + float(t),
            uid_hash=int(user),
            bucket=bucket,
            cluster="m",
            version=VERSION if line.side(bucket) == "candidate" else STABLE,
            route="hash",
            event_log=level is not None,
            status=500 if level == 0 else 200,
            flags="",
            marker=None,
            duration_ms=slow_ms,
            request_id=name,
        )
