"""One stage below 100 %: when its coins first say harm, and when it first passes.

Problem: the plain path (a tally fed entry by entry, judged after each) takes seconds for one rollout. Invariant: given
the same events it finds the same crossing and the same pass as `sluice.tally.Tally` with `sluice.verdict.judge`; tests
hold both against each other.

Harm is asked after every event of the candidate's: only those raise it. The guard looks every 0.25 s, at some of these
moments, so nothing here turns back less often than the product.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict.crossing import Odds
from benchmarks.verdict.epochs import coins_of, life, most_heads, previous, starts
from benchmarks.verdict.users import Floats, Ints
from sluice.coins import HARM_ODDS, bar, kind_weight, no_harm_odds
from sluice.evidence import KINDS, Kind
from sluice.judgement import GateLike
from sluice.objective import rates_below
from sluice.power import stage_floor

NOT_YET: Final = np.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The counted events of all kinds, in order of time.

    heads: by the candidate's users. code: stratum x ways + way of having been seen. coin: False for a user who is no
    coin. kept: by thinning; all of stable's. active: users seen by a sample when the event came.
    """

    t: Floats
    user: Ints
    heads: NDArray[np.bool_]
    code: NDArray[np.int64]
    coin: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    active: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The events of one kind and test. before: see `epochs.previous`. begins: of the processes."""

    t: Floats
    heads: NDArray[np.bool_]
    code: NDArray[np.int64]
    coin: NDArray[np.bool_]
    before: Ints
    begins: list[int]

    @classmethod
    def make(cls, counted: Counted, mine: NDArray[np.bool_]) -> "Row":
        """Of the events that `mine` chooses, work out predecessors and processes."""
        places = np.flatnonzero(mine)
        before = previous(counted.user[places])
        return cls(
            t=counted.t[places],
            heads=counted.heads[places],
            code=counted.code[places],
            coin=counted.coin[places],
            before=before,
            begins=starts(before, counted.active[places]),
        )

    def processes_by(self, at_s: float) -> int:
        """How many processes had started by then."""
        places = np.searchsorted(self.t, at_s, side="right")
        return 1 + sum(1 for begin in self.begins[1:] if begin <= places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """A crossing. at_s: seconds since the stage opened."""

    at_s: float
    kind: Kind
    process: int


def first_harm(
    rows: dict[Kind, Row],
    firsts: dict[Kind, int],
    odds: Odds,
    gate: GateLike,
    until: float,
    carried: Mapping[Kind, Floats] | None = None,
) -> Harm | None:
    """The first crossing of any process of any kind up to `until` seconds.

    firsts: each kind's first number. carried: what process 0 of the rollout brings from the stages before.
    """
    best: Harm | None = None
    for kind, row in rows.items():
        level = gate.alpha * kind_weight(kind, gate.metrics)
        if level <= 0:
            continue
        for process in _able(row, firsts[kind], odds, level):
            number = firsts[kind] + process
            last = until if best is None else best.at_s
            at_s = _crossed_at(row, process, odds, bar(level, number), last)
            if at_s is not None:
                best = Harm(at_s=at_s, kind=kind, process=number)
        if carried is not None:
            last = until if best is None else best.at_s
            at_s = _crossed_at(row, 0, odds, bar(level, 0), last, carried[kind])
            if at_s is not None:
                best = Harm(at_s=at_s, kind=kind, process=0)
    return best


def _able(row: Row, first: int, odds: Odds, level: float) -> list[int]:
    """The processes with so many heads that a head's greatest gain, log(1/bias), could add up to their bar."""
    number = first + np.arange(len(row.begins), dtype=np.float64)
    bars = np.log((number + 1) * (number + 2)) - np.log(level)
    heads = most_heads(row.before, row.heads, row.begins)
    places: list[int] = np.flatnonzero(heads * -np.log(odds.least) >= bars).tolist()
    return places


def _crossed_at(
    row: Row, process: int, odds: Odds, level: float, until: float, carried: Floats | None = None
) -> float | None:
    """When the process first reached its bar, strictly before or at `until`; None if never."""
    if row.begins[process] >= len(row.t) or row.t[row.begins[process]] > until:
        return None
    places = coins_of(row.before, row.coin, row.begins, process)
    heads = row.heads[places]
    ends = np.flatnonzero(heads) + 1
    if not len(ends):
        return None
    code = row.code[places[: ends[-1]]]
    heads = heads[: ends[-1]]
    # The largest part of what is carried bounds what it adds to any part.
    brought = 0.0 if carried is None else max(float(carried.max()), float(carried.sum(axis=0).max()))
    if not odds.may_reach(code, heads, ends, level - brought):
        return None
    reached = odds.log_e(code, heads, ends, carried) >= level
    first = int(reached.argmax())
    if not reached[first]:
        return None
    at_s = float(row.t[places[ends[first] - 1]])
    return at_s if at_s <= until else None


def no_harm_shown(thinned: Row, odds: Odds, level: float, looks: Floats) -> NDArray[np.bool_]:
    """At each look, whether a process that lives then has reached its bar. level: of error, (0, 1)."""
    shown = np.zeros(len(looks), dtype=np.bool_)
    upto = np.searchsorted(thinned.t, looks, side="right")
    for process in range(len(thinned.begins)):
        first, last = life(thinned.begins, process, len(thinned.t))
        alive = (first <= upto) & (upto <= last)
        if not alive.any() or shown[alive].all():
            continue
        places = coins_of(thinned.before, thinned.coin, thinned.begins, process)
        ends = np.searchsorted(places, upto[alive])
        value = odds.log_e(thinned.code[places], thinned.heads[places], ends)
        shown[alive] |= value >= bar(level, process)
    return shown


def objective_shown(ok: Floats, bad: Floats, limit: float, level: float) -> NDArray[np.bool_]:
    """Whether so many first requests show a rate below the limit; ok, bad: by look."""
    rates = np.array(rates_below(limit))
    with np.errstate(divide="ignore", invalid="ignore"):
        gained = np.where(bad[:, None] > 0, bad[:, None] * np.log(rates / limit), 0.0)
    gained = gained + ok[:, None] * (np.log1p(-rates) - np.log1p(-limit))
    top = gained.max(axis=1)
    return top + np.log(np.exp(gained - top[:, None]).mean(axis=1)) >= -np.log(level)


def power_floor_reached(
    share: float, gate: GateLike, first: int, stable_rates: Sequence[float], candidates: Sequence[int]
) -> tuple[int | None, int | None]:
    """(index of the first look at which enough candidate users were seen, how many the last asked look needs).

    share: of the stage. first: number of the oldest process of failures. stable_rates: stable's users with a failure
    by its users, candidates: users who are coins; by look.
    """
    level = bar(gate.alpha * kind_weight(Kind.FAILURE, gate.metrics), first)
    need: int | None = None
    for index, (rate, have) in enumerate(zip(stable_rates, candidates, strict=True)):
        need = stage_floor(share, min(rate, 1.0), level, HARM_ODDS)
        if need is not None and have >= need:
            return index, need
    return None, need


def harm_odds(biases: Floats) -> Odds:
    """For `first_harm`."""
    return Odds(HARM_ODDS, biases)


def better_odds(biases: Floats, rho0: float) -> Odds:
    """For `no_harm_shown`."""
    return Odds(no_harm_odds(rho0), biases)


def counting(like_load: bool) -> tuple[Kind, ...]:
    """The kinds that toss coins."""
    return KINDS if like_load else KINDS[:1]
