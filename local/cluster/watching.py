"""GET …?watch=true: the changes of one kind as a stream of JSON lines.

Invariants: a watch from version V sends every change after V that the selectors let through, once, in order;
an object that leaves the selection by a change is sent as DELETED and one that enters as ADDED, as in
Kubernetes; a version that is no longer in the history gets an ERROR event with 410.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from local.cluster.errors import ApiError
from local.cluster.objects import Object
from local.cluster.resources import Resource
from local.cluster.store import Change, Store

Shape = Callable[[Object], Object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which objects a request is about. `namespace` None: of all namespaces."""

    resource: Resource
    namespace: str | None
    test: Callable[[Object], bool]

    def has(self, obj: Object) -> bool:
        inside = self.namespace is None or obj["metadata"].get("namespace", "") == self.namespace
        return inside and self.test(obj)

    def line(self, change: Change) -> tuple[str, Object] | None:
        """(event type, object) as this selection sees the change; None: not at all."""
        now = change.type != "DELETED" and self.has(change.obj)
        before = change.old is not None and self.has(change.old)
        if now:
            return ("MODIFIED" if before else "ADDED"), change.obj
        return ("DELETED", change.obj) if before else None


class Watches:
    """All open watches, so that a fault can expire them and a stop can end them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: set[asyncio.Queue[Change | ApiError | None]] = set()
        store.subscribe(self._publish)

    def _publish(self, change: Change) -> None:
        for queue in self._open:
            queue.put_nowait(change)

    def end(self, error: ApiError | None = None) -> None:
        """Ends every open watch, with an ERROR event if one is given."""
        for queue in self._open:
            queue.put_nowait(error)

    async def stream(
        self, selection: Selection, version: str | None, shape: Shape, timeout_s: float
    ) -> AsyncIterator[bytes]:
        """JSON lines. `version` None or "0": first what there is, as ADDED. `shape` makes a table of an object."""
        queue: asyncio.Queue[Change | ApiError | None] = asyncio.Queue()
        try:
            first = self._first(selection, version)
        except ApiError as error:
            yield _encode("ERROR", error.status())
            return
        self._open.add(queue)
        try:
            for kind, obj in first:
                yield _encode(kind, shape(obj))
            async with asyncio.timeout(timeout_s):
                while (change := await queue.get()) is not None:
                    if isinstance(change, ApiError):
                        yield _encode("ERROR", change.status())
                        return
                    if change.resource is selection.resource and (seen := selection.line(change)):
                        yield _encode(seen[0], shape(seen[1]))
        except TimeoutError:
            return
        finally:
            self._open.discard(queue)

    def _first(self, selection: Selection, version: str | None) -> list[tuple[str, Object]]:
        if version in (None, "", "0"):
            objects = self._store.list(selection.resource, selection.namespace)
            return [("ADDED", obj) for obj in objects if selection.has(obj)]
        changes = self._store.since(selection.resource, int(version))
        return [seen for change in changes if (seen := selection.line(change)) is not None]


def _encode(kind: str, obj: Object) -> bytes:
    return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"
