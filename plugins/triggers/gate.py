"""The trigger behind a gate: looks at Prometheus and at the controller until one look decides.

Problem: a triggerer is restarted, moved and doubled at will. Invariants: everything that a look needs is in the
arguments, the deadline is absolute, and a look changes nothing but the rollout's lease and the one hold that says
that the readings disagree about harm, so that two triggers for one gate do no harm. It sleeps first, then looks: an
event that comes before the scheduler has noted the deferral is lost on Airflow 3.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from airflow.sdk import BaseHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

from plugins.gate import DISAGREEMENT, Look, Outcome, weigh
from plugins.hooks import controller as control
from plugins.hooks.controller import (
    ControllerClient,
    ControllerRefusedError,
    ControllerUnavailableError,
)
from plugins.hooks.prometheus import PrometheusClient
from sluice.absolute import asks, looks, observed, stand_of, weighed
from sluice.errors import RetryableError
from sluice.evidence import from_samples
from sluice.spec_policy import Policy
from sluice.verdict import Verdict, judge, stage_policy

FIRST_LOOK_S: Final = 5.0
POLL_S: Final = 2.0
LEASE_SHARE: Final = 0.25  # of the lease's time: so many renewals may be lost before it runs out
MAX_LEASE_PAUSE_S: Final = 60.0


class GateTrigger(BaseTrigger):
    """Waits for a stage's verdict. deadline: ISO-8601 with zone, when holding ends."""

    def __init__(
        self,
        *,
        service: str,
        rollout: str,
        epoch: int,
        stage: int,
        policy: Mapping[str, Any],
        deadline: str,
        controller_conn_id: str,
        prometheus_conn_id: str,
        poll_s: float = POLL_S,
        first_look_s: float = FIRST_LOOK_S,
    ) -> None:
        super().__init__()
        self.service, self.rollout, self.epoch, self.stage = service, rollout, epoch, stage
        self.policy, self.deadline = dict(policy), deadline
        self.controller_conn_id, self.prometheus_conn_id = controller_conn_id, prometheus_conn_id
        self.poll_s, self.first_look_s = poll_s, first_look_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("service", "rollout", "epoch", "stage", "policy", "deadline", "controller_conn_id")
        names += ("prometheus_conn_id", "poll_s", "first_look_s")
        return "plugins.triggers.gate.GateTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        deadline, said, pause_s = datetime.fromisoformat(self.deadline), "", self.first_look_s
        gate: Gate | None = None
        noticed = ""
        while True:
            await asyncio.sleep(pause_s)
            pause_s = self.poll_s
            gate = gate or await self._gate()
            now = datetime.now(UTC)
            look = await asyncio.to_thread(gate.look, now)
            if look.outcome is Outcome.HOLD and now >= deadline:
                why = f"held until {self.deadline}, the limit of the spec (gates.max_hold_s): {look.reason}"
                look = Look(outcome=Outcome.TIMEOUT, reason=why, verdict=look.verdict)
            if look.reason != said:
                said = look.reason
                self.log.info("%s: %s", look.outcome.value, look.reason)
            breached = observed(look.verdict.get("numbers") or {})
            if bool(breached) != bool(noticed):
                self.log.warning("observed: %s", breached or "no breach any more")
            noticed = breached
            if look.outcome is not Outcome.HOLD:
                yield TriggerEvent(look.to_event())
                return

    async def _gate(self) -> Gate:
        controller = await BaseHook.aget_connection(self.controller_conn_id)
        prometheus = await BaseHook.aget_connection(self.prometheus_conn_id)
        return Gate(
            controller=ControllerClient.from_connection(controller),
            prometheus=PrometheusClient.from_connection(prometheus),
            service=self.service,
            rollout=self.rollout,
            epoch=self.epoch,
            stage=self.stage,
            policy=Policy.from_json(self.policy),
        )


class Gate:
    """One gate of one rollout; `look` blocks for as long as two servers take to answer."""

    def __init__(
        self,
        *,
        controller: ControllerClient,
        prometheus: PrometheusClient,
        service: str,
        rollout: str,
        epoch: int,
        stage: int,
        policy: Policy,
    ) -> None:
        self._controller, self._prometheus = controller, prometheus
        self._service, self._rollout, self._epoch, self._stage = service, rollout, epoch, stage
        self._policy = policy
        self._renewed_at: datetime | None = None

    def look(self, now: datetime) -> Look:
        """Read both sides at `now`. A call that does not succeed is a hold with the reason, never an exception."""
        try:
            rollout = self._renewed(now)
            theirs = self._controller.evidence(self._rollout).get("verdict")
            look = weigh(rollout, theirs, self._prometheus_verdict(now), stage=self._stage, epoch=self._epoch)
            self._say_on_rollout(look, rollout.get("held"))
        except (ControllerUnavailableError, ControllerRefusedError) as error:
            return Look(outcome=Outcome.HOLD, reason=error.message, verdict={})
        return look

    def _say_on_rollout(self, look: Look, held: Mapping[str, Any] | None) -> None:
        """Hold the rollout while the readings disagree, and lift that hold, no other, once they agree."""
        if look.disagree and not held:
            self._controller.hold(self._rollout, epoch=self._epoch, reason=look.reason, by=DISAGREEMENT)
        elif look.agree and held:
            why = "the readings agree again"
            self._controller.lift(
                self._rollout, epoch=self._epoch, held_by=DISAGREEMENT, reason=why, by=DISAGREEMENT
            )

    def _renewed(self, now: datetime) -> dict[str, Any]:
        """The rollout; its lease is renewed when a quarter of it is over."""
        rollout = self._controller.rollout(self._rollout)
        pause_s = min(LEASE_SHARE * self._policy.lease.ttl_s, MAX_LEASE_PAUSE_S)
        due = self._renewed_at is None or (now - self._renewed_at).total_seconds() >= pause_s
        if due and rollout.get("ended_at") is None and rollout["epoch"] == self._epoch:
            renewed = self._try(lambda: self._controller.renew_lease(self._rollout, epoch=self._epoch))
            if renewed is not None:
                self._renewed_at, rollout = now, renewed
        return rollout

    @staticmethod
    def _try(call: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """None when the rollout moved on between two calls; the next look sees how it stands."""
        try:
            return call()
        except control.ControllerConflictError:
            return None

    def _prometheus_verdict(self, now: datetime) -> Verdict | str:
        """What `judge` says of Prometheus' counts, absolute gates beside them, or why it cannot say anything."""
        try:
            evidence = from_samples(self._prometheus.stage_samples(self._service, self._rollout, self._stage))
        except RetryableError as error:  # Prometheus away, or a sample missing, doubled or not a number
            return error.message
        gates, now_s = self._policy.gates, now.timestamp()
        rules = stage_policy(self._policy.stages, gates.no_harm_before, self._stage)
        stand = stand_of(evidence)
        wanted = asks(gates.absolute, stand.service, (stand.candidate, stand.stable))
        answers = {sent: self._prometheus.answer(sent.query) for sent in wanted}
        return weighed(judge(evidence, gates, rules, now_s=now_s), looks(gates, answers, stand, now_s=now_s))
