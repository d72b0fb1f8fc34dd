"""The controller's own evidence: entries in, verdicts out.

Problem: the guard must be able to close a stage with nothing else running, and `open` must be refused without a
pass that this process made from its own counts. Invariants: verdicts come from `sluice.verdict.judge` and, where the
spec has absolute gates, from `sluice.absolute.weighed` beside it; what this module adds can only turn a pass into a
hold (held by a person, not acknowledged by every gateway), never the other way round and never against a harm.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from typing import Any, Final

from serving.control.book import SAMPLES_PER_S, Book, Meter
from serving.control.capacity import Capacity
from serving.control.ledger import Head, Ledger
from serving.control.problems import ControlProblem
from serving.control.traffic import Sight, Standing
from serving.control.workloads import load_groups, workloads_for
from serving.control.xds.interface import TrafficPlane
from sluice.absolute import Ask, looks, stand_of, weighed
from sluice.errors import FatalError
from sluice.evidence import StageEvidence
from sluice.hashline import HashLine
from sluice.promql import Answer
from sluice.spec_policy import Policy
from sluice.stages import Pass, State
from sluice.tally import Entry, like_load
from sluice.verdict import Action, Verdict, judge, stage_policy

SNAPSHOT_S: Final = 5.0
SNAPSHOT_SHARE: Final = (
    0.02  # of the event loop's time that snapshots may take: large books are copied less often
)

_log = logging.getLogger(__name__)


class Evidence:
    """Counts what the gateways report and judges the open stages."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        capacity: Capacity,
        plane: Callable[[], TrafficPlane],
        now: Callable[[], datetime],
        answers: Callable[[str], Mapping[Ask, Answer]],
        samples_per_s: float = SAMPLES_PER_S,
    ) -> None:
        """answers: what Prometheus last said of a rollout, by its id."""
        self._samples_per_s, self._answers = samples_per_s, answers
        self._ledger, self._capacity, self._plane, self._now = ledger, capacity, plane, now
        self._meters: dict[str, Meter] = {}
        self._books: dict[str, Book] = {}  # by service, of the rollout that runs
        self._told: dict[str, Sight] = {}  # by service, as last pushed
        self._next_snapshot = 0.0  # monotonic
        self.entries = 0  # taken in since the start; on /metrics

    # --- what comes in

    def on_entries(self, entries: list[Entry]) -> None:
        """Take in one message of a gateway's access log."""
        self.entries += len(entries)
        for entry in entries:
            service = entry.cluster.partition("_")[0]
            meter = self._meter(service)
            meter.add(entry)
            book = self._books.get(service)
            if book is not None:
                book.add(entry, meter.sample_fraction)

    def observe(self, running: Collection[str]) -> bool:
        """Once per guard pass: compare with the gateways' counters, drop the books of rollouts that do not run.

        True when the gateways must be told anew what to log.
        """
        self._books = {name: book for name, book in self._books.items() if book.tally.rollout in running}
        report = self._plane().reconcile()
        rates: dict[str, float] = {}
        for count in report.counts:
            service = count.cluster.partition("_")[0]
            rates[service] = rates.get(service, 0.0) + count.requests_per_s
        for service, rate in rates.items():
            self._meter(service).follow(rate)
        stale = "; ".join(f"{node}: {why}" for node, why in sorted(report.stale.items())) or None
        if not any(status.connected for status in self._plane().status()):
            stale = "no gateway is connected"
        for book in self._books.values():
            book.tally.stale = stale
        return any(self._sight(service) != told for service, told in self._told.items())

    def sight(self, standing: Standing) -> Sight:
        """What the gateways are to log for a service; also learns here which version is stable."""
        self._meter(standing.service).follow_stable(
            None if standing.stable is None else standing.stable["version"]
        )
        self._told[standing.service] = self._sight(standing.service)
        return self._told[standing.service]

    def _sight(self, service: str) -> Sight:
        return Sight(
            slow_floor_ms=self.slow_floor_ms(service), sample_fraction=self._meter(service).sample_fraction
        )

    def _meter(self, service: str) -> Meter:
        if service not in self._meters:
            self._meters[service] = Meter(self._samples_per_s)
        return self._meters[service]

    def slow_floor_ms(self, service: str) -> float | None:
        """The lowest slow limit of the open stage; None while there is none."""
        book = self._books.get(service)
        limits = None if book is None else book.tally.limits_ms
        return None if limits is None else max(min(limits), 1e-3)

    # --- the life of a book

    def open(self, head: Head) -> None:
        """Count for the stage that the ledger has just opened."""
        if head.stage is None:
            return
        book = self._books.get(head.service)
        if book is None or book.tally.rollout != head.id:
            book = self._books[head.service] = Book.begin(head)
        opened_at_s = datetime.fromisoformat(head.opened[-1]["acked_at"] or head.opened[-1]["at"]).timestamp()
        meter = self._meter(head.service)
        limits = meter.latencies.limits(opened_at_s)
        book.open(head.stage, head.percent, line_of(head), opened_at_s, limits)

    def acknowledged(self, head: Head) -> None:
        """Every gateway has the open stage: what was counted before was partly routed by the stage before."""
        book = self._books.get(head.service)
        if book is not None and book.tally.rollout == head.id and book.tally.stage == head.stage:
            book.acknowledged(datetime.fromisoformat(head.opened[-1]["acked_at"]).timestamp())

    def close(self, head: Head) -> None:
        """Stop counting for a rollout that ended."""
        book = self._books.get(head.service)
        if book is not None and book.tally.rollout == head.id:
            del self._books[head.service]

    def restore(self, head: Head) -> None:
        """Go on counting after a restart, from the last snapshot. Without one the open stage starts anew."""
        body = self._ledger.snapshot(head.id)
        if body is not None:
            try:
                self._books[head.service] = Book.from_bytes(body)
            except (FatalError, ValueError, KeyError, TypeError):
                _log.exception("snapshot of %s cannot be read; its open stage counts from now", head.id)
        self.open(head)

    def save(self, *, force: bool = False) -> None:
        """Write the books into the ledger when it is time to."""
        began = time.monotonic()
        if not self._books or (began < self._next_snapshot and not force):
            return
        self._next_snapshot = (
            began + SNAPSHOT_S
        )  # also when it fails: a broken disk is not tried at every pass
        bodies = {book.tally.rollout: book.to_bytes() for book in self._books.values()}
        self._ledger.save_snapshots(self._now().isoformat(), bodies)
        took_s = time.monotonic() - began
        self._next_snapshot = began + max(SNAPSHOT_S, took_s / SNAPSHOT_SHARE)

    # --- what goes out

    def current(self, head: Head) -> StageEvidence | None:
        """The picture of the rollout's open stage; None when nothing is open."""
        book = self._books.get(head.service)
        if book is None or book.tally.rollout != head.id or book.tally.stage != head.stage:
            return None
        book.tally.like_load = self._like_load(head)
        return book.tally.evidence()

    def _like_load(self, head: Head) -> bool:
        """Whether a replica of either version has about the same share of users, wherever that can be told."""
        if head.stable is None or head.candidate is None:
            return False
        line, stable, candidate = line_of(head), head.stable, head.candidate
        by_policy = {target["arch"]: target["replicas"] for target in head.policy["targets"]}
        return all(
            like_load(
                sum(map(line.taken, archs)) / sum(map(line.size, archs)),
                self._replicas(candidate, archs, by_policy),
                self._replicas(stable, archs, by_policy),
            )
            for archs in load_groups(line.archs, candidate, stable)
        )

    def _replicas(self, version: Mapping[str, Any], archs: list[str], by_policy: Mapping[str, int]) -> int:
        """Ready replicas. What stands behind an adopted upstream is not ours to see: the policy's number."""
        if "upstream" in version:
            return sum(by_policy[arch] for arch in archs)
        return sum(len(self._capacity.addresses(workload)) for workload in workloads_for(version, archs))

    def judge(self, head: Head) -> dict[str, Any]:
        """The verdict on the open stage now, as the ledger keeps it."""
        now = self._now()
        evidence = self.current(head)
        if evidence is None or head.stage is None:
            return hold(head, now, "no evidence yet: nothing is counted for this stage here")
        policy = Policy.from_json(head.policy)
        stage = stage_policy(policy.stages, policy.gates.no_harm_before, head.stage)
        verdict = judge(evidence, policy.gates, stage, now_s=now.timestamp())
        seen = looks(policy.gates, self._answers(head.id), stand_of(evidence), now_s=now.timestamp())
        plain = weighed(verdict, seen).to_json()
        plain["numbers"] = json_ready(plain["numbers"])
        if plain["action"] == "pass" and (why := self._withheld(head, now)):
            return {**plain, "action": "hold", "reason": why}
        return plain

    def _withheld(self, head: Head, now: datetime) -> str | None:
        """Why a pass of the numbers is no pass of the rollout, or None."""
        if head.held is not None:
            return held_text(head.held)
        acked_at = head.opened[-1]["acked_at"]
        if acked_at is None:
            return "not every gateway has acknowledged the stage"
        dwell_s = head.policy["stages"][head.stage or 0]["dwell_s"]
        passed_s = (now - datetime.fromisoformat(acked_at)).total_seconds()
        if passed_s < dwell_s:
            return f"dwell: {passed_s:.1f} of {dwell_s:g} s since every gateway acknowledged"
        return None

    def fresh_pass(self, head: Head) -> dict[str, Any]:
        """The pass that lets the rollout go on. Raises ControlProblem 409 `no-fresh-pass` with the verdict."""
        verdict = self.judge(head)
        if verdict["action"] != "pass":
            raise no_fresh_pass(head, verdict)
        return verdict

    def exposed(self, head: Head) -> Mapping[str, Any] | None:
        """Who was served by the candidate so far, by stage."""
        book = self._books.get(head.service)
        return head.exposed if book is None or book.tally.rollout != head.id else book.exposed()

    def view(self, head: Head) -> dict[str, Any]:
        """For people and reports: the verdict, the picture it came from, both versions as they are now."""
        evidence = self.current(head) if head.state == State.RUNNING else None
        return {
            "verdict": self.judge(head) if evidence is not None else head.verdict,
            "evidence": None if evidence is None else picture(evidence),
            "live": self.live(head),
            "exposed": self.exposed(head),
        }

    def live(self, head: Head) -> dict[str, dict[str, Any]]:
        """Figures of now, by version."""
        meter = self._meters.get(head.service)
        if meter is None:
            return {}
        book = self._books.get(head.service)
        now_s, share = self._now().timestamp(), meter.sample_fraction
        if book is not None and book.tally.rollout == head.id:
            return {
                version: dict(row) for version, row in book.tally.live(now_s, sample_fraction=share).items()
            }
        return {
            version: dict(live.figures(now_s, users=0, sample_fraction=share))
            for version, live in meter.live.items()
        }

    def meters(self) -> Mapping[str, Meter]:
        """Every service's meter, for /metrics."""
        return self._meters


