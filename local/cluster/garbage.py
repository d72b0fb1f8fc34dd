"""What goes with what: dependents when their owner is gone, everything in a namespace that is deleted."""

from __future__ import annotations

from local.cluster.controller import Controller
from local.cluster.objects import Object, is_deleting, key_of, now_text
from local.cluster.resources import NAMESPACES, PODS, RESOURCES, Resource
from local.cluster.store import Change, Store
from local.cluster.workloads import delete_pod


def delete(store: Store, resource: Resource, obj: Object, grace_s: int | None = None) -> Object:
    """Deletes one object in its kind's way; pods and namespaces take their time."""
    if resource is PODS:
        return delete_pod(store, obj, grace_s)
    if resource is NAMESPACES:
        return store.mutate(NAMESPACES, *key_of(obj), _terminating)
    return store.remove(resource, *key_of(obj))


def _terminating(namespace: Object) -> None:
    namespace["metadata"].setdefault("deletionTimestamp", now_text())
    namespace["status"] = {"phase": "Terminating"}


class Garbage(Controller):
    """Keys: `owner UID` once it is gone, `namespace NAME` while it is being deleted."""

    def interest(self, change: Change) -> None:
        meta = change.obj["metadata"]
        if change.type == "DELETED":
            self.enqueue(f"owner {meta['uid']}")
            if meta.get("namespace"):
                self._check(meta["namespace"])
        elif change.resource is NAMESPACES:
            self._check(meta["name"])

    def _check(self, name: str) -> None:
        namespace = self.store.find(NAMESPACES, "", name)
        if namespace is not None and is_deleting(namespace):
            self.enqueue(f"namespace {name}")

    def reconcile(self, key: str) -> None:
        kind, _, name = key.partition(" ")
        if kind == "owner":
            self._orphans(name)
        else:
            self._empty(name)

    def _orphans(self, uid: str) -> None:
        for resource in RESOURCES:
            for obj in self.store.list(resource):
                refs = obj["metadata"].get("ownerReferences") or []
                if any(ref["uid"] == uid for ref in refs) and not is_deleting(obj):
                    delete(self.store, resource, obj)

    def _empty(self, name: str) -> None:
        left = 0
        for resource in RESOURCES:
            for obj in self.store.list(resource, name) if resource.namespaced else []:
                if not is_deleting(obj):
                    delete(self.store, resource, obj)
                left += self.store.find(resource, *key_of(obj)) is not None
        if not left and self.store.find(NAMESPACES, "", name) is not None:
            self.store.remove(NAMESPACES, "", name)
