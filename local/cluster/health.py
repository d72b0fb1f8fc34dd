"""The probes of one life of a container: the startup probe first, then liveness and readiness side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from local.cluster import probes
from local.cluster.objects import Object


class Health:
    """Watches one running container; the callbacks tell what changed.

    ready(bool): the readiness probe's verdict. started(): the startup probe has passed. unhealthy(kind): the
    startup or liveness probe has failed for good. note(text): one attempt failed.
    """

    def __init__(
        self,
        spec: Object,
        target: probes.Target,
        *,
        ready: Callable[[bool], None],
        started: Callable[[], None],
        unhealthy: Callable[[str], Awaitable[None]],
        note: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._target = target
        self._ready = ready
        self._started = started
        self._unhealthy = unhealthy
        self._note = note
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        if self._spec.get("startupProbe"):
            self._run(self._startup())
        else:
            self._start_rest()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _run(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _start_rest(self) -> None:
        if self._spec.get("livenessProbe"):
            self._run(self._liveness())
        if self._spec.get("readinessProbe"):
            self._run(self._readiness())

    async def _verdicts(self, kind: str, on_verdict: Callable[[bool], Awaitable[bool]]) -> None:
        """Hands on each verdict of one probe until `on_verdict` says that it has heard enough."""

        def failed(why: str) -> None:
            self._note(f"{kind.capitalize()} probe failed: {why}")

        async for good in probes.verdicts(self._spec[f"{kind}Probe"], self._target, failed):
            if await on_verdict(good):
                return

    async def _startup(self) -> None:
        async def heard(good: bool) -> bool:
            if good:
                self._started()
                self._start_rest()
            else:
                await self._unhealthy("startup")
            return True

        await self._verdicts("startup", heard)

    async def _liveness(self) -> None:
        async def heard(good: bool) -> bool:
            if not good:
                await self._unhealthy("liveness")
            return not good

        await self._verdicts("liveness", heard)

    async def _readiness(self) -> None:
        async def heard(good: bool) -> bool:
            self._ready(good)
            return False

        await self._verdicts("readiness", heard)
