"""The watch at 100 %: the candidate's own rate against a limit, as `sluice.objective` counts it.

Problem: every sampled request of every user may be a first one of some process, and an hour has 720 000 of them.
Invariant: only bad requests are drawn. Whether one is its user's first since a process started is decided by how long
ago the user's sampled request before it was, which is exponential; how many users a process has counted is their mean,
whose own spread is below 1 % for a thousand users.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict.users import Floats, Ints, Population
from benchmarks.verdict.world import SETTLE_S, Day
from sluice.coins import bar, kind_weight
from sluice.evidence import Kind
from sluice.judgement import GateLike
from sluice.objective import rates_above
from sluice.power import watch_floor
from sluice.processes import EPOCH_MIN_USERS, EPOCH_SHARE, LIVE_PROCESSES
from sluice.verdict import WATCHED

LOOK_S: Final = 30.0
LEVELS: Final = {Kind.FAILURE: 0, Kind.SLOW_P99X150: 4}  # of `Events`


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """Bad sampled requests by the processes that count them: a row for each pair, in order of process, then time.

    rank: how many of the process' so far, this one included. users: whom the process had counted by then.
    """

    process: Ints
    t: Floats
    rank: Ints
    users: Floats


def process_starts(people: Population, until: float) -> Floats:
    """Seconds into the watch at which its processes start, in mean traffic; the first after settling."""
    starts, seen, times = [SETTLE_S], people.seen, people.times_s
    while starts[-1] < until:
        active = float(np.interp(starts[-1] - SETTLE_S, times, seen))
        for _ in range(2):  # the active users grow while the epoch lasts
            wanted = min(max(EPOCH_MIN_USERS, EPOCH_SHARE * active), float(seen[-1]))
            lasts = float(np.interp(wanted, seen, times))
            active = float(np.interp(starts[-1] - SETTLE_S + lasts, times, seen))
        starts.append(starts[-1] + max(lasts, 1e-3))
    return np.array(starts)


def counted(day: Day, t: Floats, user: Ints, sampled: float, starts: Floats) -> Bad:
    """Which processes count each bad request. t: in mean traffic since the watch opened, rising."""
    people = day.people
    ago = day.rng.standard_exponential(len(t)) / (people.rates[user] * sampled)
    newest = np.searchsorted(starts, t, side="right") - 1
    oldest = np.maximum(np.searchsorted(starts, t - ago, side="right"), newest - (LIVE_PROCESSES - 2))
    offsets = np.arange(LIVE_PROCESSES - 1)
    process = newest[:, None] - offsets
    valid = (process >= oldest[:, None]) & (process >= 1)
    whole = (newest >= 0) & (t - ago < starts[0])
    places = np.broadcast_to(np.arange(len(t))[:, None], process.shape)
    # One number a pair, process first: it sorts faster than two columns do.
    pairs = np.concatenate([np.flatnonzero(whole), process[valid] * len(t) + places[valid]])
    pairs.sort()
    p, at = pairs // max(len(t), 1), t[pairs % max(len(t), 1)]
    first = np.searchsorted(p, p, side="left")
    users = np.interp(at - starts[p], people.times_s, people.seen)
    rank = np.arange(len(p)) - first + 1
    return Bad(process=p.astype(np.int32), t=at, rank=rank.astype(np.int32), users=users)


def first_above(bad: Bad, limit: float, level: float) -> float | None:
    """When a process first showed a rate above the limit; None if none did. level: the kind's part of alpha."""
    likely = np.flatnonzero(bad.rank > limit * bad.users)
    if not len(likely):
        return None
    rank = bad.rank[likely].astype(np.float64)
    ok = np.maximum(bad.users[likely] - rank, 0.0)
    rates = np.array(rates_above(limit))
    gained = rank[:, None] * np.log(rates / limit) + ok[:, None] * (np.log1p(-rates) - np.log1p(-limit))
    top = gained.max(axis=1)
    log_e = top + np.log(np.exp(gained - top[:, None]).mean(axis=1))
    number = bad.process[likely].astype(np.float64)
    bars = -np.log(level) + np.log((number + 1) * (number + 2))
    crossed = bad.t[likely][log_e >= bars]
    return float(crossed.min()) if len(crossed) else None


def settled(bad: Bad, limit: float, level: float, starts: Floats, people: Population, at: float) -> bool:
    """Whether the watch passes at `at` seconds: enough users, and no rate above the limit, in all or lately."""
    for process in (0, *_lately(limit, level, starts, people, at)):
        need = _need(limit, level, process)
        users = float(np.interp(at - starts[process], people.times_s, people.seen))
        first, last = np.searchsorted(bad.process, [process, process + 1])
        many = int(np.searchsorted(bad.t[first:last], at, side="right"))
        if (process == 0 and (need is None or users < need)) or many > limit * users:
            return False
    return True


def _lately(limit: float, level: float, starts: Floats, people: Population, at: float) -> list[int]:
    """The newest process that has counted as many users as the floor asks."""
    newest = int(np.searchsorted(starts, at, side="right")) - 1
    for process in range(newest, max(newest - (LIVE_PROCESSES - 1), 0), -1):
        need = _need(limit, level, process)
        if need is not None and float(np.interp(at - starts[process], people.times_s, people.seen)) >= need:
            return [process]
    return []


def _need(limit: float, level: float, process: int) -> int | None:
    # The product rounds the bar to three digits; a whole one here is the same floor within a percent, and kept.
    return watch_floor(limit, float(np.ceil(bar(level, process))), rates_above(limit))


def watched_levels(gate: GateLike) -> dict[Kind, float]:
    """Each watched kind's part of alpha."""
    return {kind: gate.alpha * kind_weight(kind, gate.metrics) for kind in WATCHED}


def rows_of(day: Day, opened_s: float, until: float, sampled: float, starts: Floats) -> dict[Kind, Bad]:
    """The bad sampled requests of a watch of `until` seconds, by kind."""
    cohort = np.arange(day.people.size, dtype=np.int32)
    found = day.events(3, opened_s, 0.0, until, cohort, least=4)
    keep: NDArray[np.bool_] = (found.t >= SETTLE_S) & (day.rng.random(len(found.t)) < sampled)
    t = day.pace(opened_s + found.t) - day.pace(opened_s)
    out = {}
    for kind, level in LEVELS.items():
        mine = keep & (found.level == level)
        out[kind] = counted(day, t[mine], found.user[mine], sampled, starts)
    return out
