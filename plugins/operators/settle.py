"""The end of every run: asks the ledger how the rollout stands, and does what follows.

Problem: a run can end in the middle of anything: by harm, by a rejection, by a person, by a lost worker. Invariants:
the ledger decides, not the colours of tasks; traffic comes first, the registry's papers after it; a failed task alone
moves no traffic (the rollout is held, or given up while it has no share); every step may be done again, also long
after newer runs: the version that is stable by then keeps its aliases and its pods.

It is a teardown, because Airflow kills everything else when a person marks the run as failed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from plugins import endings
from plugins.endings import Ending
from plugins.hooks import cluster
from plugins.hooks.controller import (
    CONNECTION_ID,
    ControllerClient,
    ControllerConflictError,
    ControllerHook,
    NoFreshPassError,
)
from plugins.hooks.registry import CONNECTION_ID as MLFLOW_CONN_ID
from plugins.hooks.registry import RegistryHook
from plugins.model_card import outcome_card
from plugins.operators.base import SluiceOperator
from plugins.runs import NOTE_KEY, REGISTER, RESOLVE, SKIPPED_KEY, RunFacts, actor, find_facts
from plugins.settings import KUBERNETES_CONN_ID, Addresses
from sluice.errors import RetryableError
from sluice.spec import ReleaseSpec
from sluice.stages import LIVE, State

if TYPE_CHECKING:
    from airflow.sdk import Context

MARKER = "sluice outcome"


class SettleOperator(SluiceOperator):
    """XCom: `{outcome, reason}` for `verdict`, and the run's note under `note`."""

    ui_color = "#fce8e6"

    def __init__(
        self,
        *,
        spec: ReleaseSpec,
        controller_conn_id: str = CONNECTION_ID,
        mlflow_conn_id: str = MLFLOW_CONN_ID,
        kubernetes_conn_id: str = KUBERNETES_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.controller_conn_id, self.mlflow_conn_id = controller_conn_id, mlflow_conn_id
        self.kubernetes_conn_id = kubernetes_conn_id

    def run(self, context: Context) -> dict[str, Any]:
        ti = context["ti"]
        skipped = ti.xcom_pull(task_ids=RESOLVE, key=SKIPPED_KEY)
        facts = find_facts(context)
        client = ControllerHook(self.controller_conn_id).get_conn()
        rollout = self._rollout(client, facts, context["run_id"])
        if rollout is None:
            return self._say(
                context, "skipped" if skipped else "failed", skipped or "no rollout was begun", None
            )
        archs = [target.arch for target in self.spec.targets]
        ending = endings.read(context, self.spec.review.before, archs)
        rollout = self._settle(client, rollout, ending, by=actor(context))
        outcome, reason = endings.outcome(rollout, ending)
        self.log.info("%s: %s", outcome, reason)
        registered = _version(ti.xcom_pull(task_ids=REGISTER))
        serving = _version((client.service(self.spec.service) or {}).get("stable"))
        self._papers(registered, rollout, outcome, reason, serving)
        self._pods(registered or _version(rollout.get("candidate")), rollout, serving)
        return self._say(context, outcome, reason, rollout)

    def _rollout(
        self, client: ControllerClient, facts: RunFacts | None, run_id: str
    ) -> dict[str, Any] | None:
        """This run's rollout, also when `resolve` died after it had begun one."""
        if facts is not None:
            return client.rollout(facts.rollout)
        running = (client.service(self.spec.service) or {}).get("rollout")
        return running if running and running["run_id"] == run_id else None

    def _settle(
        self, client: ControllerClient, rollout: dict[str, Any], ending: Ending, *, by: str
    ) -> dict[str, Any]:
        """Move the rollout to where the run's ending puts it. An ended rollout stays as it is."""
        if State(rollout["state"]) not in LIVE:
            return rollout
        if ending.passed:
            return _promote(client, rollout)
        retreat = ending.retreat or (None if rollout["percent"] > 0 else State.ABANDONED)
        if retreat is not None:
            return client.retreat(rollout["id"], reason=ending.reason, by=by, outcome=str(retreat))
        try:
            return client.hold(rollout["id"], epoch=rollout["epoch"], reason=ending.reason, by=by)
        except ControllerConflictError as error:
            self.log.info("not held: %s", error)  # the guard was faster, or somebody superseded it
            return client.rollout(rollout["id"])

    def _papers(
        self,
        version: str | None,
        rollout: Mapping[str, Any],
        outcome: str,
        reason: str,
        serving: str | None,
    ) -> None:
        """Tags, description and aliases of the version; nothing when none was registered. serving: stable now."""
        if version is None:
            return
        registry, service = RegistryHook(self.mlflow_conn_id).get_conn(), self.spec.service
        registry.tag(service, version, {"stage": outcome, "reason": reason[:250], "rollout": rollout["id"]})
        text = outcome_card(outcome, reason, rollout.get("verdict"), rollout.get("exposed"))
        registry.describe_above(service, version, text, marker=MARKER)
        if outcome == State.PROMOTED and version == serving:
            registry.promote(service, version)
        elif State(rollout["state"]) not in LIVE:
            registry.drop_candidate(service, version)

    def _pods(self, version: str | None, rollout: Mapping[str, Any], serving: str | None) -> None:
        """Promoted: the previous version goes. Turned back: the candidate's pods stay for the spec's time.

        By labels, not by what `deploy` recorded: pods that never became ready are in no record.
        """
        state, now = State(rollout["state"]), datetime.now(UTC)
        if state in LIVE:
            return
        kubernetes = cluster.connect(Addresses.from_env(os.environ), self.kubernetes_conn_id)
        promoted = state is State.PROMOTED
        leaving = _version(rollout.get("stable")) if promoted else version
        if leaving is not None and leaving != serving:
            for name in kubernetes.of_version(self.spec.service, leaving):
                if promoted or self.spec.keep_turned_back_s == 0:
                    kubernetes.delete(name)
                    self.log.info("deleted %s", name)
                else:
                    kubernetes.keep_until(name, keep_s=self.spec.keep_turned_back_s, now=now)
        kubernetes.sweep(self.spec.service, now=now)

    def _say(self, context: Context, outcome: str, reason: str, rollout: Any) -> dict[str, Any]:
        text = outcome_card(outcome, reason, (rollout or {}).get("verdict"), (rollout or {}).get("exposed"))
        context["ti"].xcom_push(key=NOTE_KEY, value=text)
        return {"outcome": outcome, "reason": reason}


def _promote(client: ControllerClient, rollout: dict[str, Any]) -> dict[str, Any]:
    """Make the candidate stable. Raises RetryableError while the controller holds no fresh pass."""
    try:
        return client.promote(rollout["id"], epoch=rollout["epoch"])
    except NoFreshPassError as error:
        raise RetryableError(
            f"not promoted yet: {error.message}", "the task tries again by itself"
        ) from error


def _version(of: Mapping[str, Any] | None) -> str | None:
    version = (of or {}).get("version")
    return None if version is None else str(version)
