"""Startup, liveness and readiness probes, with Kubernetes' counting of successes and failures."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp

from local.cluster.environment import Command
from local.cluster.objects import Object
from local.cluster.processes import send

Exec = Callable[[list[str]], Command]
Port = Callable[[int | str], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the handlers of one container are aimed at. `make` turns an exec command into a process."""

    session: aiohttp.ClientSession
    address: str
    port: Port
    make: Exec


class ProbeFailed(Exception):
    """One attempt failed; the text is what `kubectl describe` shows."""


async def attempt(handler: Object, target: Target, timeout_s: float) -> None:
    """One attempt of a probe or a preStop hook. ProbeFailed: it did not succeed in time."""
    try:
        async with asyncio.timeout(timeout_s):
            if handler.get("httpGet"):
                await _http(handler["httpGet"], target)
            elif handler.get("tcpSocket"):
                await _tcp(handler["tcpSocket"], target)
            else:
                await _exec(handler["exec"], target)
    except TimeoutError as error:
        raise ProbeFailed(f"no answer within {timeout_s:g} s") from error
    except (OSError, aiohttp.ClientError) as error:
        raise ProbeFailed(str(error) or type(error).__name__) from error


def _number(target: Target, port: int | str) -> int:
    number = target.port(port)
    if number is None:
        raise ProbeFailed(f"no container port is named {port!r}")
    return number


async def _http(spec: Object, target: Target) -> None:
    host = spec.get("host") or target.address
    url = f"http://{host}:{_number(target, spec['port'])}/{spec.get('path', '/').removeprefix('/')}"
    headers = {one["name"]: one["value"] for one in spec.get("httpHeaders") or []}
    async with target.session.get(url, headers=headers) as answer:
        if not 200 <= answer.status < 400:
            raise ProbeFailed(f"HTTP probe failed with statuscode: {answer.status}")


async def _tcp(spec: Object, target: Target) -> None:
    host = spec.get("host") or target.address
    _, writer = await asyncio.open_connection(host, _number(target, spec["port"]))
    writer.close()


async def _exec(spec: Object, target: Target) -> None:
    made = target.make(spec["command"])
    # Not a pipe: a child that holds one open would keep us waiting for more after the command itself has ended.
    output = os.memfd_create("output")
    try:
        process = await asyncio.create_subprocess_exec(
            *made.argv,
            env=dict(made.env),
            cwd=made.cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = await process.wait()
        finally:  # also of a command that took too long: its children go with it
            send(process.pid, signal.SIGKILL, group=True)
        if code:
            raise ProbeFailed(_tail(output) or f"exit code {code}")
    finally:
        os.close(output)


def _tail(output: int) -> str:
    """The last words of what was written, 256 bytes at most."""
    size = os.fstat(output).st_size
    return os.pread(output, 256, max(0, size - 256)).decode(errors="replace").strip()


async def verdicts(probe: Object, target: Target, on_failure: Callable[[str], None]) -> AsyncIterator[bool]:
    """Runs one probe for good; yields True or False each time its threshold in a row is reached."""
    await asyncio.sleep(probe.get("initialDelaySeconds") or 0)
    run, last = 0, None
    while True:
        try:
            await attempt(probe, target, probe["timeoutSeconds"])
            good = True
        except ProbeFailed as error:
            good = False
            on_failure(str(error))
        run = run + 1 if good is last else 1
        last = good
        if run == probe["successThreshold" if good else "failureThreshold"]:
            yield good
        await asyncio.sleep(probe["periodSeconds"])
