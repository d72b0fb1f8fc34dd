"""Opens one stage: the only tasks that raise traffic.

Problem: this task may run twice, late, or because somebody marked the tasks before it as done. Invariants: it asks
the controller and never assumes; the controller opens only behind its own fresh pass; where the release wants a
review, a recorded approval of a named person is read first. A stage that is open already stays as it is.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from plugins import reviews
from plugins.hooks.controller import (
    CONNECTION_ID,
    ControllerClient,
    ControllerHook,
    ControllerUnavailableError,
    NoFreshPassError,
)
from plugins.operators.base import SluiceOperator
from plugins.runs import SETTLE, RunFacts, actor, facts_of, release_of
from sluice.errors import FatalError, RetryableError

if TYPE_CHECKING:
    from airflow.sdk import Context

PATIENCE_S = 900.0  # for capacity, gateways and a pass that went stale; then the task's retries go on
PAUSE_S = 2.0
MAX_PAUSE_S = 30.0


class OpenStageOperator(SluiceOperator):
    """Opens stage `stage` (from 0) at `percent`. XCom: `{percent, at, acked_at}`."""

    ui_color = "#e6f4ea"

    def __init__(
        self, *, stage: int, percent: int, last: bool, controller_conn_id: str = CONNECTION_ID, **kwargs: Any
    ) -> None:
        super().__init__(**{"execution_timeout": timedelta(hours=1), **kwargs})
        self.stage, self.percent, self.last = stage, percent, last
        self.controller_conn_id = controller_conn_id

    def run(self, context: Context) -> dict[str, Any]:
        facts = facts_of(context)
        if facts.straight and not self.last:
            raise AirflowSkipException(
                f"first deployment: there is no stable version to compare with, {self.percent} % is skipped"
            )
        if self.percent in release_of(facts).spec.review.before:
            self.log.info("%s", reviews.require_approval(context, self.percent))
        client = ControllerHook(self.controller_conn_id).get_conn()
        lift_our_hold(client, facts, context)
        client.renew_lease(facts.rollout, epoch=facts.epoch)
        rollout = self._open(client, facts)
        opened = next(row for row in reversed(rollout["opened"]) if row["stage"] == self.stage)
        self.log.info(
            "%s %% is open since %s, acknowledged by every gateway", self.percent, opened["acked_at"]
        )
        return {name: opened[name] for name in ("percent", "at", "acked_at")}

    def _open(self, client: ControllerClient, facts: RunFacts) -> dict[str, Any]:
        """Ask until it is open. Raises FatalError on harm, RetryableError when patience ends."""
        deadline, said = time.monotonic() + PATIENCE_S, ""
        while True:
            try:
                return client.open(facts.rollout, epoch=facts.epoch, stage=self.stage)
            except NoFreshPassError as error:
                verdict = error.verdict
                if verdict.get("action") == "harm":
                    raise FatalError(
                        f"not opened, harm: {verdict.get('reason')}", "see the verdict"
                    ) from error
                waiting, pause = f"no fresh pass: {verdict.get('reason') or error.message}", PAUSE_S
            except ControllerUnavailableError as error:
                waiting, pause = error.message, error.retry_after_s or PAUSE_S
            if waiting != said:
                said = waiting
                self.log.info("holding before %s %%: %s", self.percent, waiting)
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"{self.percent} % could not be opened: {waiting}", "the task tries again by itself"
                )
            time.sleep(min(pause, MAX_PAUSE_S))


def lift_our_hold(client: ControllerClient, facts: RunFacts, context: Context) -> None:
    """Go on after `settle` had put the rollout on hold for a task of this run that failed and was cleared since.

    No other hold: not a person's, and not a gate's, which says that the readings disagree.
    """
    client.lift(
        facts.rollout,
        epoch=facts.epoch,
        held_by=actor(context, SETTLE),
        reason="the run goes on",
        by=actor(context),
    )
