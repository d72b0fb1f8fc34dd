"""All parts of one cluster, put together; the API server (api.py) is its only way in."""

from __future__ import annotations

import asyncio
from typing import Any

from local.cluster import errors, faults
from local.cluster.controller import Controller
from local.cluster.faults import Faults
from local.cluster.garbage import Garbage
from local.cluster.kubelet import Kubelet, Settings
from local.cluster.networking import EndpointsController, Forwarder
from local.cluster.objects import Object
from local.cluster.recorder import Recorder
from local.cluster.resources import NAMESPACES, NODES
from local.cluster.scheduler import Scheduler
from local.cluster.selectors import label_test
from local.cluster.store import Store
from local.cluster.watching import Watches
from local.cluster.worker import Worker
from local.cluster.workloads import Deployments, ReplicaSets

_EVICTED = "The node was low on resource: memory (a fault that was asked for)."


class Cluster:
    """`start`, then serve; `close` kills every process. `nodes`: Node objects (nodes.load)."""

    def __init__(self, nodes: list[Object], settings: Settings) -> None:
        self.store = Store()
        self.faults = Faults()
        self.watches = Watches(self.store)
        recorder = Recorder(self.store)
        self.kubelet = Kubelet(self.store, recorder, self.faults, settings)
        self.forwarder = Forwarder(self.store, self.kubelet.addresses)
        self._nodes = nodes
        self._scheduler = Scheduler(self.store, recorder, self.faults)
        self._controllers: tuple[Controller, ...] = (
            self._scheduler,
            Deployments(self.store, recorder),
            ReplicaSets(self.store, recorder),
            EndpointsController(self.store),
            Garbage(self.store),
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> int:
        """Returns how many processes of an earlier cluster were ended."""
        ended = await self.kubelet.start()
        self._tasks = [asyncio.create_task(one.run()) for one in self._controllers]
        await asyncio.sleep(0)  # each controller subscribes before the first object comes
        for name in ("default", "kube-system"):
            self.store.create(NAMESPACES, namespace(name))
        for node in self._nodes:
            self.store.create(NODES, node)
        return ended

    async def close(self) -> None:
        self.watches.end()
        for task in self._tasks:
            task.cancel()
        await self.kubelet.close()

    async def break_on_request(self, body: Any) -> Object:
        """Adds a standing fault, or does a momentary one now. Raises 400, and 404 when it meets no pod."""
        fault = faults.read(body)
        kind = fault["fault"]
        if kind in {"kill", "evict"}:
            return {"fault": kind, "pods": await self._strike(fault)}
        self.faults.add(fault)
        if kind == "watch-expired":
            self.watches.end(errors.expired(0, self.store.version))
        self._scheduler.enqueue("all")
        return {"fault": kind, "standing": len(self.faults.standing)}

    def clear_faults(self) -> None:
        self.faults.clear()
        self._scheduler.enqueue("all")

    async def _strike(self, fault: Object) -> int:
        met = [worker for worker in self.kubelet.workers(label_test(fault["selector"])) if _alive(worker)]
        if not met:
            raise errors.ApiError(404, "NotFound", f"no running pod matches {fault['selector']!r}")
        for worker in met:
            if fault["fault"] == "evict":
                await worker.fail("Evicted", fault.get("message", _EVICTED), 0)
                continue
            for one in worker.containers:
                if fault.get("container", one.name) == one.name:
                    one.kill(fault.get("reason", "Error"))
        return len(met)


def _alive(worker: Worker) -> bool:
    return any(one.running for one in worker.containers)


def namespace(name: str) -> Object:
    labels = {"kubernetes.io/metadata.name": name}
    meta = {"name": name, "labels": labels}
    return {
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": meta,
        "spec": {},
        "status": {"phase": "Active"},
    }
