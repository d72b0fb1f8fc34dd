"""The commands that move a rollout, except its beginning (`beginning.py`) and opening a stage (`opening.py`).

Problem: calls come twice, late, and from runs that died. Invariants: every command is one ledger transaction that
compares and sets; the ledger is written first and the gateways follow; a retreat needs nobody's permission, waits
for nobody and never fails because something else happened at the same time; one that the ledger cannot take lowers
the traffic all the same, is owed to the ledger, and nothing else moves the rollout any more.
All of it runs on one event loop: between a read of the ledger and the write that depends on it there is no await.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from serving.control.capacity import Capacity
from serving.control.evidence import Evidence
from serving.control.gates import CHECK_WAIT_S, GateReader
from serving.control.ledger import (
    Decision,
    Head,
    Ledger,
    ServiceRow,
    StaleHeadError,
    move,
)
from serving.control.models import CandidateRequest, HoldRequest, RetreatRequest
from serving.control.problems import ControlProblem, conflict, ended, not_found, retreat_owed, stale_epoch
from serving.control.world import World
from sluice import stages
from sluice.stages import Action, State

ACK_WAIT_S: Final = 5.0  # a gateway acknowledges within milliseconds; after this the answer says who did not
CAPACITY_WAIT_S: Final = 20.0  # then 503 with Retry-After: a client must not hang on one call for minutes
TASKS: Final = "airflow:"  # `by` of what tasks ask for; a task lifts its own hold again, a person's stays
LEASE: Final = "lease"  # `held.by` of a hold that the next renewal lifts by itself

_log = logging.getLogger(__name__)


def iso(at: datetime) -> str:
    """ISO-8601 UTC with microseconds, also when they are zero, so that times sort as text."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the commands work with; built once in `main`."""

    ledger: Ledger
    world: World
    evidence: Evidence
    capacity: Capacity
    gates: GateReader
    ack_wait_s: float = ACK_WAIT_S
    capacity_wait_s: float = CAPACITY_WAIT_S
    check_wait_s: float = CHECK_WAIT_S
    now: Callable[[], datetime] = utc_now
    new_salt: Callable[[], str] = lambda: secrets.token_hex(8)


@dataclass(frozen=True, kw_only=True)
class Retreat:
    """What was decided about a rollout that ends with its traffic taken away."""

    goal: State
    reason: str
    by: str
    verdict: Mapping[str, Any] | None = None


