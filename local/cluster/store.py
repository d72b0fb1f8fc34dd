"""Every object of the cluster in memory, with one version counter and the recent history for watches.

Invariants: an object handed out is never changed afterwards (writers put a new one in its place), so readers
need no copy; every change has its own version, greater than all before, also across restarts (the counter
starts at the clock's milliseconds); a watcher either sees every change since its version or is told 410.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from local.cluster import errors
from local.cluster.objects import Object, copy, key_of, now_text
from local.cluster.resources import Resource

HISTORY = 8192  # changes kept for watches that resume; some minutes of a busy demo


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One step of one object. `old` is None when it was added; on DELETED `obj` is its last state."""

    type: str
    resource: Resource
    obj: Object
    old: Object | None
    version: int


class Store:
    """The objects by resource and (namespace, name)."""

    def __init__(self, history: int = HISTORY) -> None:
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._version = int(time.time() * 1000)
        self._oldest = self._version  # versions up to this one are no longer in the history
        self._history: deque[Change] = deque()
        self._keep = history
        self._listeners: list[Callable[[Change], None]] = []

    @property
    def version(self) -> int:
        return self._version

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        return self._objects.get(resource.plural, {}).get((namespace, name))

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Raises 404."""
        obj = self.find(resource, namespace, name)
        if obj is None:
            raise errors.not_found(resource.qualified, name)
        return obj

    def list(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """In order of name, of one namespace or (None) of all."""
        objects = self._objects.get(resource.plural, {})
        return [objects[key] for key in sorted(objects) if namespace is None or key[0] == namespace]

    def create(self, resource: Resource, obj: Object) -> Object:
        """Raises 409 AlreadyExists."""
        key = key_of(obj)
        if key in self._objects.get(resource.plural, {}):
            raise errors.already_exists(resource.qualified, key[1])
        obj = copy(obj)
        obj["metadata"].setdefault("uid", str(uuid.uuid4()))
        obj["metadata"].setdefault("creationTimestamp", now_text())
        if resource.generation:
            obj["metadata"]["generation"] = 1
        return self._commit("ADDED", resource, obj, None)

    def replace(self, resource: Resource, obj: Object) -> Object:
        """Writes a whole object. Raises 404, and 409 Conflict when it carries another version than it has."""
        namespace, name = key_of(obj)
        old = self.get(resource, namespace, name)
        asked = obj["metadata"].get("resourceVersion")
        if asked and asked != old["metadata"]["resourceVersion"]:
            why = (
                "the object has been modified; please apply your changes to the latest version and try again"
            )
            raise errors.conflict(resource.qualified, name, why)
        uid = obj["metadata"].get("uid")
        if uid and uid != old["metadata"]["uid"]:
            raise errors.conflict(
                resource.qualified, name, f"the UID in the request ({uid}) is another object's"
            )
        return self._write(resource, old, copy(obj))

    def mutate(
        self, resource: Resource, namespace: str, name: str, change: Callable[[Object], None]
    ) -> Object:
        """Applies `change` to a copy and stores it; a change that alters nothing makes no version."""
        old = self.get(resource, namespace, name)
        obj = copy(old)
        change(obj)
        return self._write(resource, old, obj)

    def remove(self, resource: Resource, namespace: str, name: str) -> Object:
        old = self.get(resource, namespace, name)
        del self._objects[resource.plural][(namespace, name)]
        return self._commit("DELETED", resource, copy(old), old)

    def since(self, resource: Resource, version: int) -> list[Change]:
        """The changes after `version`. Raises 410 when some of them are forgotten."""
        if version < self._oldest:
            raise errors.expired(version, self._oldest)
        return [one for one in self._history if one.version > version and one.resource is resource]

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Calls `listener` in the writer's own turn, after each change; returns what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _write(self, resource: Resource, old: Object, obj: Object) -> Object:
        meta, was = obj["metadata"], old["metadata"]
        for fixed in ("uid", "creationTimestamp", "resourceVersion", "generation"):
            if fixed in was:
                meta[fixed] = was[fixed]
        if obj == old:
            return old
        if resource.generation and obj.get("spec") != old.get("spec"):
            meta["generation"] = was.get("generation", 1) + 1
        return self._commit("MODIFIED", resource, obj, old)

    def _commit(self, kind: str, resource: Resource, obj: Object, old: Object | None) -> Object:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        if kind != "DELETED":
            self._objects.setdefault(resource.plural, {})[key_of(obj)] = obj
        change = Change(type=kind, resource=resource, obj=obj, old=old, version=self._version)
        self._history.append(change)
        while len(self._history) > self._keep:
            self._oldest = self._history.popleft().version
        for listener in tuple(self._listeners):
            listener(change)
        return obj
