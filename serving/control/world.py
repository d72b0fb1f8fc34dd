"""Makes the gateways follow the ledger.

Problem: a push that was built from an older row must never overtake one built from a newer row. Invariants: the
ledger is read and the state handed to the gateways under one lock, so that generations are in the ledger's order;
a retreat goes out as a change of weights alone, and routes follow it.
A service whose rows cannot be routed keeps its last good traffic; it never stops the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from serving.control.capacity import Capacity
from serving.control.ledger import Head, Ledger, ServiceRow, find_latest
from serving.control.traffic import Sight, Standing, service_traffic
from serving.control.xds.interface import AckReport, ServiceTraffic, TrafficPlane, TrafficState
from sluice.errors import FatalError

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class World:
    """Pushes what the ledger says. `sight` tells, by service, what the evidence wants to see."""

    ledger: Ledger
    capacity: Capacity
    plane: TrafficPlane
    sight: Callable[[Standing], Sight]
    closed: set[str] = field(
        default_factory=set
    )  # rollouts turned back while the ledger could not be written
    _lowering: set[str] = field(default_factory=set)  # rollouts of which only the weights may change now
    _last: list[Standing] = field(default_factory=list)
    _good: dict[str, ServiceTraffic] = field(default_factory=dict)
    _order: asyncio.Lock = field(default_factory=asyncio.Lock)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Push once, then whenever `kick` is called."""
        await self.push()
        self._task = asyncio.create_task(self._follow(), name="world")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def kick(self) -> None:
        """Something outside the ledger changed (addresses, limits): push soon."""
        self._wanted.set()

    async def push(self) -> int:
        """Read the ledger and hand it to the gateways. Returns the generation to wait for."""
        async with self._order:
            state = self._state()
            return await self.plane.apply(state)

    async def wait_acked(self, generation: int, timeout_s: float) -> AckReport:
        return await self.plane.wait_acked(generation, timeout_s)

    async def lower(self, rollout: str, timeout_s: float) -> AckReport:
        """Take the weights of a rollout that has just ended to 0, wait for the gateways, then let the rest follow."""
        self._lowering.add(rollout)
        try:
            return await self.wait_acked(await self.push(), timeout_s)
        finally:
            self._lowering.discard(rollout)
            self.kick()

    def standings(self) -> list[Standing]:
        """Every service as the ledger has it, by name."""
        with self.ledger.read() as session:
            rows = session.scalars(select(ServiceRow).order_by(ServiceRow.service))
            return [self._standing(row, find_latest(session, row.service)) for row in rows]

    def _standing(self, row: ServiceRow, head: Head | None) -> Standing:
        known = Standing(service=row.service, salt=row.salt, policy=row.policy, stable=row.stable, head=head)
        return self._marked(known)

    def _marked(self, known: Standing) -> Standing:
        """With what this process knows of the rollout and the ledger does not."""
        rollout = "" if known.head is None else known.head.id
        return replace(known, closed=rollout in self.closed, lowering=rollout in self._lowering)

    def traffic(self, service: str) -> ServiceTraffic | None:
        """The service's routing as it was last pushed."""
        return self._good.get(service)

    def _readable(self) -> list[Standing]:
        """The ledger's standings; while it cannot be read, the last ones, with what was closed since."""
        try:
            self._last = self.standings()
        except SQLAlchemyError:
            _log.exception("the ledger cannot be read; going on with what it said last")
            self._last = [self._marked(known) for known in self._last]
        return self._last

    def _state(self) -> TrafficState:
        good: dict[str, ServiceTraffic] = {}
        for standing in self._readable():
            try:
                made = service_traffic(standing, self.capacity.addresses, self.sight(standing))
                TrafficState(services=(*good.values(), *(() if made is None else (made,))))
            except FatalError:
                _log.exception("service %s cannot be routed as the ledger says", standing.service)
                made = self._good.get(standing.service)
            if made is not None:
                good[standing.service] = made
        self._good = good
        return TrafficState(services=tuple(good.values()))

    async def _follow(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.push()
