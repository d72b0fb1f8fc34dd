"""Puts the candidate beside stable, without a request of traffic, and tells the controller where it runs.

Problem: a candidate that renames an output breaks every client at 100 %, and no error rate at 1 % need show it.
Invariants: the signatures are compared before a pod is made, and a difference that the spec does not name stops the
run; the controller hears of a candidate only when every architecture is ready; a second call changes nothing.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from plugins import reviews
from plugins.hooks import cluster
from plugins.hooks.controller import CONNECTION_ID, ControllerClient, ControllerHook
from plugins.operators.base import SluiceOperator
from plugins.runs import REGISTER, RunFacts, facts_of, release_of
from plugins.settings import KUBERNETES_CONN_ID, Addresses
from plugins.workloads import Workload
from sluice.errors import FatalError
from sluice.release import Release
from sluice.signature import Signature, differences

if TYPE_CHECKING:
    from airflow.sdk import Context

READY_TIMEOUT_S = 900.0
REPLICAS_BEFORE_TRAFFIC = 1  # the controller scales with the share


class DeployOperator(SluiceOperator):
    """XCom: `{version, workloads: [{arch, deployment, port}]}`."""

    ui_color = "#e0f7fa"

    def __init__(
        self,
        *,
        controller_conn_id: str = CONNECTION_ID,
        kubernetes_conn_id: str = KUBERNETES_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"execution_timeout": timedelta(seconds=READY_TIMEOUT_S + 300), **kwargs})
        self.controller_conn_id, self.kubernetes_conn_id = controller_conn_id, kubernetes_conn_id

    def run(self, context: Context) -> dict[str, Any]:
        facts = facts_of(context)
        release = release_of(facts)
        if reviews.DEPLOY in release.spec.review.before:
            self.log.info("%s", reviews.require_approval(context, reviews.DEPLOY))
        client = ControllerHook(self.controller_conn_id).get_conn()
        client.renew_lease(facts.rollout, epoch=facts.epoch)
        self._compare(client, release)
        workloads = _workloads(release, facts, _registered(context))
        kubernetes = cluster.connect(Addresses.from_env(os.environ), self.kubernetes_conn_id)
        for name in kubernetes.sweep(facts.service, now=datetime.now(UTC)):
            self.log.info("deleted %s, kept from an earlier run until now", name)
        for workload in workloads:
            self.log.info("%s: %s", workload.name, kubernetes.apply(workload))
        kubernetes.await_ready(workloads, timeout_s=READY_TIMEOUT_S, say=self.log.info)
        body = {
            "epoch": facts.epoch,
            "version": workloads[0].version,
            "signature": release.spec.signature.to_dict(),
            "workloads": [workload.for_controller() for workload in workloads],
        }
        client.candidate(facts.rollout, body)
        return {"version": workloads[0].version, "workloads": body["workloads"]}

    def _compare(self, client: ControllerClient, release: Release) -> None:
        """Raises FatalError naming every difference from stable that the spec does not."""
        stable = (client.service(release.spec.service) or {}).get("stable") or {}
        if not stable.get("signature"):
            self.log.info(
                "nothing to compare the signature with: stable is %s", stable.get("version", "not there")
            )
            return
        found = differences(
            Signature.from_dict(stable["signature"]), release.spec.signature, release.spec.signature_changes
        )
        if found:
            raise FatalError(
                f"clients of version {stable['version']} would break: " + "; ".join(found),
                "keep the signature, or name each input and output in signature_changes once clients are ready",
            )


def _registered(context: Context) -> dict[str, Any]:
    registered = context["ti"].xcom_pull(task_ids=REGISTER)
    if not registered:
        raise FatalError("task register recorded no version (was it marked as success?)", "clear register")
    return dict(registered)


def _workloads(release: Release, facts: RunFacts, registered: dict[str, Any]) -> list[Workload]:
    """One for every architecture that has an engine."""
    spec = release.spec
    return [
        Workload(
            service=spec.service,
            version=str(registered["version"]),
            target=target,
            server=spec.server,
            engine_key=release.keys.engine(target.arch),
            replicas=target.replicas if facts.straight else REPLICAS_BEFORE_TRAFFIC,
        )
        for target in spec.targets
        if target.arch in registered["engines"]
    ]
