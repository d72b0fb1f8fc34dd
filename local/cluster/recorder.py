"""Events: what happened to an object, for `kubectl describe` and for the operator's logs.

The same event again raises its count. The oldest go when there are more than KEEP, as in Kubernetes they go
after an hour.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Final

from local.cluster.objects import Object, now_text
from local.cluster.resources import EVENTS
from local.cluster.store import Store

KEEP: Final = 2000


class Recorder:
    """Writes events of one component (`scheduler`, `kubelet`, …) into the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: OrderedDict[tuple[str, str, str], tuple[str, str]] = OrderedDict()

    def record(self, about: Object, component: str, kind: str, reason: str, message: str) -> None:
        """kind: Normal or Warning."""
        key = (about["metadata"]["uid"], reason, message)
        where = self._names.get(key)
        if where is not None and self._store.find(EVENTS, *where) is not None:
            self._names.move_to_end(key)
            self._store.mutate(EVENTS, *where, _again)
            return
        self._names[key] = self._add(about, component, kind, reason, message)
        while len(self._names) > KEEP:
            _, old = self._names.popitem(last=False)
            if self._store.find(EVENTS, *old) is not None:
                self._store.remove(EVENTS, *old)

    def _add(self, about: Object, component: str, kind: str, reason: str, message: str) -> tuple[str, str]:
        meta, now = about["metadata"], now_text()
        namespace = meta.get("namespace", "default")
        name = f"{meta['name']}.{secrets.token_hex(8)}"
        event = {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "kind": about["kind"],
                "apiVersion": about["apiVersion"],
                "name": meta["name"],
                "namespace": namespace,
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            },
            "reason": reason,
            "message": message,
            "type": kind,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "eventTime": None,
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
        }
        self._store.create(EVENTS, event)
        return namespace, name


def _again(event: Object) -> None:
    event["count"] += 1
    event["lastTimestamp"] = now_text()
