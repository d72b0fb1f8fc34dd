"""The candidate's own rate against an absolute objective: shown below it, or shown above it.

Problem: services with hardly any event never show "fewer events than stable", and at 100 % there is no stable
side to compare with. Invariant: the unit is a user's *first* sampled request in the stage, so a busy user
counts once; both directions are e-values, valid whenever one looks (proof at `evalues.bernoulli_log_e`).
At 100 % further processes start within the stage (`processes`), each counting first requests since its own start:
a version that fails only after an hour has had everybody's first request long before.

What is assumed, and not for coins: given what was seen before, the next user's first request is bad with a
chance on the null's side of the objective. One stage is one test of each kind; a rollout passes wrongly by this
way only if its last stage that asks for no harm does, so the stages do not share beta.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import Final

from sluice.coins import bar
from sluice.evalues import bernoulli_log_e
from sluice.evidence import Baseline, Kind, ObjectiveCount

_BELOW: Final = (0.0, 0.1, 0.25, 0.5, 0.75)  # times the objective
_ABOVE: Final = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)  # times the limit's odds, so that rates stay below 1


@lru_cache(maxsize=64)
def rates_below(limit: float) -> tuple[float, ...]:
    """Rates mixed to show "below the limit"; limit in (0, 1)."""
    return tuple(limit * factor for factor in _BELOW)


@lru_cache(maxsize=64)
def rates_above(limit: float) -> tuple[float, ...]:
    """Rates mixed to show "above the limit"; limit in (0, 1)."""
    odds = limit / (1 - limit)
    return tuple(odds * factor / (1 + odds * factor) for factor in _ABOVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveReading:
    """One process' log e-value against its kind's limit, and the bar for it."""

    kind: Kind
    process: int
    limit: float
    ok: int
    bad: int
    log_e: float
    bar: float

    @property
    def users(self) -> int:
        """Users counted."""
        return self.ok + self.bad

    @property
    def crossed(self) -> bool:
        """Whether the bar is reached; NaN is not."""
        return self.log_e >= self.bar


def shown_below(
    counts: Sequence[ObjectiveCount], limits: Mapping[Kind, float], level: float
) -> dict[Kind, ObjectiveReading]:
    """Per kind in `limits` with counts: the evidence that the rate is below its limit. level: of error, (0, 1)."""
    return {
        row.kind: _reading(row, limits[row.kind], rates_below(limits[row.kind]), -log(level))
        for row in counts
        if row.kind in limits and row.process == 0
    }


def shown_above(
    counts: Sequence[ObjectiveCount], limits: Mapping[Kind, float], levels: Mapping[Kind, float]
) -> dict[Kind, tuple[ObjectiveReading, ...]]:
    """Per kind in `levels` with counts: the evidence of each process that the rate is above its limit.

    levels: parts of alpha. A process pays for it with its weight, as those of coins do: it starts when so many
    users were counted, whatever became of them, so a fault that begins late is still a fault of first requests.
    """
    found: dict[Kind, list[ObjectiveReading]] = {}
    for row in counts:
        if row.kind in levels:
            limit = limits[row.kind]
            reading = _reading(row, limit, rates_above(limit), bar(levels[row.kind], row.process))
            found.setdefault(row.kind, []).append(reading)
    return {kind: tuple(readings) for kind, readings in found.items()}


def _reading(row: ObjectiveCount, limit: float, rates: tuple[float, ...], level: float) -> ObjectiveReading:
    return ObjectiveReading(
        kind=row.kind,
        process=row.process,
        limit=limit,
        ok=row.ok,
        bad=row.bad,
        log_e=bernoulli_log_e(row.bad, row.ok, limit, rates),
        bar=level,
    )


def watch_limits(
    objectives: Mapping[Kind, float], baselines: Sequence[Baseline], rho0: float
) -> dict[Kind, float]:
    """What the candidate alone is held to at 100 %: its objective, or rho0 times what stable had if that is more.

    Without the baseline a service whose clients cause 2 % of 4xx would lose every version to the watch. At most
    0.99, so that it stays a limit.
    """
    stable = {baseline.kind: baseline.rate for baseline in baselines}
    return {kind: min(max(limit, rho0 * stable.get(kind, 0.0)), 0.99) for kind, limit in objectives.items()}