class Rollouts:
    """Attach, retreat, hold, resume, renew, promote."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._owed: dict[str, Retreat] = {}  # decided and not in the ledger yet, by rollout

    @property
    def owed(self) -> frozenset[str]:
        """Rollouts whose retreat is not in the ledger yet; `settle` tries again."""
        return frozenset(self._owed)

    def get(self, rollout: str) -> Head:
        """The rollout now. Raises ControlProblem 404."""
        head = self._p.ledger.head(rollout)
        if head is None:
            raise not_found("rollout", rollout, "/v1/services")
        return head

    def current(self, rollout: str, epoch: int) -> Head:
        """The rollout, if it is live and at `epoch`. Raises ControlProblem 404 or 409."""
        head = self.get(rollout)
        if head.epoch != epoch:
            raise stale_epoch(rollout, head.epoch, epoch)
        if not head.active:
            raise ended(rollout, head.state, head.reason)
        if (retreat := self._owed.get(rollout)) is not None:
            raise ended(rollout, retreat.goal, retreat.reason)
        return head

    async def candidate(self, rollout: str, request: CandidateRequest) -> Head:
        """Say where the candidate runs. Again with the same body: nothing changes."""
        head = self.current(rollout, request.epoch)
        attached = {
            "version": request.version,
            "signature": request.signature,
            "workloads": [w.model_dump(mode="json", exclude_none=True) for w in request.workloads],
            "release_digest": head.release_digest,
        }
        if head.candidate == attached:
            return head
        self._check_candidate(head, attached)
        head = self.write(
            head, replace(head, candidate=attached), Action.ATTACH, reason=f"version {request.version}"
        )
        await self._p.world.push()
        return head

    def _check_candidate(self, head: Head, attached: Mapping[str, Any]) -> None:
        stages.move(State(head.state), Action.ATTACH)
        wanted = {target["arch"] for target in head.policy["targets"]}
        unknown = sorted({w["arch"] for w in attached["workloads"]} - wanted)
        taken = {"adopted", None if head.stable is None else head.stable["version"]}
        if unknown:
            message, step = (
                f"workloads name {unknown}, the policy's targets are {sorted(wanted)}",
                "name those",
            )
        elif attached["version"] in taken:
            message = f"version {attached['version']!r} is stable's"
            step = "register the candidate as a version of its own"
        else:
            self._p.capacity.require(attached["workloads"])
            return
        raise ControlProblem(422, "invalid-request", message, step)

    async def retreat(self, rollout: str, request: RetreatRequest, *, state: State | None = None) -> Head:
        """Take all traffic from the candidate, whatever else happens. Ended already: nothing changes.

        Raises ControlProblem 404; 503 `ledger` when the traffic is away and the row is still to be written.
        """
        goal = State(request.outcome) if state is None else state
        try:
            return await self.close(rollout, Retreat(goal=goal, reason=request.reason, by=request.by))
        except SQLAlchemyError as error:
            _log.exception("rollout %s: its retreat is not in the ledger yet", rollout)
            raise retreat_owed(rollout, error) from error

    async def close(self, rollout: str, retreat: Retreat, *, wait_s: float | None = None) -> Head:
        """End a rollout in a state that takes its traffic away: ledger first, then the gateways.

        A ledger that cannot be written does not save a bad version: the traffic goes to stable all the same, and
        the error is raised after the retreat was noted as owed. The first decision is the one that is written.
        """
        retreat = self._owed.setdefault(rollout, retreat)
        wait_s = self._p.ack_wait_s if wait_s is None else wait_s
        low = rollout in self._p.world.closed
        try:
            head, moved = self._close_row(rollout, retreat)
        except ControlProblem:  # there is no such rollout
            del self._owed[rollout]
            raise
        except Exception:  # whatever keeps the row from being written
            if not low:
                self._p.world.closed.add(rollout)
                await self._p.world.lower(rollout, wait_s)
            raise
        del self._owed[rollout]
        self._p.world.closed.discard(rollout)
        self._p.evidence.close(head)
        return await self._lowered(head, wait_s, first=moved and not low)

    async def settle(self, rollout: str, *, wait_s: float) -> None:
        """Try again to write a retreat that the ledger is owed."""
        if (retreat := self._owed.get(rollout)) is not None:
            await self.close(rollout, retreat, wait_s=wait_s)

    def _close_row(self, rollout: str, retreat: Retreat) -> tuple[Head, bool]:
        """The ended rollout, and whether this ended it. Beats other writers by trying again on what they wrote."""
        while True:
            head = self.get(rollout)
            if not head.active:
                return head, False
            at = iso(self._p.now())
            action = stages.retreat_action(retreat.goal)
            new = replace(
                head,
                state=stages.move(State(head.state), action),
                reason=retreat.reason,
                ended_at=at,
                verdict=retreat.verdict or head.verdict,
                exposed=self._p.evidence.exposed(head),
            )
            decision = Decision(
                at=at, action=action, by=retreat.by, reason=retreat.reason, verdict=retreat.verdict
            )
            try:
                with self._p.ledger.write() as session:
                    return move(session, head, new, decision), True
            except StaleHeadError:
                _log.info("rollout %s moved during a retreat; retreating from where it is now", rollout)

    async def _lowered(self, head: Head, wait_s: float, *, first: bool) -> Head:
        """Make the gateways follow a retreat and note when the last one did."""
        world = self._p.world
        report = await (
            world.lower(head.id, wait_s) if first else world.wait_acked(await world.push(), wait_s)
        )
        if report.complete:
            return self.note_zero(head.id)
        _log.warning("rollout %s: not every gateway follows the retreat yet: %s", head.id, report)
        return self.get(head.id)

    def note_zero(self, rollout: str) -> Head:
        """Write down that no gateway routes to the candidate any more. Idempotent."""
        head = self.get(rollout)
        if head.zero_acked_at is not None or head.active or head.state == State.PROMOTED:
            return head
        with self._p.ledger.write() as session:
            return move(session, head, replace(head, zero_acked_at=iso(self._p.now())), None)

    def note_opened(self, rollout: str) -> Head:
        """Write down that every gateway acknowledged the open stage. Idempotent."""
        head = self.get(rollout)
        if not head.active or not head.opened or head.opened[-1]["acked_at"] is not None:
            return head
        last = {**head.opened[-1], "acked_at": iso(self._p.now())}
        head = self._store(head, replace(head, opened=(*head.opened[:-1], last)), None)
        self._p.evidence.acknowledged(head)
        return head

    def note_verdict(self, head: Head, verdict: Mapping[str, Any]) -> Head:
        """Append that the open stage's verdict changed. It moves nothing."""
        decision = Decision(
            at=iso(self._p.now()),
            action=verdict["action"],
            by="guard",
            reason=verdict["reason"],
            verdict=verdict,
        )
        return self._store(head, replace(head, verdict=verdict), decision)

    async def hold(self, rollout: str, request: HoldRequest) -> Head:
        """Stop going on; traffic stays. Held already: the first reason stays, but a person's replaces a task's."""
        head = self.current(rollout, request.epoch)
        if head.held is not None and head.held["by"] != LEASE:
            by_task, asked_by_task = (by.startswith(TASKS) for by in (head.held["by"], request.by))
            if asked_by_task or not by_task:
                return head
        return self.hold_row(head, reason=request.reason, by=request.by)

    def hold_row(self, head: Head, *, reason: str, by: str) -> Head:
        held = {"since": iso(self._p.now()), "reason": reason, "by": by}
        return self.write(head, replace(head, held=held), Action.HOLD, by=by, reason=reason)

    async def resume(self, rollout: str, request: HoldRequest) -> Head:
        head = self.current(rollout, request.epoch)
        if head.held is None:
            return head
        return self.write(head, replace(head, held=None), Action.RESUME, by=request.by, reason=request.reason)

    async def lease(self, rollout: str, epoch: int) -> Head:
        """The run says that it is alive. Lifts a hold that came from its silence."""
        head = self.current(rollout, epoch)
        until = iso(self._p.now() + timedelta(seconds=head.policy["lease"]["ttl_s"]))
        new = replace(head, lease_until=until)
        if head.held is not None and head.held["by"] == LEASE:
            return self.write(head, replace(new, held=None), Action.RESUME, reason="the lease was renewed")
        return self._store(head, new, None)

    async def promote(self, rollout: str, epoch: int) -> Head:
        """Make the candidate stable. Promoted already: 200 once every gateway acknowledged.

        Raises ControlProblem 409 wrong-stage or no-fresh-pass; 503 gateways when one does not acknowledge.
        """
        head = self.get(rollout)
        if head.epoch == epoch and head.state == State.PROMOTED:
            return await self._everywhere(head)
        head = self.current(rollout, epoch)
        last = len(head.percents) - 1
        if head.stage != last or head.candidate is None:
            raise ControlProblem(
                409,
                "wrong-stage",
                f"stage {head.stage} is open; only the last one ({last}, {head.percents[last]:g} %) is promoted from",
                "open and pass the stages before",
                fields={"stage": head.stage},
            )
        verdict = self._p.evidence.fresh_pass(head)
        head = self._promote(head, verdict)
        self._p.evidence.close(head)
        return await self._everywhere(head)

    def _promote(self, head: Head, verdict: Mapping[str, Any]) -> Head:
        at = iso(self._p.now())
        new = replace(
            head,
            state=stages.move(State(head.state), Action.PROMOTE),
            verdict=verdict,
            ended_at=at,
            held=None,
            reason=verdict["reason"],
            exposed=self._p.evidence.exposed(head),
        )
        decision = Decision(
            at=at, action=Action.PROMOTE, by=head.run_id, reason=verdict["reason"], verdict=verdict
        )
        try:
            with self._p.ledger.write() as session:
                moved = move(session, head, new, decision)
                service = session.get_one(ServiceRow, head.service)
                service.stable, service.policy = dict(head.candidate or {}), dict(head.policy)
        except StaleHeadError:
            raise conflict(head.id) from None
        return moved

    async def _everywhere(self, head: Head) -> Head:
        report = await self._p.world.wait_acked(await self._p.world.push(), self._p.ack_wait_s)
        if not report.complete:
            raise gateways_problem(report)
        return head

    def write(
        self,
        old: Head,
        new: Head,
        action: Action,
        *,
        by: str | None = None,
        reason: str | None = None,
        verdict: Mapping[str, Any] | None = None,
    ) -> Head:
        """Move by the table and append the row. Raises IllegalMoveError; ControlProblem 409 conflict."""
        state = stages.move(State(old.state), action)
        decision = Decision(
            at=iso(self._p.now()), action=action, by=by or old.run_id, reason=reason, verdict=verdict
        )
        return self._store(old, replace(new, state=state), decision)

    def _store(self, old: Head, new: Head, decision: Decision | None) -> Head:
        try:
            with self._p.ledger.write() as session:
                return move(session, old, new, decision)
        except StaleHeadError:
            raise conflict(old.id) from None


def gateways_problem(report: Any) -> ControlProblem:
    """503: the wanted state is recorded and pushed, and some gateway does not have it."""
    missing = {"waiting": list(report.waiting), "rejected": dict(report.rejected)}
    message = f"acknowledged by {list(report.acked)}, waiting for {missing['waiting']}"
    if report.rejected:
        message += f", rejected by {missing['rejected']}"
    return ControlProblem(
        503,
        "gateways",
        message,
        "see GET /v1/gateways, then repeat the call",
        retry_after_s=2,
        fields=missing,
    )
