"""What the tests of the controller drive it with: real Envoy, real backends, a real load, real processes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

TOKEN = "a-token-of-the-tests"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def policy(**changes: Any) -> dict[str, Any]:
    """A policy as the spec makes it, fast enough for a test. `changes` replace whole sections."""
    made: dict[str, Any] = {
        "stages": [{"percent": p, "dwell_s": 0.5} for p in (10, 25, 50, 100)],
        "gates": {
            "metrics": ["failure"],
            "alpha": 0.2,
            "beta": 0.2,
            "objectives": {"failure": 0.05},
            "settle_s": 0.3,
        },
        "traffic": {"prefix": "/v2/models/minilm", "uid_header": "x-user-id", "timeout_s": 5},
        "targets": [{"arch": "cpu", "share": 1.0, "replicas": 1}],
    }
    return made | changes


def begin_body(run: str = "run-1", **changes: Any) -> dict[str, Any]:
    body = {"service": "minilm", "release_digest": f"digest-of-{run}", "run_id": run, "policy": policy()}
    return body | changes


def candidate_body(epoch: int, version: str, *ports: int, arch: str = "cpu") -> dict[str, Any]:
    endpoints = [{"host": "127.0.0.1", "port": port} for port in ports]
    return {
        "epoch": epoch,
        "version": version,
        "signature": {"inputs": [], "outputs": []},
        "workloads": [{"arch": arch, "endpoints": endpoints}],
    }


@dataclass
class Backend:
    """A model server that answers its own name; `fails` of its answers are 500."""

    name: str
    fails: float = 0.0
    port: int = 0
    served: Counter[str] = field(default_factory=Counter)  # by user
    _dice: random.Random = field(default_factory=lambda: random.Random(7))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Backend]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                await reader.readexactly(int(headers.get("content-length", 0)))
                self.served[headers.get("x-user-id", "")] += 1
                status = b"500 Oops" if self._dice.random() < self.fails else b"200 OK"
                body = self.name.encode()
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
        writer.close()


@dataclass
class Load:
    """Closed-loop clients with sticky users: each takes the next user of a shuffled round."""

    port: int
    users: int = 20_000
    connections: int = 6
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # (version that answered, status)
    seen: dict[str, set[str]] = field(default_factory=dict)  # version -> users it answered
    errors: int = 0
    _round: list[int] = field(default_factory=list)
    _dice: random.Random = field(default_factory=lambda: random.Random(3))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        tasks = [asyncio.create_task(self._client()) for _ in range(self.connections)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _client(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                while True:
                    await self._ask(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.errors += 1
                await asyncio.sleep(0.05)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._round:
            self._round = self._dice.sample(range(self.users), self.users)
        user = f"user-{self._round.pop()}"
        writer.write(f"GET /v2/models/minilm/infer HTTP/1.1\r\nhost: x\r\nx-user-id: {user}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ", 1)[1].split("\r\n", 1)[0])
        name = (await reader.readexactly(length)).decode()
        self.answers[name, int(head[9:12])] += 1
        self.seen.setdefault(name, set()).add(user)


class Program:
    """A child process with its output in a file; killed at the end, whatever happens."""

    def __init__(self, log: Path, *command: str) -> None:
        self._log = log.open("ab")
        self.log = log
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def controller(folder: Path, port: int, xds_port: int, *more: str) -> Program:
    token = folder / "token"
    token.write_text(TOKEN)
    return Program(
        folder / "controller.log",
        *(sys.executable, "-m", "serving.control", "--port", str(port), "--xds-port", str(xds_port)),
        *("--ledger", f"sqlite:///{folder / 'ledger.db'}", "--token-file", str(token), *more),
    )


def gateway(folder: Path, port: int, xds_port: int) -> Program:
    return Program(
        folder / "gateway.log",
        *(sys.executable, "-m", "serving.gateway", "--listen", f"127.0.0.1:{port}"),
        *("--xds", f"127.0.0.1:{xds_port}", "--node", "gateway-1"),
    )


def client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {TOKEN}"}, timeout=30
    )


async def until(what: Any, timeout_s: float = 30.0, every_s: float = 0.05) -> Any:
    """Ask again until the answer is true; the last answer is in the error."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        answer = None
        with contextlib.suppress(httpx.TransportError):
            answer = await what()
        if answer:
            return answer
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        await asyncio.sleep(every_s)
