"""A real Envoy between a small client and small upstreams, with the real management server: all on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from serving.control.xds import Endpoint, Gateways, ServiceTraffic, Slice, TrafficState
from sluice.entry import Entry

ROOT = Path(__file__).parents[3]
ARCHS = {"arch-a": 6_000, "arch-b": 4_000}
PREFIX = "/v2/models/minilm"
SALT = "epoch-7"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def version(self) -> str:
        return self.headers["x-sluice-version"]


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = raw[:-4].split("\r\n")
    return first, {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


class Client:
    """One keep-alive connection to the gateway; `get` and `post` raise on anything but a whole answer."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def get(self, path: str = "/infer", headers: Mapping[str, str | bytes] | None = None) -> Answer:
        return await self._ask(f"GET {PREFIX}{path} HTTP/1.1".encode(), headers or {})

    async def post(self, path: str, body: bytes, headers: Mapping[str, str | bytes] | None = None) -> Answer:
        length = {"content-length": str(len(body))}
        return await self._ask(f"POST {PREFIX}{path} HTTP/1.1".encode(), {**(headers or {}), **length}, body)

    async def _ask(self, first_line: bytes, headers: Mapping[str, str | bytes], body: bytes = b"") -> Answer:
        lines = [first_line, b"host: test"]
        for name, value in headers.items():
            lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
        self._writer.write(b"\r\n".join([*lines, b"", body]))
        first, got = await _head(self._reader)
        body = await self._reader.readexactly(int(got.get("content-length", 0)))
        return Answer(status=int(first.split()[1]), headers=got, body=body.decode())


@dataclass
class Upstream:
    """A model server that says its name; the path asks for a failure, a marker, an echo or silence."""

    name: str
    port: int = 0
    arrivals: list[float] = field(default_factory=list)  # perf_counter of each request's arrival
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, headers = await _head(reader)
                await reader.readexactly(int(headers.get("content-length", 0)))
                self.arrivals.append(time.perf_counter())
                path = first.split()[1].removeprefix(PREFIX)
                if path == "/hang":
                    await reader.read()  # until the gateway gives up
                    break
                status = int(path.removeprefix("/status/")) if path.startswith("/status/") else 200
                body = headers.get("x-sluice-event", "-") if path == "/echo" else self.name
                extra = "x-sluice-event: not-finite\r\n" if path == "/marked" else ""
                head = (
                    f"HTTP/1.1 {status} X\r\nx-sluice-version: forged\r\n{extra}content-length: {len(body)}"
                )
                writer.write(f"{head}\r\n\r\n{body}".encode())
        self._writers.discard(writer)
        writer.close()


