"""Copies of requests through the real Envoy, to the real recorder and to broken ones."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving.control.xds import Endpoint, Mirror
from serving.control.xds.mirror import MAX_CONNECTIONS, PASSED_ON, other_than
from tests.serving.recorder import process
from tests.serving.xds.world import World, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")
PRIVATE = {
    "x-user-id": "someone@example.org",
    "cookie": "session=secret",
    "authorization": "Bearer secret",
    "x-forwarded-for": "203.0.113.7",
    "user-agent": "secret/1",
    "x-team-header": "secret",
}


def to(port: int, percent: float = 100) -> Mirror:
    return Mirror(percent=percent, recorder=Endpoint(host="127.0.0.1", port=port))


@dataclass
class Broken:
    """A recorder of another kind: `reads` what comes and, unless it `answers`, never says a word."""

    reads: bool
    answers: bool
    says: str = "200 OK"
    port: int = 0
    heard: bytearray = field(default_factory=bytearray)
    open: int = 0
    most: int = 0  # connections at once
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        self.open += 1
        self.most = max(self.most, self.open)
        self.news.set()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            if not self.reads:
                reader._transport.pause_reading()  # type: ignore[attr-defined]
                await writer.wait_closed()
            while data := await reader.read(65_536):
                self.heard += data
                self.news.set()
                if self.answers:
                    writer.write(
                        f"HTTP/1.1 {self.says}\r\ncontent-length: 0\r\n\r\n".encode()
                        * data.count(b"HTTP/1.1\r\n")
                    )
        self.open -= 1
        writer.close()

    async def until(self, found: object) -> None:
        async with asyncio.timeout(10):
            while not found():  # type: ignore[operator]
                self.news.clear()
                await self.news.wait()


@contextlib.asynccontextmanager
async def broken(*, reads: bool, answers: bool, says: str = "200 OK") -> AsyncIterator[Broken]:
    made = Broken(reads=reads, answers=answers, says=says)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in made.tasks:
            task.cancel()


def bodies(count: int) -> list[bytes]:
    return [process.request([n, n + 1, n + 2], id=f"request-{n}") for n in range(count)]


async def test_every_request_reaches_the_recorder_and_is_written(world: World, tmp_path: Path) -> None:
    """At 100 %, by hash and without a uid, on either version; a tester's by label is not recorded."""
    with process.recorder(tmp_path) as recorder:
        await world.put(50, mirror=to(recorder.port))
        answers = []
        for start in range(0, 200, 40):  # no faster than the recorder: what is too much at once is dropped
            uid = {"x-user-id": f"u-{start}"} if start < 120 else {}
            answers += await world.infer(bodies(200)[start : start + 40], uid)
            await asyncio.to_thread(arrived, recorder.port, start + 40)
        tester = await world.infer([process.request([9, 9])], {"x-sluice-version": "2"})
        assert {answer.status for answer in answers + tester} == {200}
        assert await asyncio.to_thread(recorder.end) == 0
    found = recorder.recording()
    assert found.seen == 200
    assert process.token_rows(found) == [[n, n + 1, n + 2] for n in range(200)]


def arrived(port: int, count: int) -> None:
    """Return once the recorder has seen so many samples: copies are on their way when clients have their answers."""
    from tests.serving.runtime.server import Client

    deadline, client = time.monotonic() + 20, Client(port)
    while client.metric("sluice_recorder_samples_total", service="minilm") < count:
        assert time.monotonic() < deadline, client.get("/metrics").body.decode()


async def test_nothing_of_the_sender_leaves_the_gateway(world: World) -> None:
    """A copy has the headers that say how to read its body, and no other."""
    async with broken(reads=True, answers=True) as spy:
        await world.put(0, mirror=to(spy.port))
        sent = {**PRIVATE, "content-type": "application/json", "inference-header-content-length": "2"}
        await world.infer([b'{"a": 1}'], sent)
        await spy.until(lambda: b'{"a": 1}' in spy.heard)
    head = spy.heard.partition(b"\r\n\r\n")[0].decode().lower()
    names = {line.partition(":")[0] for line in head.split("\r\n")[1:]}
    print(head)
    assert names <= {*PASSED_ON, *ADDED}
    assert "secret" not in head
    assert "someone" not in head
    assert "203.0.113.7" not in head


ADDED = {"x-envoy-internal", "x-forwarded-for", "x-envoy-expected-rq-timeout-ms", "transfer-encoding"}


