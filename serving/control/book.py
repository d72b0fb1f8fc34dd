"""What is counted while traffic flows: per service a meter, per running rollout a book around the tally.

Problem: entries come in at hundreds a second and must never wait for a database. Invariants: taking an entry in is
arithmetic on memory; a book's evidence is the tally's alone, what is kept beside it (who was exposed, live figures)
is for reports and never enters a verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from serving.control.ledger import Head
from sluice.entry import HASH_ROUTE
from sluice.hashline import HashLine
from sluice.latency import Latencies, Live, SlowLimits
from sluice.tally import Entry, Tally

SAMPLES_PER_S: Final = 200.0  # of all requests of a service, at most
CALMER: Final = 0.6  # the sampled share rises again only when traffic is this far below the next step


class Meter:
    """One service as it flows, with or without a rollout. `stable`: version name as entries carry it."""

    def __init__(self, samples_per_s: float) -> None:
        self._samples_per_s = samples_per_s
        self.stable: str | None = None
        self.latencies = Latencies()
        self.live: dict[str, Live] = {}
        self.requests: dict[str, float] = {}  # by version, sampled requests scaled up
        self.sample_fraction = 1.0

    def add(self, entry: Entry) -> None:
        live = self.live.get(entry.version)
        if live is None:
            live = self.live[entry.version] = Live()
        live.add(entry)
        if entry.event_log:
            return
        self.requests[entry.version] = self.requests.get(entry.version, 0.0) + 1 / self.sample_fraction
        if entry.version == self.stable and entry.route == HASH_ROUTE and entry.duration_ms is not None:
            self.latencies.add(entry.at_s, entry.duration_ms)

    def follow_stable(self, version: str | None) -> None:
        """Learn which version is stable: what is slow is measured against that one alone."""
        if version != self.stable:
            self.stable, self.latencies = version, Latencies()

    def follow(self, requests_per_s: float) -> bool:
        """Choose the sampled share: a power of 1/2, so that it changes rarely. True when it changed."""
        share = sampled_share(requests_per_s, self._samples_per_s)
        rises = share > self.sample_fraction
        if rises:
            share = min(share, sampled_share(requests_per_s / CALMER, self._samples_per_s))
        if share == self.sample_fraction or (rises and share < self.sample_fraction):
            return False
        self.sample_fraction = share
        return True


def sampled_share(requests_per_s: float, samples_per_s: float) -> float:
    """The greatest 1/2^k, k >= 0, at which at most `samples_per_s` (> 0) of the requests are sampled."""
    if requests_per_s <= samples_per_s:
        return 1.0
    return 0.5 ** math.ceil(math.log2(requests_per_s / samples_per_s) - 1e-9)


class Book:
    """The tally of one rollout, and who was served by its candidate."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.stages: dict[int, dict[str, Any]] = {}  # closed and open stages: users, requests, events
        self._users: set[int] = set()  # served by the candidate in the open stage

    @classmethod
    def begin(cls, head: Head) -> Book:
        """An empty book for a rollout that has a candidate."""
        gates, candidate = head.policy["gates"], head.candidate or {}
        return cls(
            Tally(
                service=head.service,
                rollout=head.id,
                epoch=head.epoch,
                version=candidate["version"],
                stable=None if head.stable is None else head.stable["version"],
                salt=head.salt,
                rho0=gates["rho0"],
                settle_s=gates["settle_s"],
            )
        )

    def open(
        self, stage: int, percent: float, line: HashLine, at_s: float, limits: SlowLimits | None
    ) -> None:
        """Count for the next stage. The stage that is open already: nothing changes."""
        if self.tally.stage == stage:
            return
        self.tally.open_stage(stage, percent, line, at_s, limits)
        self._users = set()
        self.stages[stage] = {"stage": stage, "percent": percent, "users": 0, "requests": 0.0, "events": 0}

    def acknowledged(self, at_s: float) -> None:
        """Every gateway had the open stage at `at_s`. Who was exposed before was exposed all the same."""
        self.tally.acknowledged(at_s)

    def add(self, entry: Entry, sample_fraction: float) -> None:
        self.tally.add(entry)
        if entry.version != self.tally.version or entry.route != HASH_ROUTE or self.tally.stage is None:
            return
        exposed = self.stages[self.tally.stage]
        self._users.add(entry.uid_hash)
        exposed["users"] = len(self._users)
        if entry.event_log:
            exposed["events"] += 1
        else:
            exposed["requests"] += 1 / sample_fraction

    def exposed(self) -> dict[str, Any]:
        """Who the candidate served, by stage: distinct users seen, requests (sampled ones scaled up), events."""
        rows = [{**row, "requests": round(row["requests"])} for _, row in sorted(self.stages.items())]
        return {"stages": rows, "requests": sum(row["requests"] for row in rows)}

    def to_bytes(self) -> bytes:
        """For the ledger's snapshot."""
        plain = {
            "tally": self.tally.snapshot(),
            "stages": sorted(self.stages.items()),
            "users": sorted(self._users),
        }
        return json.dumps(plain, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, body: bytes) -> Book:
        """The inverse of `to_bytes`. Raises FatalError or ValueError for something else."""
        plain: Mapping[str, Any] = json.loads(body)
        book = cls(Tally.restore(plain["tally"]))
        book.stages = {int(stage): row for stage, row in plain["stages"]}
        book._users = set(plain["users"])
        return book
