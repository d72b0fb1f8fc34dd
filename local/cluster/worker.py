"""The life of one pod on its node: volumes, init containers, containers, status, end.

Invariant: the status in the store is always computed as a whole from what the containers are now
(`publish`), so that no path through a pod's life can leave a stale half of it behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator

from local.cluster.container import Container, Host
from local.cluster.objects import Object, copy, now_text, set_condition
from local.cluster.volumes import VolumeError

PodWriter = Callable[[Callable[[Object], None]], None]


class Worker:
    """Runs one pod. `mount` sets its volumes up (VolumeError); `write` changes the stored pod."""

    def __init__(
        self, pod: Object, address: str, host: Host, mount: Callable[[], None], write: PodWriter
    ) -> None:
        self.pod = pod
        self.address = address
        spec = pod["spec"]
        once = "Never" if spec["restartPolicy"] == "Never" else "OnFailure"
        self._inits = [Container(pod, one, once, host) for one in spec.get("initContainers") or []]
        self._mains = [Container(pod, one, spec["restartPolicy"], host) for one in spec["containers"]]
        self._host = host
        self._mount = mount
        self._write = write
        self._verdict: tuple[str, str] | None = None  # (reason, message) of a pod failed from outside
        self._stopping = asyncio.Event()
        self._initialized = not self._inits
        self._began = now_text()
        self._failing: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._run())

    @property
    def containers(self) -> Iterator[Container]:
        yield from self._inits
        yield from self._mains

    def find(self, name: str) -> Container | None:
        return next((one for one in self.containers if one.name == name), None)

    async def stop(self, grace_s: float) -> None:
        """Ends every container within `grace_s`; returns when no process of the pod is left."""
        self._stopping.set()
        await asyncio.gather(*(one.stop(grace_s) for one in self.containers))
        await asyncio.wait([self._task])

    async def fail(self, reason: str, message: str, grace_s: float) -> None:
        """Ends the pod for good with phase Failed: eviction, deadline."""
        self._verdict = (reason, message)
        await self.stop(grace_s)
        self.publish()

    def forget(self) -> None:
        """Removes the pod's folder: logs, emptyDir, config maps."""
        shutil.rmtree(self._host.folder, ignore_errors=True)

    async def _run(self) -> None:
        seconds = self.pod["spec"].get("activeDeadlineSeconds")
        timer = asyncio.create_task(self._deadline(seconds)) if seconds else None
        try:
            await self._mount_volumes()
            await self._run_containers()
        except Exception as error:  # a fault of ours: whoever waits for this pod must hear of it
            for one in self.containers:
                one.give_up(error)
        finally:
            if timer is not None:
                timer.cancel()
            self.publish()

    async def _deadline(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        text = "Pod was active on the node longer than the specified deadline"
        # A task of its own: the end of _run, which it brings about, cancels this timer.
        self._failing = asyncio.create_task(
            self.fail("DeadlineExceeded", text, self.pod["spec"]["terminationGracePeriodSeconds"])
        )

    async def _mount_volumes(self) -> None:
        wait_s = self._host.timing.first_s
        while not self._stopping.is_set():
            try:
                self._mount()
                return
            except (VolumeError, OSError) as error:
                self._host.note("Warning", "FailedMount", f"MountVolume.SetUp failed: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            wait_s = min(wait_s * 2, self._host.timing.cap_s)

    async def _run_containers(self) -> None:
        self.publish()
        for one in self._inits:
            if self._stopping.is_set():
                return
            await one.run()
            if one.exit_code != 0:
                return
        self._initialized = True
        if not self._stopping.is_set():
            async with asyncio.TaskGroup() as group:
                for one in self._mains:
                    group.create_task(one.run())

    def publish(self) -> None:
        """Writes the whole status."""
        self._write(self._fill)

    def _fill(self, pod: Object) -> None:
        status = pod["status"] = copy(pod.get("status") or {})
        status["phase"] = self._phase()
        status["podIP"], status["podIPs"] = self.address, [{"ip": self.address}]
        status["hostIP"] = "127.0.0.1"
        status.setdefault("startTime", self._began)
        status["qosClass"] = _quality(pod["spec"])
        if self._verdict is not None:
            status["reason"], status["message"] = self._verdict
        for key, group in (("initContainerStatuses", self._inits), ("containerStatuses", self._mains)):
            if group:
                status[key] = [copy(one.status()) for one in group]
        if not self._initialized:
            for one in status["containerStatuses"]:
                one["state"] = {"waiting": {"reason": "PodInitializing"}}
        self._conditions(pod)

    def _phase(self) -> str:
        if self._verdict is not None:
            return "Failed"
        if any(one.done and one.exit_code not in (None, 0) for one in self._inits):
            return "Failed"
        if not all(one.done for one in self._mains):
            begun = self._initialized and all(one.id and one.log is not None for one in self._mains)
            return "Running" if begun else "Pending"
        codes = [one.exit_code for one in self._mains]
        if None in codes:  # stopped before it ever ran; the pod is being deleted
            return "Pending"
        return "Failed" if any(codes) else "Succeeded"

    def _conditions(self, pod: Object) -> None:
        conditions = pod["status"].setdefault("conditions", [])
        lacking = [one.name for one in self._mains if not one.ready]
        phase = pod["status"]["phase"]
        why = {"reason": "ContainersNotReady", "message": f"containers with unready status: {lacking}"}
        if phase == "Succeeded":
            why = {"reason": "PodCompleted"}
        elif phase == "Failed":
            why = {"reason": "PodFailed"}
        for kind in ("Ready", "ContainersReady"):
            good = {"type": kind, "status": "True"}
            set_condition(conditions, {"type": kind, "status": "False", **why} if lacking else good)
        state = "True" if self._initialized else "False"
        initialized = {"type": "Initialized", "status": state}
        if not self._initialized:
            initialized["reason"] = "ContainersNotInitialized"
        set_condition(conditions, initialized)


def _quality(spec: Object) -> str:
    """The QoS class, which clients show; eviction by it is not done here."""
    pairs = [
        ((one["resources"].get("requests") or {}), (one["resources"].get("limits") or {}))
        for one in spec["containers"]
    ]
    if not any(requests or limits for requests, limits in pairs):
        return "BestEffort"
    full = all(
        limits.get("cpu") and limits.get("memory") and requests == limits for requests, limits in pairs
    )
    return "Guaranteed" if full else "Burstable"
