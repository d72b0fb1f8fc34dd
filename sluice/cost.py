"""What a million rows cost on one architecture, and whether that is too dear. Pure.

Problem: a cost that was never measured shows as 0, and 0 is below every limit. Invariant: a cost is a finite number
above 0, or None; None is "unknown", and a limit that meets it is not kept. Money is in the currency of the reader's
prices, whatever that is; nothing here converts.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

SECONDS_PER_HOUR: Final = 3600.0
MILLION: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Costing:
    """One architecture's cost beside the champion's.

    per_million: of a million rows; None: unknown, and why_unknown says why. champion: the champion's, at the same
    price; None: unknown, and why_no_champion says why. alone: there is nothing to compare with: no champion, or none
    of its engines is for this architecture.
    """

    arch: str
    per_million: float | None
    why_unknown: str = ""
    champion: float | None = None
    why_no_champion: str = ""
    alone: bool = False

    @property
    def ratio(self) -> float | None:
        """This cost by the champion's: above 1 is dearer. None when either is unknown."""
        return ratio(self.per_million, self.champion)


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """One limit that one target does not keep. next_step: what the reader does now."""

    arch: str
    message: str
    next_step: str


def known(value: object) -> float | None:
    """The number, when it is finite and above 0; else None: missing, NaN, infinite, 0, negative, no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def per_million(price_per_hour: object, rows_per_s: object) -> float | None:
    """Cost of a million rows of a machine that is always busy, in the price's currency.

    price_per_hour: of one GPU, or of one replica on a CPU; above 0. rows_per_s: measured throughput of that one GPU
    or replica, above 0. A row is one sample of a batch: a request of one row is one. None when either is not known.
    """
    price, rate = known(price_per_hour), known(rows_per_s)
    if price is None or rate is None:
        return None
    return known(price / SECONDS_PER_HOUR / rate * MILLION)


def ratio(value: object, base: object) -> float | None:
    """value / base; None when either is not known."""
    one, other = known(value), known(base)
    return None if one is None or other is None else known(one / other)


def fleet(shares: Mapping[str, float], costs: Mapping[str, float | None]) -> float | None:
    """Cost of a million rows of the whole fleet: the mean of the targets' costs, weighted by their shares.

    shares: of the requests by architecture, each above 0. costs: per million rows; one that is missing or None makes
    the whole unknown, since a mean over the rest would be another fleet's.
    """
    found = {arch: known(costs.get(arch)) for arch in shares}
    total = sum(shares.values())
    if not total > 0 or any(cost is None for cost in found.values()):
        return None
    return known(sum(share * (found[arch] or 0.0) for arch, share in shares.items()) / total)


def excesses(
    costings: Iterable[Costing], *, max_per_million: float | None, max_ratio: float | None
) -> list[Excess]:
    """Every limit that is not kept; empty when all are. A limit of None is not set and asks nothing.

    max_per_million: in the price's currency. max_ratio: against the champion's cost of the same architecture; an
    architecture that has nothing to compare with keeps it.
    """
    return [
        excess
        for costing in costings
        for excess in (*_dear(costing, max_per_million), *_dearer(costing, max_ratio))
    ]


def _dear(one: Costing, limit: float | None) -> Iterator[Excess]:
    if limit is None:
        return
    if one.per_million is None:
        yield _unknown(one, f"cost.max_per_million is {limit:g}", "cost.max_per_million")
    elif not one.per_million <= limit:
        yield Excess(
            arch=one.arch,
            message=f"target {one.arch}: a million rows cost {one.per_million:.4g}, cost.max_per_million is {limit:g}",
            next_step=f"make the engine of {one.arch} faster, take the target out, or raise cost.max_per_million",
        )


def _dearer(one: Costing, limit: float | None) -> Iterator[Excess]:
    if limit is None or one.alone:
        return
    if one.per_million is None:
        yield _unknown(one, f"cost.max_ratio is {limit:g}", "cost.max_ratio")
    elif one.ratio is None:
        why = one.why_no_champion or "no reason given"
        yield Excess(
            arch=one.arch,
            message=f"target {one.arch}: the champion's cost is unknown, cost.max_ratio is {limit:g}: {why}",
            next_step="set cost.max_ratio to null until a version with figures is the champion",
        )
    elif not one.ratio <= limit:
        figures = f"a million rows cost {one.per_million:.4g}, the champion's {one.champion:.4g}"
        yield Excess(
            arch=one.arch,
            message=f"target {one.arch}: {figures}: {one.ratio:.4g} times, cost.max_ratio is {limit:g}",
            next_step=f"make the engine of {one.arch} faster, take the target out, or raise cost.max_ratio",
        )


def _unknown(one: Costing, limit: str, name: str) -> Excess:
    return Excess(
        arch=one.arch,
        message=f"target {one.arch}: its cost is unknown, {limit}: {one.why_unknown or 'no reason given'}",
        next_step=f"build {one.arch} where it can be timed (targets[].selector), or set {name} to null",
    )