def line_of(head: Head) -> HashLine:
    """The hash line at the rollout's open stage."""
    return HashLine.build(
        {target["arch"]: target["share"] for target in head.policy["targets"]}, head.percent
    )


def as_pass(head: Head, verdict: Mapping[str, Any] | None) -> Pass | None:
    """The verdict as a key to the next stage; None when it is none."""
    if verdict is None or verdict["action"] != "pass" or head.candidate is None:
        return None
    return Pass(stage=verdict["stage"], epoch=verdict["epoch"], version=head.candidate["version"], age_s=0.0)


def no_fresh_pass(head: Head, verdict: Mapping[str, Any]) -> ControlProblem:
    return ControlProblem(
        409,
        "no-fresh-pass",
        f"rollout {head.id}, stage {head.stage}: {verdict['action']}: {verdict['reason']}",
        "wait for the evidence; nothing has moved",
        fields={"verdict": dict(verdict)},
    )


def held_text(held: Mapping[str, Any]) -> str:
    return f"held since {held['since']} by {held['by']}: {held['reason']}"


def hold(head: Head, now: datetime, reason: str) -> dict[str, Any]:
    """A hold that no numbers stand behind."""
    verdict = Verdict(
        action=Action.HOLD,
        reason=reason,
        at_s=now.timestamp(),
        stage=-1 if head.stage is None else head.stage,
        epoch=head.epoch,
        numbers={},
        forecast_s=None,
    )
    return verdict.to_json()


def picture(evidence: StageEvidence) -> dict[str, Any]:
    """The evidence as JSON: every field, coins as rows."""
    return json_ready(asdict(evidence))


def json_ready(value: Any) -> Any:
    """Plain JSON values; a number that JSON lacks (NaN, infinite) becomes its name, never a null that reads as 0."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return str(value) if isinstance(value, Enum) else value
