"""The gate of a stage: waits, without a worker slot, until both readings of the evidence pass.

Problem: a gate that fails for a lost worker must not look like a bad model, and one that passes must have been
judged. Invariants: only a verdict fails it for good (`AirflowFailException`); its limit is counted from the opening
of the stage, so that a retry or a restart wins no time; it holds no rule itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException

from plugins.hooks import controller, prometheus
from plugins.operators.open_stage import lift_our_hold
from plugins.runs import airflow_errors, facts_of
from sluice.errors import FatalError

if TYPE_CHECKING:
    from airflow.sdk import Context

GRACE = timedelta(minutes=10)  # Airflow's own limit lies behind the trigger's, which can say why it held


class GateSensor(BaseSensorOperator):
    """Waits for the verdict on stage `stage` (from 0). XCom: the verdict, with `markdown` for reviewers."""

    ui_color = "#fef7e0"

    def __init__(
        self,
        *,
        stage: int,
        percent: int,
        max_hold_s: float,
        controller_conn_id: str = controller.CONNECTION_ID,
        prometheus_conn_id: str = prometheus.CONNECTION_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"timeout": max_hold_s + GRACE.total_seconds(), **kwargs})
        self.stage, self.percent, self.max_hold_s = stage, percent, max_hold_s
        self.controller_conn_id, self.prometheus_conn_id = controller_conn_id, prometheus_conn_id

    def execute(self, context: Context) -> None:
        from plugins.triggers.gate import GateTrigger  # numpy and scipy: only where a gate runs

        with airflow_errors():
            facts = facts_of(context)
            client = controller.ControllerHook(self.controller_conn_id).get_conn()
            lift_our_hold(client, facts, context)
            rollout = client.rollout(facts.rollout)
            opened_at = _opened_at(rollout, self.stage)
        deadline = opened_at + timedelta(seconds=self.max_hold_s)
        self.log.info("%s %% is open since %s; holding at most until %s", self.percent, opened_at, deadline)
        trigger = GateTrigger(
            service=facts.service,
            rollout=facts.rollout,
            epoch=facts.epoch,
            stage=self.stage,
            # the controller's, not the spec's: it is stricter where this release was turned back before
            policy=rollout["policy"],
            deadline=deadline.isoformat(),
            controller_conn_id=self.controller_conn_id,
            prometheus_conn_id=self.prometheus_conn_id,
        )
        self.defer(
            trigger=trigger,
            method_name="decide",
            timeout=max(deadline - datetime.now(UTC), timedelta()) + GRACE,
        )

    def decide(self, context: Context, event: Any = None) -> dict[str, Any]:
        """The trigger's event as the task's end."""
        from plugins.gate import Look, Outcome
        from plugins.model_card import verdict_markdown

        with airflow_errors():
            look = Look.from_event(event)
        if look.outcome is not Outcome.PASS:
            raise AirflowFailException(f"{self.percent} %: {look.outcome.value}: {look.reason}")
        self.log.info("%s %% passed: %s", self.percent, look.reason)
        return {**look.verdict, "markdown": verdict_markdown(look.verdict)}


def _opened_at(rollout: dict[str, Any], stage: int) -> datetime:
    """When the stage was opened. Raises FatalError when it never was."""
    for row in rollout["opened"]:
        if row["stage"] == stage:
            return datetime.fromisoformat(row["at"])
    raise FatalError(
        f"stage {stage} of rollout {rollout['id']} was never opened",
        f"clear the task that opens stage {stage}",
    )
