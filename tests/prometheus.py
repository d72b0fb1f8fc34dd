"""A real Prometheus for tests, and the metrics of two versions that a test sets.

The first scrape comes five seconds after each start, however short the interval. Values of one test stay in the
window of the next for a second: a test waits for what it wants to see.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import requests

from local.stack.processes import free_ports
from tests.threaded_server import ThreadedServer

SCRAPE_MS = 200
TRAFFIC = 50  # requests of each version from one scrape to the next
Lines = Callable[[], str]


class Metrics(ThreadedServer):
    """`/model` (what model servers export) and `/own` (what the controller exports), as text made at each scrape.

    latencies: (service, version) -> p99 in milliseconds; version None: a series without that label. Each has a
    counter of requests beside it, which grows. own: makes the text of `/own`. away: `/model` answers 503.
    """

    def __init__(self) -> None:
        self.latencies: dict[tuple[str, str | None], float] = {}
        self.own: Lines = lambda: ""
        self.away = False
        self._scrapes = 0

    def text(self, path: str) -> str | None:
        if path == "/own":
            return self.own()
        if self.away:
            return None
        self._scrapes += 1
        lines = []
        for (service, version), value in self.latencies.items():
            labels = f'service="{service}"' + ("" if version is None else f',version="{version}"')
            lines.append(f"p99_ms{{{labels}}} {value}")
            lines.append(f"model_requests_total{{{labels}}} {self._scrapes * TRAFFIC}")
        return "\n".join([*lines, ""])

    def handler(self) -> type[BaseHTTPRequestHandler]:
        metrics = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = metrics.text(self.path)
                # Prometheus ends while it scrapes. The traceback of that would parse source in this thread, and
                # CPython 3.11 counts the depth of all threads' parsing together: another test's parsing would fail.
                with contextlib.suppress(ConnectionError):
                    self.send_response(503 if text is None else 200)
                    self.end_headers()
                    self.wfile.write((text or "").encode())

            def log_message(self, *args: object) -> None:
                """Quiet."""

        return Handler


class Prometheus:
    """One server on a folder; `start` again after `kill` finds the samples of before."""

    def __init__(self, folder: Path, target: int) -> None:
        self._folder, self._process = folder, None
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        jobs = "".join(
            f"  - job_name: {name}\n    metrics_path: /{name}\n"
            f"    static_configs: [{{targets: ['127.0.0.1:{target}']}}]\n"
            for name in ("model", "own")
        )
        timing = f"global: {{scrape_interval: {SCRAPE_MS}ms, scrape_timeout: {SCRAPE_MS}ms}}\n"
        (folder / "prometheus.yml").write_text(f"{timing}scrape_configs:\n{jobs}")

    _process: subprocess.Popen[bytes] | None

    def start(self) -> None:
        """Idempotent; returns when it answers."""
        if self._process is None or self._process.poll() is not None:
            binary = shutil.which("prometheus")
            assert binary is not None, "install Debian's prometheus"
            files = (
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
            )
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [binary, *files, f"--web.listen-address=127.0.0.1:{self.port}"],
                    stdout=log,
                    stderr=log,
                )
        until(lambda: self._ready())

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _ready(self) -> bool:
        with suppress(requests.RequestException):
            return requests.get(f"{self.url}/-/ready", timeout=1).status_code == 200
        return False

    def await_series(self, promql: str) -> None:
        """Wait until a query selects something."""

        def found() -> bool:
            answer = requests.get(f"{self.url}/api/v1/query", params={"query": promql}, timeout=5).json()
            return bool(answer.get("data", {}).get("result"))

        until(found)


def until(what: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Ask again until the answer is true."""
    deadline = time.monotonic() + timeout_s
    while not (answer := what()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.05)
    return answer


def gate(**changes: Any) -> Mapping[str, Any]:
    """A gate on `Metrics`, over a second."""
    made = {
        "name": "p99_ms",
        "query": 'max by (version) (max_over_time(p99_ms{service="{service}", version="{version}"}[{window}]))',
        "limit": 500.0,
        "bad": "above",
        "window_s": 1.0,
        "min_samples": TRAFFIC,
        "samples_query": "sum by (version) (increase("
        'model_requests_total{service="{service}", version="{version}"}[{window}]))',
        "on_breach": "hold",
    }
    return {**made, **changes}