@pytest.mark.parametrize("percent", [None, 0])
async def test_without_a_share_nothing_is_mirrored(world: World, percent: float | None) -> None:
    async with broken(reads=True, answers=True) as spy:
        await world.put(0, mirror=None if percent is None else to(spy.port, percent))
        assert {answer.status for answer in await world.infer(bodies(50))} == {200}
        await world.put(0, mirror=to(spy.port))  # the proof that one would have been heard
        await world.infer([b"the first copy"])
        await spy.until(lambda: b"the first copy" in spy.heard)
    assert spy.heard.count(b"HTTP/1.1\r\n") == 1


async def test_a_share_is_that_share(world: World) -> None:
    """Of 2 000 requests at 5 %: 60 to 140, which one run of a million would miss."""
    async with broken(reads=True, answers=True) as spy:
        await world.put(0, mirror=to(spy.port, 5))
        await world.infer(bodies(2_000), connections=8)
        await world.put(0, mirror=to(spy.port))
        await world.infer([b"the last copy"])
        await spy.until(lambda: b"the last copy" in spy.heard)
    assert 60 <= spy.heard.count(b"HTTP/1.1\r\n") - 1 <= 140


@pytest.mark.parametrize(
    ("reads", "answers"),
    [pytest.param(False, False, id="never-reads"), pytest.param(True, False, id="never-answers")],
)
@pytest.mark.parametrize("size", [0, 4_000_000], ids=["small", "4-MB"])
async def test_a_recorder_that_hangs_costs_no_client_anything(
    world: World, reads: bool, answers: bool, size: int
) -> None:
    """Every answer is 200, with more copies under way than the recorder may have, and none waits for a timeout."""
    async with broken(reads=reads, answers=answers) as spy:
        await world.put(0, mirror=to(spy.port), timeout_s=30)
        load = [b"x" * size or body for body in bodies(12 if size else 300)]
        async with asyncio.timeout(25):
            got = await world.infer(load)
        assert {answer.status for answer in got} == {200}
        assert 1 <= spy.most <= MAX_CONNECTIONS
        await world.put(0, mirror=None)


async def test_an_absent_recorder_costs_no_client_anything(world: World) -> None:
    """Nobody listens there: all 200."""
    await world.put(0, mirror=to(free_port()))
    assert {answer.status for answer in await world.infer(bodies(300))} == {200}


async def test_a_recorder_that_fails_is_no_evidence(world: World) -> None:
    """Its 500s are in no access log: counted, they would be entries that got lost, and the rollout would hold."""
    async with broken(reads=True, answers=True, says="500 Broken") as spy:
        await world.put(0, mirror=to(spy.port))
        assert {answer.status for answer in await world.infer(bodies(20), connections=1)} == {200}
        await spy.until(lambda: spy.heard.count(b"HTTP/1.1\r\n") == 20)
        await two_reports(world)
        clusters = {count.cluster for count in world.gateways.reconcile().counts}
    assert "v1-arch-a" in clusters
    assert "minilm_recorder" not in clusters


async def two_reports(world: World) -> None:
    """Envoy has reported its counters, a second later again: the second holds all that was done before."""
    for _ in range(2):
        before = world.gateways.status()[0].last_stats_s
        async with asyncio.timeout(10):
            while world.gateways.status()[0].last_stats_s in (before, None):  # noqa: ASYNC110 - nothing tells of one
                await asyncio.sleep(0.05)


async def test_a_recorder_may_be_given_by_name(world: World) -> None:
    async with broken(reads=True, answers=True) as spy:
        await world.put(0, mirror=Mirror(percent=100, recorder=Endpoint(host="localhost", port=spy.port)))
        await world.infer([b"by name"])
        await spy.until(lambda: b"by name" in spy.heard)


@pytest.mark.parametrize("name", [*PASSED_ON, ":path", ":authority"])
async def test_the_pattern_spares_what_tells_how_to_read_a_body(name: str) -> None:
    assert not any(re.fullmatch(pattern, name) for pattern in other_than(PASSED_ON))


@pytest.mark.parametrize(
    "name", ["x-user-id", "cookie", "c", "content-typ", "content-types", "hos", "a:b", "host-x"]
)
async def test_the_pattern_takes_every_other_header(name: str) -> None:
    assert any(re.fullmatch(pattern, name) for pattern in other_than(PASSED_ON))
