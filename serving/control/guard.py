"""The guard: closes a rollout on harm, with nobody watching and nothing else running.

Every 0.25 s it judges what the controller itself counted. It needs the ledger and the gateways; Airflow, MLflow,
Prometheus and Kubernetes may all be down. Invariants: it only ever lowers traffic or holds; harm is in the ledger
before the weights move (unless the ledger is what is broken: the weights move all the same); one rollout that
cannot be judged never keeps the others from being judged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from serving.control.ledger import Head, find_latest
from serving.control.problems import ControlProblem
from serving.control.rollouts import LEASE, Parts, Retreat, Rollouts
from sluice.absolute import observed
from sluice.stages import State

TICK_S: Final = 0.25
WAIT_S: Final = (
    0.2  # for acknowledgements of a retreat, milliseconds as a rule; later ones are noted by `_zero`
)
BY: Final = "guard"

_log = logging.getLogger(__name__)


class Guard:
    """Judges the open stages and does what follows from time alone: leases, late acknowledgements, owed rows."""

    def __init__(self, parts: Parts, rollouts: Rollouts) -> None:
        self._p, self._rollouts = parts, rollouts
        self._task: asyncio.Task[None] | None = None
        self._told: dict[str, tuple[int | None, str]] = {}  # rollout -> stage and action last in the ledger
        self._observed: dict[str, str] = {}  # rollout -> what its gates that only observe said last
        self._heads: list[Head] = []  # live ones, as of the last pass that could read the ledger
        self.errors = 0  # ticks in which something could not be judged; on /metrics
        self.last_tick: datetime | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="guard")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await self.tick()
            await asyncio.sleep(TICK_S)

    async def tick(self) -> None:
        """One pass over everything that is live or not yet acknowledged."""
        await self._safely(self._look)
        self.last_tick = self._p.now()
        await self._safely(self._observe, self._heads)
        owed = self._rollouts.owed
        for rollout in owed:
            await self._safely(self._settle, rollout)
        for head in [head for head in self._heads if head.id not in owed]:
            await self._safely(self._judge, head)
            await self._safely(self._lease, head)
            await self._safely(self._acks, head)
        await self._safely(self._zero)
        await self._safely(self._save)

    async def _safely(self, step: Callable[..., Awaitable[None]], *args: Any) -> None:
        """A bug or a broken database in one step must not end the guard: say it, count it, go on."""
        try:
            await step(*args)
        except ControlProblem as problem:
            _log.info("%s: another writer was first: %s", step.__name__, problem)
        except Exception:
            self.errors += 1
            _log.exception("%s failed; the guard goes on", step.__name__)

    async def _look(self) -> None:
        """While the ledger cannot be read, the guard goes on with what it knew."""
        self._heads = self._p.ledger.heads(active=True)

    async def _observe(self, heads: list[Head]) -> None:
        if self._p.evidence.observe({head.id for head in heads if head.state == State.RUNNING}):
            self._p.world.kick()

    async def _save(self) -> None:
        self._p.evidence.save()

    async def _settle(self, rollout: str) -> None:
        """A retreat, anybody's, that the ledger could not take yet: its traffic is away already."""
        await self._rollouts.settle(rollout, wait_s=WAIT_S)

    async def _judge(self, head: Head) -> None:
        if head.state != State.RUNNING:
            return
        verdict = self._p.evidence.judge(head)
        if verdict["action"] == "harm":
            _log.warning("rollout %s: %s", head.id, verdict["reason"])
            retreat = Retreat(goal=State.TURNED_BACK, reason=verdict["reason"], by=BY, verdict=verdict)
            await self._rollouts.close(head.id, retreat, wait_s=WAIT_S)
            return
        self._say(head.id, observed(verdict["numbers"]))
        now = (head.stage, verdict["action"])
        # a new stage starts as a hold; after a restart the ledger's last verdict is what was told
        told = self._told.get(head.id, (head.stage, (head.verdict or {}).get("action", "hold")))
        if now != (told if told[0] == head.stage else (head.stage, "hold")):
            self._rollouts.note_verdict(head, verdict)
        self._told[head.id] = now

    def _say(self, rollout: str, told: str) -> None:
        """A line when it changes: at four passes a second a value that moves would be a flood."""
        if bool(told) != bool(self._observed.get(rollout)):
            _log.warning("rollout %s: %s", rollout, told or "what was observed is over")
        self._observed[rollout] = told

    async def _lease(self, head: Head) -> None:
        """Nobody renewed the rollout: its run died. What follows is the policy's choice.

        While it prepares nothing is at risk and long builds are silent: there the rollout is only held.
        """
        head = self._rollouts.get(head.id)
        if (
            not head.active
            or head.lease_until is None
            or datetime.fromisoformat(head.lease_until) > self._p.now()
        ):
            return
        reason = f"nobody renewed the lease until {head.lease_until}"
        if head.policy["lease"]["then"] == "retreat" and head.state == State.RUNNING:
            retreat = Retreat(goal=State.ABANDONED, reason=reason, by=BY)
            await self._rollouts.close(head.id, retreat, wait_s=WAIT_S)
        elif head.held is None:
            self._rollouts.hold_row(head, reason=reason, by=LEASE)

    async def _acks(self, head: Head) -> None:
        """A gateway that was late when the stage opened may have come meanwhile."""
        head = self._rollouts.get(head.id)
        if head.active and head.opened and head.opened[-1]["acked_at"] is None:
            report = await self._p.world.wait_acked(await self._p.world.push(), 0)
            if report.complete:
                self._rollouts.note_opened(head.id)

    async def _zero(self) -> None:
        """The same for a retreat, of each service's newest rollout."""
        for service in self._p.ledger.services():
            with self._p.ledger.read() as session:
                head = find_latest(session, service.service)
            if head is None or head.active or head.state == State.PROMOTED or head.zero_acked_at is not None:
                continue
            report = await self._p.world.wait_acked(await self._p.world.push(), 0)
            if report.complete:
                self._rollouts.note_zero(head.id)
