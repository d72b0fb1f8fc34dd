"""Opening a stage: the only way in which traffic rises.

Order: may it open (the controller's own fresh pass) -> the candidate has the replicas -> may it still open -> ledger
-> gateways -> acknowledged by every one. A call that dies at any point is repeated and goes on from there: a stage
that is open already is not opened a second time, its acknowledgement is waited for again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serving.control.capacity import static_addresses, wanted_replicas
from serving.control.evidence import as_pass, held_text, hold, no_fresh_pass
from serving.control.ledger import Head
from serving.control.models import OpenRequest
from serving.control.problems import ControlProblem, ended
from serving.control.rollouts import Parts, Rollouts, gateways_problem, iso
from sluice import stages
from sluice.stages import Action, Opening, State


class StageOpener:
    """`POST /v1/rollouts/{id}/open`."""

    def __init__(self, parts: Parts, rollouts: Rollouts) -> None:
        self._p, self._rollouts = parts, rollouts

    async def open(self, rollout: str, request: OpenRequest) -> Head:
        """Open a stage. Returns once every gateway acknowledged; the open stage again changes nothing.

        Raises ControlProblem 404; 409 stale-epoch, ended, wrong-stage, no-candidate, no-fresh-pass; 503 capacity,
        gateways.
        """
        head, verdict = self._may(rollout, request)
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

    def _needs(self, head: Head, stage: int) -> dict[str, int]:
        """Replicas by deployment for the share of `stage`."""
        replicas = {target["arch"]: target["replicas"] for target in head.policy["targets"]}
        percent = head.percents[stage]
        return {
            workload["deployment"]: wanted_replicas(
                stable_replicas=self._stable_replicas(head, workload["arch"], replicas[workload["arch"]]),
                policy_replicas=replicas[workload["arch"]],
                percent=percent,
            )
            for workload in (head.candidate or {}).get("workloads", ())
            if static_addresses(workload) is None
        }

    def _stable_replicas(self, head: Head, arch: str, by_policy: int) -> int:
        """What stable runs with now, ready or not is its own matter; unknown ones are taken from the policy."""
        for workload in (head.stable or {}).get("workloads", ()):
            if workload["arch"] == arch and static_addresses(workload) is None:
                return max(len(self._p.capacity.addresses(workload)), 1)
        return by_policy

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
