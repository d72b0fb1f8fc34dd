"""One container of a pod: its processes one after the other, its state, its restarts.

States as in Kubernetes: waiting (ContainerCreating, ErrImagePull, ImagePullBackOff, CrashLoopBackOff, …) ->
running -> terminated, and from there back to waiting when the pod's restart policy says so. `changed` is
called at every step; the pod writes its status from what it finds here.

Invariant: a life that begins ends, in `terminated` and with an event when it was this machine that failed (a full
disk, no descriptor left): nobody waits for a container of which nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from local.cluster import probes
from local.cluster.ending import NODE_FAULT, Ending, ending_of, last_words
from local.cluster.environment import Command, ConfigError, Place, command, environment, expand, relocate
from local.cluster.health import Health
from local.cluster.images import Image
from local.cluster.logs import ContainerLog
from local.cluster.objects import Object, named_port, now_text
from local.cluster.processes import MARK, Processes, send

_log = logging.getLogger(__name__)

Note = Callable[[str, str, str], None]  # (type, reason, message) of an event about this container


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Back-off of restarts and image pulls, in seconds: doubled from `first_s` up to `cap_s`.

    Kubernetes has 10 and 300; a demo wants to see them. A container that ran `reset_s` starts afresh.
    """

    first_s: float = 1.0
    cap_s: float = 30.0
    reset_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a container needs of its node."""

    processes: Processes
    session: aiohttp.ClientSession
    timing: Timing
    image: Callable[[str], Image | str]  # the image, or why it cannot be pulled
    place: Callable[[Object, Image], Place]  # container spec, image -> where it runs now
    folder: Path  # of the pod
    nice: int
    note: Note
    changed: Callable[[], None]


class Container:
    """Runs one container of a pod until it is done or stopped. `policy`: Always, OnFailure or Never."""

    def __init__(self, pod: Object, spec: Object, policy: str, host: Host) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: Object = {}
        self.ready = False
        self.started = False
        self.restarts = 0
        self.done = False
        self.log: ContainerLog | None = None
        self.previous_log: ContainerLog | None = None
        self.pid: int | None = None
        self.id = ""
        self._pod = pod
        self._policy = policy
        self._host = host
        self._stopping = asyncio.Event()
        self._kill_reason: tuple[str, int] | None = None
        self._place: Place | None = None
        self._probing: Health | None = None
        self._exited = asyncio.Event()

    @property
    def running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """Of the final end; None while it may run (again)."""
        return self.state["terminated"]["exitCode"] if self.done and "terminated" in self.state else None

    async def run(self) -> None:
        """Returns when the container will not run again."""
        wait_s = self._host.timing.first_s
        while not self._stopping.is_set():
            began = time.monotonic()
            ending = await self._life()
            if ending is None or self._stopping.is_set() or not self._again(ending.code):
                break
            if time.monotonic() - began > self._host.timing.reset_s:
                wait_s = self._host.timing.first_s
            await self._back_off(wait_s)
            wait_s = min(wait_s * 2, self._host.timing.cap_s)
        self.done = True
        self._host.changed()

    async def stop(self, grace_s: float) -> None:
        """preStop hook, SIGTERM, and SIGKILL after `grace_s` for both; returns when the process is gone."""
        self._stopping.set()
        await self._end(grace_s)

    def kill(self, reason: str, number: signal.Signals = signal.SIGKILL) -> None:
        """At once, with the reason that the terminated state shall show; the restart policy decides."""
        if self.pid is not None:
            self._kill_reason = (reason, 128 + number)
            send(self.pid, number, group=True)

    def give_up(self, error: Exception) -> None:
        """The end of a container that will not run, because its pod could not be set up."""
        if not self.done:
            self.done = True
            self._terminated(self._fault(error), now_text())

    def make(self, argv: list[str]) -> Command:
        """A further command in this container's environment (exec probes and hooks)."""
        if self._place is None:
            raise probes.ProbeFailed("the container is not running")
        env = environment(self._place)
        moved = tuple(relocate(expand(one, env), self._place.mounts) for one in argv)
        return Command(argv=moved, env={**env, MARK: self.id}, cwd=self._place.image.cwd)

    def status(self) -> Object:
        """The ContainerStatus."""
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": f"local://{self.spec['image']}" if self.id else "",
            "containerID": f"process://{self.id}" if self.id else "",
            "state": self.state,
            "lastState": self.last_state,
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
        }

    def _again(self, code: int) -> bool:
        return self._policy == "Always" or (self._policy == "OnFailure" and code != 0)

    def _set(self, state: Object) -> None:
        self.state = state
        self._host.changed()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _prepare(self) -> Command | None:
        """What to start, once image and configuration are there; None: stopped before they were."""
        wait_s = self._host.timing.first_s
        while not self._stopping.is_set():
            image = self._host.image(self.spec["image"])
            if isinstance(image, Image):
                try:
                    return self._command(image)
                except ConfigError as error:
                    self._host.note("Warning", "Failed", f"Error: {error}")
                    self._set({"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}})
                    await self._pause(wait_s)
            else:
                await self._no_image(image, wait_s)
            wait_s = min(wait_s * 2, self._host.timing.cap_s)
        return None

    def _command(self, image: Image) -> Command:
        self.id = f"{self._pod['metadata']['uid']}/{self.name}/{self.restarts}"
        self._message_file.parent.mkdir(parents=True, exist_ok=True)
        self._message_file.touch()
        place = self._host.place(self.spec, image)
        mounts = {**place.mounts, self.spec["terminationMessagePath"]: self._message_file}
        self._place = replace(place, mounts=mounts)
        return command(self._place)

    @property
    def _message_file(self) -> Path:
        return self._host.folder / self.name / f"{self.restarts}.message"

    async def _no_image(self, why: str, wait_s: float) -> None:
        name = self.spec["image"]
        text = f'Failed to pull image "{name}": {why}'
        self._host.note("Warning", "Failed", text)
        self._set({"waiting": {"reason": "ErrImagePull", "message": text}})
        await self._pause(wait_s / 2)
        back_off = f'Back-off pulling image "{name}"'
        self._host.note("Normal", "BackOff", back_off)
        self._set({"waiting": {"reason": "ImagePullBackOff", "message": f"{back_off}: {why}"}})
        await self._pause(wait_s / 2)

    async def _back_off(self, seconds: float) -> None:
        pod = self._pod["metadata"]
        where = f"container={self.name} pod={pod['name']}_{pod['namespace']}({pod['uid']})"
        self._host.note("Warning", "BackOff", f"Back-off restarting failed container {where}")
        self.last_state, self.restarts = self.state, self.restarts + 1
        self._set(
            {
                "waiting": {
                    "reason": "CrashLoopBackOff",
                    "message": f"back-off {seconds:g}s restarting failed {where}",
                }
            }
        )
        await self._pause(seconds)

    async def _life(self) -> Ending | None:
        """One life, from its creation to the end of its last process; None: stopped before there was one."""
        started_at = now_text()
        try:
            made = await self._prepare()
            if made is None:
                return None
            started_at = now_text()
            log = ContainerLog(self._host.folder / self.name / f"{self.restarts}.log")
            self.previous_log, self.log = self.log, log
            try:
                ending = await self._process(made, log)
            finally:
                self._close(log)
        except Exception as error:  # of this machine, or a fault of ours: the pod must end with it
            ending = self._fault(error)
        self._terminated(ending, started_at)
        return ending

    def _fault(self, error: Exception) -> Ending:
        if not isinstance(error, OSError):
            _log.exception("container %s", self.id)
        text = (
            f"failed {'while it ran' if self.running else 'to start'}: {str(error) or type(error).__name__}"
        )
        self._host.note("Warning", "Failed", f"Error: {text}")
        return Ending(code=NODE_FAULT, reason="Error" if self.running else "StartError", message=text)

    def _close(self, log: ContainerLog) -> None:
        try:
            log.close()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        """Output that cannot be written is lost and said to be; the container itself goes on."""
        self._host.note("Warning", "FailedLogging", f"Output of container {self.name} is lost: {error}")

    def _terminated(self, ending: Ending, started_at: str) -> None:
        message = last_words(ending, self.spec["terminationMessagePolicy"], self._message_file, self.log)
        self.ready = self.started = False
        self._set(ending.state(message=message, container=self.id, started_at=started_at))

    async def _process(self, made: Command, log: ContainerLog) -> Ending:
        reading, writing = os.pipe()
        host = self._host
        where = {"env": made.env, "cwd": made.cwd, "container": self.id, "nice": host.nice}
        try:
            process = await host.processes.spawn(list(made.argv), **where, output=writing)
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self.pid, self._exited, self._kill_reason = process.pid, asyncio.Event(), None
        pump = asyncio.create_task(_pump(reading, log, self._lost))
        if self._stopping.is_set():  # told to stop while the process was being made
            send(process.pid, signal.SIGKILL, group=True)
        try:
            self._running()
            return ending_of(await process.wait(), self._kill_reason)
        finally:
            await self._gone(process, pump)

    def _running(self) -> None:
        self._host.note("Normal", "Started", f"Started container {self.name}")
        self.started = not self.spec.get("startupProbe")
        self.ready = self.started and not self.spec.get("readinessProbe")
        self._set({"running": {"startedAt": now_text()}})
        self._probing = self._health()
        self._probing.start()

    async def _gone(self, process: asyncio.subprocess.Process, pump: asyncio.Task[None]) -> None:
        """After the leader's end (or our own): nothing of the container runs on and its output is read."""
        try:
            if self._probing is not None:
                self._probing.stop()
            if process.returncode is None:  # this cluster itself is stopping
                send(process.pid, signal.SIGKILL, group=True)
            self.pid, self._place = None, None
            await self._host.processes.sweep(process.pid, self.id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pump, 2)
        finally:
            self._exited.set()

    async def _end(self, grace_s: float) -> None:
        """Ends the running process, if there is one, and waits for it."""
        if self.pid is None:
            return
        exited, deadline = self._exited, time.monotonic() + grace_s
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook and grace_s > 0:
            await self._pre_stop(hook, grace_s)
        if grace_s > 0 and self.pid is not None:
            send(self.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(exited.wait(), max(0.0, deadline - time.monotonic()))
        if self.pid is not None:
            send(self.pid, signal.SIGKILL, group=True)
        await exited.wait()

    async def _pre_stop(self, hook: Object, grace_s: float) -> None:
        try:
            if hook.get("sleep"):
                await asyncio.sleep(min(grace_s, hook["sleep"]["seconds"]))
            else:
                await probes.attempt(hook, self._target(), grace_s)
        except probes.ProbeFailed as error:
            self._host.note("Warning", "FailedPreStopHook", f"PreStopHook failed: {error}")

    def _target(self) -> probes.Target:
        address = (self._place.pod.get("status") or {})["podIP"] if self._place else ""
        return probes.Target(
            session=self._host.session,
            address=address,
            port=lambda port: named_port(self._pod, port),
            make=self.make,
        )

    def _health(self) -> Health:
        return Health(
            self.spec,
            self._target(),
            ready=self._set_ready,
            started=self._set_started,
            unhealthy=self._unhealthy,
            note=lambda text: self._host.note("Warning", "Unhealthy", text),
        )

    def _set_ready(self, ready: bool) -> None:
        if self.running and self.ready is not ready:
            self.ready = ready
            self._host.changed()

    def _set_started(self) -> None:
        self.started = True
        self.ready = not self.spec.get("readinessProbe")
        self._host.changed()

    async def _unhealthy(self, kind: str) -> None:
        """Ends the process; run() starts it again by the restart policy."""
        text = f"Container {self.name} failed {kind} probe, will be restarted"
        self._host.note("Normal", "Killing", text)
        probe = self.spec[f"{kind}Probe"]
        default = self._pod["spec"]["terminationGracePeriodSeconds"]
        # Shielded: the end of the process cancels the probe that brings it about.
        grace_s = probe.get("terminationGracePeriodSeconds") or default
        await asyncio.shield(asyncio.create_task(self._end(grace_s)))


async def _pump(descriptor: int, log: ContainerLog, lost: Callable[[OSError], None]) -> None:
    """Carries a pipe into the log until its last writer closes it, also what the log cannot take (`lost`)."""
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", 0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        while data := await reader.read(65536):
            try:
                log.feed(data)
            except OSError as error:
                lost(error)
    finally:
        transport.close()
