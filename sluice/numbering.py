"""The coin processes of a whole rollout: which number each has, and the one that goes on over all stages.

Problem: a fault that is there from the start has been half shown when a stage ends; a process that starts with the next
stage forgets it. Invariant: every process is a martingale under "the candidate changes nothing" in the information
that it uses itself, and no two ever have the same number, so each pays for its own bar.

The process that goes on. In each stage it tosses what the stage's first process tosses, and its likelihood ratio, for
each odds ratio and stratum, is the product over the stages. Proof: a stage's coins, given all that earlier stages saw,
are independent with the biases stated (`coins`); so the expectation of the stage's factor given the product so far is
1, and the product is a martingale for each odds ratio. So are its mixtures with fixed weights over odds and strata.
When a stage is left depends on its coins, but a martingale stopped and continued on what it was is one. Beside it each
stage's own first process starts at 1: it finds what began with the stage, where the other has to make up for what it
lost before.

Where a stage's counts are dropped after coins were tossed (`Tally.acknowledged`), a factor of the product would be
dropped with them, and one below 1 may not be. So what goes on from the stages before is then another process, with a
number of its own, that never saw the dropped coins; the one before has ended.
"""

from collections.abc import Mapping
from typing import Any

from sluice.book import Page
from sluice.evidence import KINDS, TESTS, CoinCount, Kind, Test, coin_order
from sluice.hashline import HashLine
from sluice.processes import NEVER, CoinKey

_Rows = dict[tuple[Kind, Test, int, str, float], list[int]]


class Numbering:
    """lines: by stage. first: number of the open stage's first harm process. whole: of the one that goes on."""

    def __init__(self) -> None:
        self.lines: dict[int, HashLine] = {}
        self.first: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.whole: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._carried: dict[Kind, dict[tuple[str, float], list[int]]] = {kind: {} for kind in KINDS}

    def leave(self, page: Page) -> None:
        """The stage ends: keep what its first process tossed, and number the next stage's after this one's."""
        for kind in KINDS:
            for key, (heads, tails) in self._first_tossed(page, kind):
                pair = self._carried[kind].setdefault(key, [0, 0])
                pair[0] += heads
                pair[1] += tails
        self._spend(page)

    def drop(self, page: Page) -> None:
        """The open stage's counts are dropped, and it starts again."""
        self._spend(page)
        for kind in KINDS:
            self.whole[kind] = self.first[kind]
            self.first[kind] += self._goes_on(kind)

    def coins(self, page: Page, kinds: tuple[Kind, ...]) -> tuple[CoinCount, ...]:
        """The rows of every process that lives."""
        rows: _Rows = {}
        for kind in kinds:
            for test in TESTS:
                self._add_stage_s(rows, page, kind, test)
            if self._goes_on(kind) or self.whole[kind] != self.first[kind]:
                self._add_whole(rows, page, kind)
        coins = (
            CoinCount(kind=kind, test=test, process=j, stratum=arch, bias=bias, heads=heads, tails=tails)
            for (kind, test, j, arch, bias), (heads, tails) in rows.items()
        )
        return tuple(sorted(coins, key=coin_order))

    def bias(self, page: Page, key: CoinKey) -> float:
        """(w - v)/(1 - v) in whole buckets; v is 0 for a user never seen."""
        arch, seen = key
        outside = self.lines[seen].taken(arch) if seen != NEVER else 0
        free = page.line.size(arch) - outside
        return (page.line.taken(arch) - outside) / free

    def to_json(self) -> dict[str, Any]:
        """For a snapshot."""
        rows = [[kind, *key, *pair] for kind, found in self._carried.items() for key, pair in found.items()]
        return {
            "first": {str(kind): number for kind, number in self.first.items()},
            "whole": {str(kind): number for kind, number in self.whole.items()},
            "carried": rows,
            "lines": [[stage, line.to_json()] for stage, line in self.lines.items()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Numbering":
        """The inverse of `to_json`."""
        made = cls()
        made.first = {Kind(kind): number for kind, number in data["first"].items()}
        made.whole = {Kind(kind): number for kind, number in data["whole"].items()}
        for kind, arch, bias, heads, tails in data["carried"]:
            made._carried[Kind(kind)][arch, bias] = [heads, tails]
        made.lines = {stage: HashLine.from_json(line) for stage, line in data["lines"]}
        return made

    def _goes_on(self, kind: Kind) -> bool:
        """Whether an earlier stage tossed anything; before that the stage's first process is the whole."""
        return bool(self._carried[kind])

    def _spend(self, page: Page) -> None:
        for kind in KINDS if page.limits_ms is not None else (Kind.FAILURE,):
            self.first[kind] += page.series["harm", kind].newest + 1

    def _first_tossed(self, page: Page, kind: Kind) -> list[tuple[tuple[str, float], list[int]]]:
        counts = page.series["harm", kind].counts.items()
        return [((key[0], self.bias(page, key)), pair) for (process, key), pair in counts if process == 0]

    def _add_stage_s(self, rows: _Rows, page: Page, kind: Kind, test: Test) -> None:
        series = page.series[test, kind]
        first = self.first[kind] if test == "harm" else 0
        for process in series.live:
            for arch in page.line.archs:
                rows[kind, test, first + process, arch, self.bias(page, (arch, NEVER))] = [0, 0]
        for (process, key), (heads, tails) in series.counts.items():
            row = rows.setdefault((kind, test, first + process, key[0], self.bias(page, key)), [0, 0])
            row[0] += heads
            row[1] += tails

    def _add_whole(self, rows: _Rows, page: Page, kind: Kind) -> None:
        number = self.whole[kind]
        for arch in page.line.archs:
            rows[kind, "harm", number, arch, self.bias(page, (arch, NEVER))] = [0, 0]
        for (arch, bias), (heads, tails) in [*self._carried[kind].items(), *self._first_tossed(page, kind)]:
            row = rows.setdefault((kind, "harm", number, arch, bias), [0, 0])
            row[0] += heads
            row[1] += tails
