"""Opening a stage: the only way in which traffic rises.

Order: may it open (the controller's own fresh pass; before the first stage: the absolute gates are alive) -> the
candidate has the replicas -> may it still open -> ledger -> gateways -> acknowledged by every one. A call that dies at
any point is repeated and goes on from there: a stage that is open already is not opened a second time, its
acknowledgement is waited for again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from serving.control.capacity import static_addresses, wanted_replicas
from serving.control.evidence import as_pass, held_text, hold, no_fresh_pass
from serving.control.ledger import Head
from serving.control.models import OpenRequest
from serving.control.problems import ControlProblem, ended
from serving.control.rollouts import Parts, Retreat, Rollouts, gateways_problem, iso
from serving.control.workloads import workload_for, workloads_for
from sluice import stages
from sluice.gate_check import Life
from sluice.stages import Action, Opening, State

GATE_CHECK: Final = "gate check"  # `by` of a rollout that ended before it had traffic
RETRY_S: Final = 5


class StageOpener:
    """`POST /v1/rollouts/{id}/open`."""

    def __init__(self, parts: Parts, rollouts: Rollouts) -> None:
        self._p, self._rollouts = parts, rollouts

    async def open(self, rollout: str, request: OpenRequest) -> Head:
        """Open a stage. Returns once every gateway acknowledged; the open stage again changes nothing.

        Raises ControlProblem 404; 409 stale-epoch, ended, wrong-stage, no-candidate, no-fresh-pass, gate-not-alive;
        503 capacity, gateways, gate-check.
        """
        head, verdict = self._may(rollout, request)
        if head.stage is None:
            await self._alive(head)
        if head.stage != request.stage:
            await self._p.capacity.provide(self._needs(head, request.stage), self._p.capacity_wait_s)
            head, verdict = self._may(rollout, request)  # pods took their time: the pass must still stand
        if head.stage != request.stage:
            head = self._record(head, request.stage, verdict)
        return await self._acknowledged(head)

    def _may(self, rollout: str, request: OpenRequest) -> tuple[Head, Mapping[str, Any] | None]:
        """The rollout and the verdict that opens the stage (None for a first stage). Raises what forbids it."""
        head = self._rollouts.current(rollout, request.epoch)
        if head.candidate is None:
            raise _refused(head, "no-candidate", "no candidate is attached", "POST …/candidate first")
        verdict = None if head.stage is None else self._p.evidence.judge(head)
        opening = stages.may_open(
            request.stage,
            state=State(head.state),
            current=head.stage,
            stages=len(head.percents),
            straight=head.first_deployment,
            epoch=head.epoch,
            version=head.candidate["version"],
            verdict=as_pass(head, verdict),
            max_age_s=0.0,
        )
        if opening is Opening.ALREADY:
            return head, None
        if opening is Opening.ENDED:
            raise ended(head.id, head.state, head.reason)
        if opening is Opening.WRONG_STAGE:
            raise _wrong_stage(head, request.stage)
        if opening is Opening.NO_FRESH_PASS and verdict is not None:
            raise no_fresh_pass(head, verdict)
        if head.held is not None:  # before the first stage, where there is no verdict that could say so
            raise no_fresh_pass(head, hold(head, self._p.now(), held_text(head.held)))
        return head, verdict

    async def _alive(self, head: Head) -> None:
        """Before the first stage: every absolute gate reads stable and sees what is bad, or there is no traffic.

        A gate that somebody has to correct ends the rollout, whose policy is what is wrong; what time may mend
        is asked again at the next call.
        """
        if not head.policy["gates"].get("absolute"):
            return
        troubles = await self._p.gates.check(head, self._p.check_wait_s)
        dead = " | ".join(row.reason for row in troubles if row.life is Life.DEAD)
        if dead:
            await self._rollouts.close(head.id, Retreat(goal=State.REJECTED, reason=dead, by=GATE_CHECK))
            raise _refused(
                head, "gate-not-alive", dead, "correct gates.absolute in the spec and start a new run"
            )
        if troubles:
            message = f"rollout {head.id}: {' | '.join(row.reason for row in troubles)}"
            step = "nothing is open; the gates are checked again at the next call"
            raise ControlProblem(503, "gate-check", message, step, retry_after_s=RETRY_S)

    def _needs(self, head: Head, stage: int) -> dict[str, int]:
        """Replicas by deployment for the share of `stage`: of every architecture that the deployment serves."""
        scale = self._scale_of_stable(head)
        needs: Counter[str] = Counter()
        for target in head.policy["targets"]:
            workload = workload_for(head.candidate or {}, target["arch"])
            if workload is not None and static_addresses(workload) is None:
                needs[workload["deployment"]] += wanted_replicas(
                    stable_replicas=scale[target["arch"]],
                    policy_replicas=target["replicas"],
                    percent=head.percents[stage],
                )
        return needs

    def _scale_of_stable(self, head: Head) -> dict[str, float]:
        """Replicas that stable is meant to have, by architecture of the rollout; more where more are ready.

        Never the ready ones alone: a stable that lost half of its pods would halve the candidate too.
        """
        service = self._p.ledger.service(head.service)
        known = {} if service is None else {t["arch"]: t["replicas"] for t in service.policy["targets"]}
        meant = {t["arch"]: known.get(t["arch"], t["replicas"]) for t in head.policy["targets"]}
        scale: dict[str, float] = dict(meant)
        for workload in workloads_for(head.stable or {}, meant):
            archs = [arch for arch in meant if workload_for(head.stable or {}, arch) == workload]
            ready = 0 if static_addresses(workload) else len(self._p.capacity.addresses(workload))
            more = max(1.0, ready / sum(meant[arch] for arch in archs))
            scale |= {arch: meant[arch] * more for arch in archs}
        return scale

    def _record(self, head: Head, stage: int, verdict: Mapping[str, Any] | None) -> Head:
        opened = {
            "stage": stage,
            "percent": head.percents[stage],
            "at": iso(self._p.now()),
            "acked_at": None,
        }
        new = replace(
            head,
            stage=stage,
            opened=(*head.opened, opened),
            verdict=None,
            exposed=self._p.evidence.exposed(head),
        )
        reason = f"{head.percents[stage]:g} %" + ("" if verdict is None else f": {verdict['reason']}")
        head = self._rollouts.write(head, new, Action.OPEN, reason=reason, verdict=verdict)
        self._p.evidence.open(head)
        return head

    async def _acknowledged(self, head: Head) -> Head:
        report = await self._p.world.wait_acked(await self._p.world.push(), self._p.ack_wait_s)
        if not report.complete:
            raise gateways_problem(report)
        return self._rollouts.note_opened(head.id)


def _wrong_stage(head: Head, wanted: int) -> ControlProblem:
    following = stages.next_stage(head.stage, len(head.percents), straight=head.first_deployment)
    return _refused(
        head,
        "wrong-stage",
        f"stage {wanted} was asked for, stage {head.stage} is open",
        "promote it" if following is None else f"open stage {following}",
    )


def _refused(head: Head, code: str, message: str, next_step: str) -> ControlProblem:
    fields = {"stage": head.stage, "state": head.state}
    return ControlProblem(409, code, f"rollout {head.id}: {message}", next_step, fields=fields)
