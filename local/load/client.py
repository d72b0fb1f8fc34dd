"""An open-loop client: requests leave on a Poisson schedule, whether or not earlier ones have been answered.

A closed loop would slow down together with a slow server and hide it. The schedule, the users and the texts come
from one seed. The client knows a gateway, a path and a header; it cannot know which version is good.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from local.load.journal import Sent
from sluice.errors import FatalError

FLUSH_S = 0.2
UPSTREAM_HEADER = "x-envoy-upstream-service-time"  # whole milliseconds, rounded down


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send. rate_rps: mean of the Poisson schedule; users: size of the population, uniform and sticky."""

    url: str
    uid_header: str
    rate_rps: float
    users: int
    seed: int
    timeout_s: float = 30.0


def shape_of(value: Any) -> list[int]:
    """The shape of nested lists, () for a number."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def body_of(sample: dict[str, Any]) -> tuple[bytes, int]:
    """The Open Inference Protocol body of one un-batched sample, and the length of its first input."""
    inputs = []
    for name, value in sample.items():
        shape = shape_of(value)
        flat = value
        for _ in shape[1:]:
            flat = [item for row in flat for item in row]
        datatype = "INT64" if all(isinstance(item, int) for item in flat) else "FP32"
        inputs.append({"name": name, "shape": [1, *shape], "datatype": datatype, "data": flat})
    if not inputs:
        raise FatalError(
            "a sample without inputs", next_step="write one JSON object with the model's inputs a line"
        )
    return json.dumps({"inputs": inputs}).encode(), inputs[0]["shape"][-1]


def bodies_of(samples: Path) -> list[tuple[bytes, int]]:
    """Bodies of all samples of a JSON-lines file; refuses an empty one."""
    bodies = [body_of(json.loads(line)) for line in samples.read_text().splitlines() if line.strip()]
    if not bodies:
        raise FatalError(f"{samples} holds no sample", next_step="write one JSON object a line")
    return bodies


async def run(
    load: Load, bodies: Sequence[tuple[bytes, int]], write: Callable[[str], object], stop: asyncio.Event
) -> None:
    """Send until `stop` is set, then wait for the answers that are still out."""
    rng = random.Random(load.seed)
    timeout = aiohttp.ClientTimeout(total=load.timeout_s)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    pending: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        due = time.monotonic()
        while not stop.is_set():
            due += rng.expovariate(load.rate_rps)
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            uid = f"user-{rng.randrange(load.users):05d}"
            body, tokens = bodies[rng.randrange(len(bodies))]
            task = asyncio.create_task(_send(session, load, uid, body, tokens, write))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)


async def _send(
    session: aiohttp.ClientSession,
    load: Load,
    uid: str,
    body: bytes,
    tokens: int,
    write: Callable[[str], object],
) -> None:
    version, status, upstream_ms = "", 0, 0
    headers = {load.uid_header: uid, "Content-Type": "application/json"}
    sent_at_s = time.time()
    try:
        async with session.post(load.url, data=body, headers=headers) as answer:
            version, status = answer.headers.get("x-sluice-version", ""), answer.status
            upstream_ms = int(answer.headers.get(UPSTREAM_HEADER, 0))
            await answer.read()
    except (aiohttp.ClientError, TimeoutError):
        status = 0  # no answer: counted as a failure of the client's request
    sent = Sent(
        sent_at_s=sent_at_s,
        ended_at_s=time.time(),
        uid=uid,
        version=version,
        status=status,
        tokens=tokens,
        upstream_ms=upstream_ms,
    )
    write(sent.to_line())


async def anonymous(url: str, header: str, *, requests: int, concurrency: int = 8) -> dict[str, int]:
    """Ask for the model's metadata `requests` times without a user: half without `header`, half with it empty.

    Returns how many answers each version gave; the key `failed` counts the others. Metadata is on the same routes
    as inference and costs the server next to nothing.
    """
    counts: dict[str, int] = {"failed": 0}
    turns = iter(range(requests))

    async def ask(session: aiohttp.ClientSession) -> None:
        for turn in turns:
            headers = {header: ""} if turn % 2 else {}
            try:
                async with session.get(url, headers=headers) as answer:
                    version = answer.headers.get("x-sluice-version", "") if answer.status < 400 else "failed"
                    await answer.read()
            except (aiohttp.ClientError, TimeoutError):
                version = "failed"
            counts[version] = counts.get(version, 0) + 1

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        await asyncio.gather(*(ask(session) for _ in range(concurrency)))
    return counts
