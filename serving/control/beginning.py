"""Beginning a rollout: one at a time, the same run once, and no second chance by accident.

Invariants: a service has one active rollout (the database holds it); the same run_id gets its own rollout again; a
release that is stable is not rolled out, one that was turned back only with a reason, and then its earlier tries
still count. A run that may not begin supersedes nobody: every refusal comes before the running rollout's retreat.
The salt is renewed only when no gateway can still route to an earlier candidate: a new salt under old weights would
throw other users onto it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from serving.control.ledger import (
    Decision,
    Head,
    ServiceRow,
    create,
    find_active,
    find_ended,
    find_latest,
    find_run,
)
from serving.control.models import BeginRequest, RetreatRequest
from serving.control.policy import Policy, parse_policy, refuse_blind_retry, stricter, unreadable_gates
from serving.control.problems import ControlProblem, conflict
from serving.control.rollouts import Parts, Rollouts, iso
from serving.control.traffic import routing_policy
from sluice.stages import State


class RolloutBeginner:
    """`POST /v1/rollouts`."""

    def __init__(self, parts: Parts, rollouts: Rollouts) -> None:
        self._p, self._rollouts = parts, rollouts

    async def begin(self, request: BeginRequest) -> tuple[Head, bool]:
        """Start a rollout. Returns (head, whether it is new): the same run_id gets its own rollout again.

        Raises ControlProblem: 422 for the policy; 409 active-rollout, turned-back, already-stable.
        """
        policy = parse_policy(request.policy)
        if policy.gates.absolute and not self._p.gates.configured:
            raise unreadable_gates(policy)
        running = self._to_supersede(request, policy)
        if running is not None:
            asked = RetreatRequest(
                reason=f"superseded by run {request.run_id}", by=request.run_id, outcome="cancelled"
            )
            await self._rollouts.retreat(running.id, asked, state=State.SUPERSEDED)
        try:
            with self._p.ledger.write() as session:
                head, new = self._begin(session, request, policy)
        except IntegrityError:  # another controller began one between our read and our write
            raise conflict(request.service) from None
        if new:
            await self._p.world.push()
        return head, new

    def _to_supersede(self, request: BeginRequest, policy: Policy) -> Head | None:
        """The running rollout that this run takes the place of. Raises what keeps this run from beginning."""
        with self._p.ledger.read() as session:
            if find_run(session, request.service, request.run_id) is not None:
                return None
            running = find_active(session, request.service)
            if running is None or request.on_active != "supersede":
                return None
            _refuse(session, request, policy)
            return running

    def _begin(self, session: Session, request: BeginRequest, policy: Policy) -> tuple[Head, bool]:
        if (known := find_run(session, request.service, request.run_id)) is not None:
            return known, False
        earlier = _refuse(session, request, policy)
        if (active := find_active(session, request.service)) is not None:
            raise _active(active, same=False)
        service = self._service(session, request, policy)
        now = self._p.now()
        service.epoch += 1
        head = Head(
            id=f"{request.service}-{service.epoch}",
            service=request.service,
            run_id=request.run_id,
            release_digest=request.release_digest,
            epoch=service.epoch,
            counter=0,
            state=State.PREPARING,
            policy=stricter(policy, tries=len(earlier)),
            salt=service.salt,
            started_at=iso(now),
            stable=service.stable,
            retry_reason=request.retry_reason,
            earlier=_earlier(earlier),
            first_deployment=service.stable is None,
            lease_until=iso(now + timedelta(seconds=policy.lease.ttl_s)),
        )
        create(
            session,
            head,
            Decision(at=iso(now), action="begin", by=request.run_id, reason=request.retry_reason),
        )
        return head, True

    def _service(self, session: Session, request: BeginRequest, policy: Policy) -> ServiceRow:
        """The service's row, with a new salt unless some gateway may still route to an old candidate."""
        service = session.get(ServiceRow, request.service)
        if service is None:
            service = ServiceRow(
                service=request.service,
                epoch=0,
                salt=self._p.new_salt(),
                policy=policy.to_dict(),
                stable=None,
            )
            session.add(service)
        elif (latest := find_latest(session, request.service)) is None or latest.settled:
            service.salt = self._p.new_salt()
        adopt = policy.first_deployment.adopt
        if service.stable is None and adopt is not None:
            service.stable = {"version": "adopted", "upstream": str(adopt)}
            service.policy = policy.to_dict()
        return service


def _refuse(session: Session, request: BeginRequest, policy: Policy) -> list[Head]:
    """Raise what forbids this release, whoever else runs. Returns the rollouts in which it was turned back before."""
    active = find_active(session, request.service)
    if active is not None and active.release_digest == request.release_digest:
        raise _active(active, same=True)
    _refuse_prefix(session, request.service, policy.traffic.prefix)
    service = session.get(ServiceRow, request.service)
    _refuse_stable(service, request)
    earlier = find_ended(session, request.service, request.release_digest, State.TURNED_BACK)
    if earlier and request.retry_reason is None:
        raise _turned_back(earlier[-1])
    if earlier and service is not None and service.stable is not None:
        refuse_blind_retry(policy)
    return earlier


def _active(active: Head, *, same: bool) -> ControlProblem:
    """same: it rolls out the very release that was asked for, so that there is nothing to supersede."""
    running = {
        "id": active.id,
        "rollout": active.id,
        "run_id": active.run_id,
        "state": active.state,
        "stage": active.stage,
    }
    message = f"rollout {active.id} of run {active.run_id!r} is {active.state}"
    step = "wait for it, supersede it (on_active), or retreat it"
    if same:
        message = f"this release is being rolled out already: {message}"
        step = "follow that one; to begin anew, retreat it first"
    return ControlProblem(
        409, "active-rollout", message, step, fields={"running": running, "same_release": same}
    )


def _turned_back(head: Head) -> ControlProblem:
    previous = {
        "id": head.id,
        "rollout": head.id,
        "run_id": head.run_id,
        "reason": head.reason,
        "verdict": head.verdict,
    }
    return ControlProblem(
        409,
        "turned-back",
        f"this release was turned back by rollout {head.id}: {head.reason}",
        "change the model, or give a retry_reason; the earlier evidence then still counts",
        fields={"previous": previous},
    )


def _refuse_prefix(session: Session, service: str, prefix: str) -> None:
    """Two services under one path would leave one of them without a route; a live rollout may still get its own."""
    for row in session.scalars(select(ServiceRow).where(ServiceRow.service != service)):
        head = find_latest(session, row.service)
        claims = [routing_policy(row.stable, row.policy, head)]
        if head is not None and head.active:
            claims.append(head.policy)
        if prefix in {claim["traffic"]["prefix"] for claim in claims}:
            message = f"traffic.prefix {prefix} is that of service {row.service}"
            raise ControlProblem(422, "invalid-request", message, "give each service a path of its own")


def _refuse_stable(service: ServiceRow | None, request: BeginRequest) -> None:
    if service is None or service.stable is None:
        return
    if service.stable.get("release_digest") == request.release_digest:
        raise ControlProblem(
            409,
            "already-stable",
            f"release {request.release_digest} is stable as version {service.stable['version']}",
            "nothing to do",
            fields={"version": service.stable["version"]},
        )


def _earlier(heads: list[Head]) -> dict[str, Any] | None:
    """The last time this release was turned back, quoted in everything that follows."""
    if not heads:
        return None
    last = heads[-1]
    return {"rollout": last.id, "tries": len(heads), "reason": last.reason, "verdict": last.verdict}
