"""Beginning a rollout: one at a time, the same run once, and no second chance by accident.

Invariants: a service has one active rollout (the database holds it); the same run_id gets its own rollout again; a
release that is stable is not rolled out, one that was turned back only with a reason, and then its earlier tries
still count. The salt is renewed only when no gateway can still route to an earlier candidate: a new salt under old
weights would throw other users onto it.
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
from serving.control.policy import Policy, parse_policy, strict_beta
from serving.control.problems import ControlProblem, conflict
from serving.control.rollouts import Parts, Rollouts, iso
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
        running = self._running_other(request)
        if running is not None and request.on_active == "supersede":
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

    def _running_other(self, request: BeginRequest) -> Head | None:
        with self._p.ledger.read() as session:
            active = find_active(session, request.service)
        return None if active is None or active.run_id == request.run_id else active

    def _begin(self, session: Session, request: BeginRequest, policy: Policy) -> tuple[Head, bool]:
        if (known := find_run(session, request.service, request.run_id)) is not None:
            return known, False
        if (active := find_active(session, request.service)) is not None:
            raise _active(active)
        _refuse_prefix(session, request.service, policy.traffic.prefix)
        service = self._service(session, request, policy)
        _refuse_stable(service, request)
        earlier = find_ended(session, request.service, request.release_digest, State.TURNED_BACK)
        if earlier and request.retry_reason is None:
            raise _turned_back(earlier[-1])
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
            policy=strict_beta(policy, tries=len(earlier)),
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
        elif _settled(find_latest(session, request.service)):
            service.salt = self._p.new_salt()
        adopt = policy.first_deployment.adopt
        if service.stable is None and adopt is not None:
            service.stable = {"version": "adopted", "upstream": str(adopt)}
            service.policy = policy.to_dict()
        return service


def _active(active: Head) -> ControlProblem:
    running = {
        "id": active.id,
        "rollout": active.id,
        "run_id": active.run_id,
        "state": active.state,
        "stage": active.stage,
    }
    return ControlProblem(
        409,
        "active-rollout",
        f"rollout {active.id} of run {active.run_id!r} is {active.state}",
        "wait for it, supersede it (on_active), or retreat it",
        fields={"running": running},
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
    """Two services under one path would leave one of them without a route."""
    for row in session.scalars(select(ServiceRow).where(ServiceRow.service != service)):
        head = find_latest(session, row.service)
        if prefix in {
            row.policy["traffic"]["prefix"],
            (row.policy if head is None else head.policy)["traffic"]["prefix"],
        }:
            message = f"traffic.prefix {prefix} is that of service {row.service}"
            raise ControlProblem(422, "invalid-request", message, "give each service a path of its own")


def _refuse_stable(service: ServiceRow, request: BeginRequest) -> None:
    if service.stable is not None and service.stable.get("release_digest") == request.release_digest:
        raise ControlProblem(
            409,
            "already-stable",
            f"release {request.release_digest} is stable as version {service.stable['version']}",
            "nothing to do",
            fields={"version": service.stable["version"]},
        )


def _settled(latest: Head | None) -> bool:
    """Whether no gateway can still route to the candidate of the service's last rollout."""
    return (
        latest is None
        or not latest.opened
        or latest.state == State.PROMOTED
        or latest.zero_acked_at is not None
    )


def _earlier(heads: list[Head]) -> dict[str, Any] | None:
    """The last time this release was turned back, quoted in everything that follows."""
    if not heads:
        return None
    last = heads[-1]
    return {"rollout": last.id, "tries": len(heads), "reason": last.reason, "verdict": last.verdict}
