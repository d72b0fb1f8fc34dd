"""Everything that a mirrored request meets, as processes: load client, Envoy, model server, recorder.

The controller's side of the gateways (`serving.control.xds.Gateways`) runs in this process; it turns mirroring on and
off as a promoted spec would. Its ledger and guard are left out: they decide nothing here.
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import yaml

from benchmarks.mirroring.model import samples, write_engine
from benchmarks.shipped import SPEC_FILE, environment
from local.load.journal import Sent, read
from local.stack.processes import free_ports
from serving.control.xds import Endpoint, Gateways, Mirror, ServiceTraffic, Slice, TrafficState
from sluice.spec import ReleaseSpec, parse_spec

ROOT: Final = Path(__file__).parents[2]
TEXTS: Final = 2000
CLUSTER: Final = "minilm_v1_cpu"


@dataclass(slots=True)
class Stand:
    """A running stand. `blocks` are cut out of the journal by the clock."""

    gateways: Gateways
    state: TrafficState
    recorder: Endpoint
    percent: float
    journal: Path

    async def turn(self, *, on: bool) -> None:
        """Have the gateway mirror, or not; return when it said that it does."""
        [traffic] = self.state.services
        fields = {name: getattr(traffic, name) for name in traffic.__dataclass_fields__}
        fields["mirror"] = Mirror(percent=self.percent, recorder=self.recorder) if on else None
        generation = await self.gateways.apply(TrafficState(services=(ServiceTraffic(**fields),)))
        report = await self.gateways.wait_acked(generation, 30)
        if not report.complete:
            raise RuntimeError(f"the gateway does not follow: {report}")

    async def copies(self) -> int:
        """How many copies the recorder has had."""
        url = f"http://{self.recorder.host}:{self.recorder.port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        [count] = re.findall(
            r'^sluice_recorder_requests_total\{service="minilm"\} (\S+)$', text, re.MULTILINE
        )
        return int(float(count))

    def sent(self) -> list[Sent]:
        """Every request that has ended."""
        return list(read(self.journal))


def recorded_spec(folder: Path) -> tuple[ReleaseSpec, Path]:
    """The shipped spec with a section `recording`, and its file."""
    raw = yaml.safe_load(SPEC_FILE.read_text())
    raw["recording"] = {"percent": 1, "recorder": "http://127.0.0.1:1"}
    path = folder / "minilm.yaml"
    path.write_text(yaml.safe_dump(raw))
    return parse_spec(path.read_text(), environment()), path


@contextlib.asynccontextmanager
async def stand(folder: Path, *, percent: float, rate_rps: float) -> AsyncIterator[Stand]:
    """Start everything, wait until answers come through the gateway, end everything."""
    spec, spec_file = recorded_spec(folder)
    lines = "".join(json.dumps(one) + "\n" for one in samples(TEXTS, spec))
    (folder / "samples.jsonl").write_text(lines)
    gateway_port, xds_port = free_ports(2)
    gateways = Gateways(on_entries=lambda _: None)
    async with contextlib.AsyncExitStack() as ends:
        server = [
            "--engine",
            str(write_engine(folder / "engine", spec)),
            "--model",
            "minilm",
            "--version",
            "1",
        ]
        host = ["--host", "127.0.0.1", "--port", "0"]
        served = await _started(ends, ["serving.runtime", *server, *host, "--threads", "1"], "ready: ")
        out = ["--spec", str(spec_file), "--out", str(folder / "recorded"), *host]
        recorder = await _started(ends, ["serving.recorder", *out], "listening: ")
        await gateways.start("127.0.0.1", xds_port)
        ends.push_async_callback(gateways.stop)
        ports = ["--listen", f"127.0.0.1:{gateway_port}", "--xds", f"127.0.0.1:{xds_port}"]
        await _started(ends, ["serving.gateway", *ports, "--node", "bench", "--log-level", "error"])
        journal = folder / "journal.jsonl"
        made = Stand(gateways, _state(spec, served), recorder, percent, journal)
        await made.turn(on=False)
        url = f"http://127.0.0.1:{gateway_port}{spec.traffic.prefix}/infer"
        load = ["--url", url, "--samples", str(folder / "samples.jsonl"), "--journal", str(journal)]
        await _started(ends, ["local.load", *load, "--rate", str(rate_rps)])
        await _answers(journal)
        yield made


def _state(spec: ReleaseSpec, served: Endpoint) -> TrafficState:
    whole = (Slice(arch="cpu", side="stable", version="1", cluster=CLUSTER, weight=10_000),)
    traffic = ServiceTraffic(
        service=spec.service,
        prefix=spec.traffic.prefix,
        uid_header=spec.traffic.uid_header,
        salt="bench",
        timeout_s=spec.traffic.timeout_s,
        line=whole,
        endpoints={CLUSTER: (served,)},
        labels={"1": CLUSTER},
        stable_fallback=((CLUSTER, 10_000),),
    )
    return TrafficState(services=(traffic,))


async def _started(
    ends: contextlib.AsyncExitStack, arguments: Sequence[str], ready: str | None = None
) -> Endpoint:
    """Start `python -m ...`; with `ready`, wait for a line that begins so and return where it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        cwd=ROOT,
        env={**os.environ, **environment()},
        stdout=subprocess.PIPE,
    )
    ends.push_async_callback(_end, process)
    port, line = 0, ""
    while ready is not None and not line.startswith(ready):
        line = (await _line(process)).decode()
        if not line:
            raise RuntimeError(f"{arguments[0]} ended with {await process.wait()} before it was ready")
        if found := re.match(r"listening: http://127\.0\.0\.1:(\d+)", line):
            port = int(found[1])
    return Endpoint(host="127.0.0.1", port=port or 1)


async def _line(process: asyncio.subprocess.Process) -> bytes:
    if process.stdout is None:
        raise RuntimeError("started without a pipe")
    return await process.stdout.readline()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.communicate()


async def _answers(journal: Path, timeout_s: float = 60) -> None:
    """Return once the journal has an answer with 200."""
    deadline = time.monotonic() + timeout_s
    while not any(one.status == 200 for one in _so_far(journal)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer came through the gateway in {timeout_s:g} s")
        await asyncio.sleep(0.1)


def _so_far(journal: Path) -> list[Sent]:
    return list(read(journal)) if journal.exists() else []


def parts_of(block: tuple[float, float], sent: Sequence[Sent]) -> tuple[list[float], int]:
    """(latencies in ms, failed) of the requests that were sent in a block [from, to), unix seconds."""
    own = [one for one in sent if block[0] <= one.sent_at_s < block[1]]
    return [(one.ended_at_s - one.sent_at_s) * 1000 for one in own], sum(one.failed for one in own)
