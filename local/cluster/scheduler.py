"""Binds pods to nodes, in order of age, when something has changed that could let one fit.

Invariant: what is wrong with one pod is told of that pod and keeps no other one waiting.
"""

from __future__ import annotations

import logging

from local.cluster import placing
from local.cluster.controller import Controller
from local.cluster.faults import Faults
from local.cluster.objects import (
    Object,
    condition,
    is_deleting,
    is_terminal,
    key_of,
    labels_of,
    set_condition,
)
from local.cluster.recorder import Recorder
from local.cluster.resources import NODES, PODS
from local.cluster.store import Change, Store

_log = logging.getLogger(__name__)


class Scheduler(Controller):
    """One key for everything: each pass looks at all pods that wait."""

    def __init__(self, store: Store, recorder: Recorder, faults: Faults) -> None:
        super().__init__(store)
        self._recorder = recorder
        self._faults = faults

    def interest(self, change: Change) -> None:
        pod = change.obj
        waits = change.resource is PODS and not pod["spec"].get("nodeName")
        freed = change.resource is PODS and (change.type == "DELETED" or is_terminal(pod))
        if waits or freed or change.resource is NODES:
            self.enqueue("all")

    def reconcile(self, key: str) -> None:
        waiting = [
            pod for pod in self.store.list(PODS) if not pod["spec"].get("nodeName") and not is_deleting(pod)
        ]
        for pod in sorted(waiting, key=_age):
            self._place(pod)

    def _place(self, pod: Object) -> None:
        node, why = self._choose(pod)
        if node is None:
            self._refuse(pod, why)
        else:
            stored = self.store.mutate(PODS, *key_of(pod), lambda one: _bind(one, node))
            name = "/".join(key_of(pod))
            self._recorder.record(
                stored, "default-scheduler", "Normal", "Scheduled", f"Successfully assigned {name} to {node}"
            )

    def _choose(self, pod: Object) -> tuple[str | None, str]:
        try:
            return placing.choose(pod, self.store.list(NODES), self.store.list(PODS), self._blocked)
        except Exception as error:  # nothing that we know of passes admission; the next pod must not wait
            _log.exception("pod %s", "/".join(key_of(pod)))
            return None, f"the pod cannot be judged: {type(error).__name__}: {error}"

    def _refuse(self, pod: Object, why: str) -> None:
        known = condition(pod, "PodScheduled")
        if known is None or known.get("message") != why:
            self._recorder.record(pod, "default-scheduler", "Warning", "FailedScheduling", why)
            self.store.mutate(PODS, *key_of(pod), lambda one: _unschedulable(one, why))

    def _blocked(self, node: Object) -> bool:
        return self._faults.unschedulable(labels_of(node).get("sluice.dev/arch", ""))


def _bind(pod: Object, node: str) -> None:
    pod["spec"]["nodeName"] = node
    conditions = pod["status"].setdefault("conditions", [])
    set_condition(conditions, {"type": "PodScheduled", "status": "True"})


def _unschedulable(pod: Object, why: str) -> None:
    conditions = pod["status"].setdefault("conditions", [])
    wanted = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
    set_condition(conditions, wanted)


def _age(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]
