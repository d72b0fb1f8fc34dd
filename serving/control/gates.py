"""Absolute gates at the controller: asks Prometheus, and keeps what it last said.

Problem: the guard judges four times a second and must never wait for another server. Invariants: asking goes on
beside the guard, which judges the newest answers in memory, each with its age; a Prometheus that is away, slow or
wrong leaves nothing that could pass or breach, and the coins go on closing stages without it. Nothing in here moves
traffic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final

import aiohttp

from serving.control.ledger import Head, Ledger
from sluice.absolute import Ask, asks, compared_with
from sluice.gate_check import Check, Life, check, probes
from sluice.promql import Answer, read_answer
from sluice.spec_policy import AbsoluteGate, Policy
from sluice.stages import State

POLL_S: Final = 2.0
TIMEOUT_S: Final = 5.0  # of one query; below the age at which an answer counts as old
CHECK_WAIT_S: Final = 20.0  # one lost scrape must not stop a release
CHECK_PAUSE_S: Final = 1.0

_log = logging.getLogger(__name__)


class GateReader:
    """Reads the gates of every rollout that runs. url: of Prometheus; None: this controller knows none."""

    def __init__(
        self, url: str | None, *, ledger: Ledger, now: Callable[[], datetime], poll_s: float = POLL_S
    ) -> None:
        self._url = None if url is None else url.rstrip("/")
        self._ledger, self._now, self._poll_s = ledger, now, poll_s
        self._answers: dict[str, dict[Ask, Answer]] = {}  # by rollout
        self._session: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def configured(self) -> bool:
        return self._url is not None

    async def start(self) -> None:
        """Without an address too: a rollout that an earlier controller began must say what it waits for."""
        if self.configured:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        self._task = asyncio.create_task(self._run(), name="absolute gates")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._session is not None:
            await self._session.close()

    def answers(self, rollout: str) -> Mapping[Ask, Answer]:
        """What was last said of a rollout; empty when nothing was asked yet, on which its gates hold."""
        return self._answers.get(rollout, {})

    async def _run(self) -> None:
        while True:
            try:
                await self.tick()
            except Exception:  # a bug or a broken database must not end the reading: old answers hold
                _log.exception("the absolute gates could not be read")
            await asyncio.sleep(self._poll_s)

    async def tick(self) -> None:
        """Ask for everything that runs; forget what does not."""
        heads = [head for head in self._ledger.heads(active=True) if head.state == State.RUNNING]
        self._answers = {head.id: self._answers.get(head.id, {}) for head in heads}
        for head in heads:
            if wanted := asks(_gates(head), head.service, _versions(head)):
                self._answers[head.id] = await self._ask(wanted)

    async def check(self, head: Head, wait_s: float) -> tuple[Check, ...]:
        """The gates of a rollout that cannot be relied on, after `wait_s` at most; none when all are alive."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            troubles = await self._check(head)
            if not troubles or loop.time() >= deadline:
                return troubles
            await asyncio.sleep(CHECK_PAUSE_S)

    async def _check(self, head: Head) -> tuple[Check, ...]:
        gates, stable = _gates(head), None if head.stable is None else head.stable["version"]
        answers = await self._ask(probes(gates, head.service, stable))
        now_s = self._now().timestamp()
        found = [check(gate, answers, head.service, stable, now_s=now_s) for gate in gates]
        return tuple(row for row in found if row.life is not Life.ALIVE)

    async def _ask(self, wanted: Iterable[Ask]) -> dict[Ask, Answer]:
        wanted = tuple(wanted)
        return dict(
            zip(wanted, await asyncio.gather(*(self._query(sent.query) for sent in wanted)), strict=True)
        )

    async def _query(self, promql: str) -> Answer:
        if self._session is None:
            return Answer(error="this controller was started without --prometheus")
        try:
            async with self._session.get(f"{self._url}/api/v1/query", params={"query": promql}) as answer:
                return read_answer(answer.status, await _json(answer))
        except (aiohttp.ClientError, TimeoutError) as error:
            return Answer(error=f"Prometheus did not answer: {error!r}")


async def _json(answer: aiohttp.ClientResponse) -> object:
    """The body; None when it is no JSON."""
    try:
        return await answer.json(content_type=None)
    except ValueError:
        return None


def _gates(head: Head) -> tuple[AbsoluteGate, ...]:
    return Policy.from_json(head.policy).gates.absolute


def _versions(head: Head) -> tuple[str | None, str | None]:
    """The candidate, and the stable version that serves beside it; as the evidence has them."""
    stable = None if head.stable is None else head.stable["version"]
    percent = 0.0 if head.stage is None else head.percents[head.stage]
    return (head.candidate or {}).get("version"), compared_with(stable, percent)