class Wire:
    """TCP relay in front of the controller. `deafen` stops reading every connection but the first of a gateway.

    The first one is Envoy's main thread (ADS and counters); the others are its workers' (access logs).
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._hears = asyncio.Event()
        self._hears.set()
        self._count = 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def deafen(self) -> None:
        self._hears.clear()

    def listen(self) -> None:
        self._hears.set()

    async def stop(self) -> None:
        self._hears.set()
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        main = self._count == 1
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except ConnectionError:
            writer.close()
            return
        await asyncio.gather(
            self._copy(reader, up_writer, always=main), self._copy(up_reader, writer, always=True)
        )

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, always: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if not always:
                    await self._hears.wait()
                writer.write(data)
        writer.close()


@dataclass
class World:
    """Everything running. `entries` grows as the access log arrives."""

    gateways: Gateways
    xds_port: int
    gateway_port: int
    upstreams: dict[tuple[str, str], Upstream]  # (version, arch)
    entries: list[Entry]
    wire: Wire
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def state(self, percent: float, **changes: object) -> TrafficState:
        """Version 2 against version 1 at a share, per architecture the candidate first."""
        line: list[Slice] = []
        for arch, size in ARCHS.items():
            weight = round(size * percent / 100)
            for side, version, share in (("candidate", "2", weight), ("stable", "1", size - weight)):
                line.append(
                    Slice(arch=arch, side=side, version=version, cluster=f"v{version}-{arch}", weight=share)
                )
        fields: dict[str, object] = {
            "service": "minilm",
            "prefix": PREFIX,
            "uid_header": "x-user-id",
            "salt": SALT,
            "timeout_s": 2.5,
            "line": tuple(line),
            "endpoints": {
                f"v{version}-{arch}": (Endpoint(host="127.0.0.1", port=upstream.port),)
                for (version, arch), upstream in self.upstreams.items()
            },
            "labels": {"1": "v1-arch-a", "2": "v2-arch-b"},
            "stable_fallback": tuple((f"v1-{arch}", size) for arch, size in ARCHS.items()),
        }
        return TrafficState(services=(ServiceTraffic(**(fields | changes)),))

    async def infer(
        self, bodies: list[bytes], headers: Mapping[str, str | bytes] | None = None, connections: int = 4
    ) -> list[Answer]:
        """Send inference requests over some connections; answers in the order of the bodies."""
        answers: dict[int, Answer] = {}
        left = iter(enumerate(bodies))

        async def one() -> None:
            async with Client(self.gateway_port) as client:
                for index, body in left:
                    answers[index] = await client.post("/infer", body, headers)

        await asyncio.gather(*(one() for _ in range(connections)))
        return [answers[index] for index in range(len(bodies))]

    async def put(self, percent: float, **changes: object) -> int:
        """Apply and wait until the gateway follows."""
        generation = await self.gateways.apply(self.state(percent, **changes))
        report = await self.gateways.wait_acked(generation, 10)
        assert report.complete, report
        return generation

    async def ask(
        self, requests: list[tuple[str, dict[str, str | bytes]]], connections: int = 16
    ) -> list[Answer]:
        """Send (path, headers) over some connections; answers in the order of the requests."""
        answers: list[Answer | None] = [None] * len(requests)
        left = iter(enumerate(requests))

        async def one() -> None:
            async with Client(self.gateway_port) as client:
                for index, (path, headers) in left:
                    answers[index] = await client.get(path, headers)

        await asyncio.gather(*(one() for _ in range(connections)))
        return [answer for answer in answers if answer is not None]

    async def until(self, found: object, timeout_s: float = 10) -> None:
        """Wait for more log entries until `found(entries)` holds."""
        async with self.news:
            await asyncio.wait_for(self.news.wait_for(lambda: found(self.entries)), timeout_s)  # type: ignore[operator]

    async def connect(self) -> None:
        """Another management server on the same port, as after a restart of the controller."""
        self.gateways = Gateways(on_entries=self.heard)
        await self.gateways.start("127.0.0.1", self.xds_port)

    def heard(self, entries: list[Entry]) -> None:
        self.entries.extend(entries)
        self._telling = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        async with self.news:
            self.news.notify_all()


@contextlib.asynccontextmanager
async def running() -> object:
    """Start upstreams, server, relay and Envoy; stop all of it."""
    upstreams = {(v, arch): Upstream(f"{v}@{arch}") for v in ("1", "2") for arch in ARCHS}
    for upstream in upstreams.values():
        await upstream.start()
    xds_port, gateway_port = free_port(), free_port()
    wire = Wire(xds_port)
    world = World(
        gateways=None,  # type: ignore[arg-type]
        xds_port=xds_port,
        gateway_port=gateway_port,
        upstreams=upstreams,
        entries=[],
        wire=wire,
    )
    await world.connect()
    command = [sys.executable, "-m", "serving.gateway", "--listen", f"127.0.0.1:{gateway_port}"]
    command += ["--xds", f"127.0.0.1:{await wire.start()}", "--node", "gateway-1", "--log-level", "error"]
    envoy = subprocess.Popen(command, cwd=ROOT)  # noqa: ASYNC220 - it is exec, not I/O
    try:
        await world.put(0)
        yield world
    finally:
        envoy.terminate()
        await asyncio.to_thread(envoy.wait)
        await world.gateways.stop()
        await wire.stop()
        for upstream in upstreams.values():
            await upstream.stop()
