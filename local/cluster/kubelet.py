"""The node agent of every node: pods that are bound to a node become workers, deleted ones are ended.

Invariants: a pod object leaves the store only after its last process is gone; memory over a limit is seen
within MEMORY_PERIOD_S; nothing here polls but that check, and only while a container has a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from local.cluster import volumes
from local.cluster.addresses import Addresses
from local.cluster.container import Container, Host, Timing
from local.cluster.environment import Place
from local.cluster.faults import Faults
from local.cluster.images import Image, Images
from local.cluster.objects import Object, is_deleting, is_terminal, key_of, labels_of, owner_of, quantity
from local.cluster.processes import Processes, tree_rss_bytes
from local.cluster.recorder import Recorder
from local.cluster.resources import CONFIGMAPS, PODS
from local.cluster.store import Change, Store
from local.cluster.worker import Worker

MEMORY_PERIOD_S: Final = 1.0  # one pass over /proc: 10 to 20 ms on a busy machine
BATCH_NICE: Final = 10  # pods of nobody (jobs) that ask for no CPU give way to those that serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line gave."""

    state: Path
    images: Images
    claims: Mapping[str, Path]
    timing: Timing


class Kubelet:
    """All pods of all nodes of this machine."""

    def __init__(self, store: Store, recorder: Recorder, faults: Faults, settings: Settings) -> None:
        self._store = store
        self._recorder = recorder
        self._faults = faults
        self._settings = settings
        self._processes = Processes(settings.state)
        self._addresses = Addresses()
        self._workers: dict[str, Worker] = {}  # by pod uid
        self._endings: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._limits = asyncio.Event()
        self._monitor: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> Addresses:
        return self._addresses

    async def start(self) -> int:
        """Ends what an earlier cluster left (how many processes), then watches for pods."""
        ended = self._processes.clean_up()
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, headers={"User-Agent": "kube-probe/1.32"})
        self._store.subscribe(self._on_change)
        self._monitor = asyncio.create_task(self._watch_memory())
        return ended

    async def close(self) -> None:
        """Kills every process at once."""
        if self._monitor is not None:
            self._monitor.cancel()
        await asyncio.gather(*(worker.stop(0) for worker in self._workers.values()))
        for task in self._endings.values():
            task.cancel()
        if self._session is not None:
            await self._session.close()
        self._addresses.close()

    def worker(self, pod: Object) -> Worker | None:
        return self._workers.get(pod["metadata"]["uid"])

    def workers(self, test: Callable[[Mapping[str, str]], bool]) -> list[Worker]:
        """The workers of pods whose labels pass."""
        return [one for one in self._workers.values() if test(labels_of(one.pod))]

    def _on_change(self, change: Change) -> None:
        if change.resource is not PODS:
            return
        pod = change.obj
        uid = pod["metadata"]["uid"]
        if change.type == "DELETED":
            self._forget(uid)
        elif is_deleting(pod):
            self._delete(pod)
        elif pod["spec"].get("nodeName") and uid not in self._workers and not is_terminal(pod):
            self._adopt(pod)

    def _forget(self, uid: str) -> None:
        worker = self._workers.pop(uid, None)
        if worker is not None:
            self._addresses.give_back(worker.address)
            worker.forget()

    def _adopt(self, pod: Object) -> None:
        address = self._addresses.take()
        uid, key = pod["metadata"]["uid"], key_of(pod)
        folder = self._settings.state / "pods" / uid
        mounted: dict[str, Path] = {}

        def place(container: Object, image: Image) -> Place:
            now = self._store.find(PODS, *key) or pod
            return Place(
                pod=now,
                container=container,
                image=image,
                mounts=volumes.mounts(container, mounted),
                config_maps={one["metadata"]["name"]: one for one in self._store.list(CONFIGMAPS, key[0])},
                node_address="127.0.0.1",
            )

        def mount() -> None:
            def config_map(name: str) -> Object | None:
                return self._store.find(CONFIGMAPS, key[0], name)

            mounted.update(volumes.set_up(pod, folder, self._settings.claims, config_map))

        host = self._host(pod, folder, place)
        self._workers[uid] = Worker(pod, address, host, mount, lambda change: self._write(uid, key, change))

    def _host(self, pod: Object, folder: Path, place: Callable[[Object, Image], Place]) -> Host:
        if self._session is None:
            raise RuntimeError("a pod came before start()")
        uid = pod["metadata"]["uid"]
        asks_cpu = any(
            (one["resources"].get("requests") or {}).get("cpu") for one in pod["spec"]["containers"]
        )
        return Host(
            processes=self._processes,
            session=self._session,
            timing=self._settings.timing,
            image=self._find_image,
            place=place,
            folder=folder,
            nice=0 if asks_cpu or owner_of(pod) else BATCH_NICE,
            note=lambda kind, reason, text: self._recorder.record(pod, "kubelet", kind, reason, text),
            changed=lambda: self._publish(uid),
        )

    def _find_image(self, name: str) -> Image | str:
        if why := self._faults.image_error(name):
            return why
        image = self._settings.images.find(name)
        return image or f"no pattern of the images file matches {name!r}; add it and start again"

    def _publish(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            if any(one.running and _memory_limit(one) for one in worker.containers):
                self._limits.set()
            worker.publish()

    def _write(self, uid: str, key: tuple[str, str], change: Callable[[Object], None]) -> None:
        stored = self._store.find(PODS, *key)
        if stored is not None and stored["metadata"]["uid"] == uid:
            self._store.mutate(PODS, *key, change)

    def _delete(self, pod: Object) -> None:
        """A deletion was asked for, or asked for again with less grace."""
        uid, key = pod["metadata"]["uid"], key_of(pod)
        grace = pod["metadata"]["deletionGracePeriodSeconds"]
        if uid in self._endings and grace > 0:
            return
        earlier = self._endings.pop(uid, None)
        if earlier is not None:
            earlier.cancel()
        self._endings[uid] = asyncio.create_task(self._end(uid, key, grace))

    async def _end(self, uid: str, key: tuple[str, str], grace_s: float) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            for one in worker.containers:
                if one.running:
                    self._recorder.record(
                        worker.pod, "kubelet", "Normal", "Killing", f"Stopping container {one.name}"
                    )
            await worker.stop(grace_s)
        stored = self._store.find(PODS, *key)
        if stored is not None and stored["metadata"]["uid"] == uid:
            self._store.remove(PODS, *key)
        self._endings.pop(uid, None)

    async def _watch_memory(self) -> None:
        while True:
            limited = {
                one.id: (one, limit)
                for worker in self._workers.values()
                for one in worker.containers
                if one.pid is not None and (limit := _memory_limit(one))
            }
            if not limited:
                self._limits.clear()
                await self._limits.wait()
                continue
            used = tree_rss_bytes({key: one.pid or 0 for key, (one, _) in limited.items()})
            for key, (one, limit) in limited.items():
                if used[key] > limit:
                    one.kill("OOMKilled")
            await asyncio.sleep(MEMORY_PERIOD_S)


def _memory_limit(container: Container) -> int:
    """In bytes; 0: none."""
    limits = container.spec["resources"].get("limits") or {}
    return int(quantity(limits["memory"])) if "memory" in limits else 0
