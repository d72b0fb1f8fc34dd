"""A fresh server process, and a client that shows every byte of what it sends and gets."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Answer:
    """One answer; header names in lowercase."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One keep-alive connection to a model server."""

    def __init__(self, port: int, model: str = "tiny") -> None:
        self.connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self.base = f"/v2/models/{model}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self.connection.request(method, path, data, headers or {})
        response = self.connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def infer(self, document: Any, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("POST", f"{self.base}/infer", document, headers)

    def embed(self, *rows: list[int]) -> Answer:
        return self.infer(request(*rows))

    def metric(self, name: str, **labels: str) -> float:
        """The value of the one series of this name that has these labels."""
        found = [
            float(value)
            for series, value in re.findall(
                r"^(\S+?(?:\{.*\})?) (\S+)$", self.get("/metrics").body.decode(), re.MULTILINE
            )
            if series.partition("{")[0] == name
            and all(f'{label}="{text}"' in series for label, text in labels.items())
        ]
        assert len(found) == 1, f"{name} {labels}: {found}"
        return found[0]


def request(*rows: list[int], **more: Any) -> dict[str, Any]:
    """An infer request of rows of equal length, every token under the mask."""
    shape = [len(rows), len(rows[0])]
    ids = [token for row in rows for token in row]
    return {
        "inputs": [
            {"name": "input_ids", "shape": shape, "datatype": "INT64", "data": ids},
            {"name": "attention_mask", "shape": shape, "datatype": "INT64", "data": [1] * len(ids)},
        ],
        **more,
    }


@dataclass(frozen=True)
class Server:
    """A running server: its process and its port."""

    process: subprocess.Popen[str]
    port: int

    def client(self) -> Client:
        return Client(self.port)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self.process.wait(timeout=60)


def command(engine: Path, *more: str) -> list[str]:
    base = [
        sys.executable,
        "-m",
        "serving.runtime",
        "--engine",
        str(engine),
        "--model",
        "tiny",
        "--version",
        "2",
    ]
    return [*base, "--host", "127.0.0.1", "--port", "0", "--threads", "1", *more]


@contextmanager
def serving(
    engine: Path, *more: str, argv: list[str] | None = None, ready: str = "ready: "
) -> Iterator[Server]:
    """Start a server, wait for its line `ready`, end it afterwards. `argv` replaces the command."""
    with subprocess.Popen(
        argv or command(engine, *more), cwd=ROOT, env={**os.environ}, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            first = process.stdout.readline()
            port = re.fullmatch(r"listening: http://127\.0\.0\.1:(\d+)\n", first)
            assert port, f"the first line is {first!r}"
            while ready:
                line = process.stdout.readline()
                assert line, f"the server ended with {process.wait()} before it was ready"
                if line.startswith(ready):
                    break
            yield Server(process, int(port[1]))
        finally:
            process.kill()
