"""Processes of containers: started in their own session, ended with all their children, never left behind.

Invariants: whatever a container started dies with it (its process group, its session, and every process that
carries its id in the environment, so that a child in a session of its own does not escape); the id is written to
`processes.jsonl` before the container's first process runs, and that one's pid with its start time right after (a
program may overwrite its environment), so that the next cluster on the same folder ends what a `kill -9` of this one
left, and never a stranger who got the same pid; a process that was ended here is gone, not only told to go.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK: Final = "SLUICE_CONTAINER_ID"  # environment variable that every process of a container inherits
GONE_S: Final = 5.0  # SIGKILL takes milliseconds, but for a process that waits for a device
_PROC: Final = Path("/proc")
_BOOT: Final = _PROC / "sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """One line of /proc/PID/stat. `started` is in clock ticks since boot, `rss_bytes` resident memory."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    rss_bytes: int
    zombie: bool


def read_stat(pid: int | str) -> Stat | None:
    """None: no such process (any more)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name may hold spaces and parentheses
    return Stat(
        pid=int(pid),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        rss_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        zombie=fields[0] == "Z",
    )


def all_stats() -> list[Stat]:
    found = (read_stat(name) for name in (entry.name for entry in _PROC.iterdir()) if name.isdigit())
    return [one for one in found if one is not None]


def _marks(pid: int) -> Iterator[str]:
    try:
        raw = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:  # gone, or another user's
        return
    prefix = f"{MARK}=".encode()
    yield from (item.removeprefix(prefix).decode() for item in raw.split(b"\0") if item.startswith(prefix))


def send(pid: int, number: signal.Signals, *, group: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if group else os.kill)(pid, number)


def end(pids: Iterable[int]) -> int:
    """SIGKILL to each; returns how many there were, once they are gone or GONE_S have passed. Blocks until then."""
    waiting, descriptors, told = select.poll(), [], 0
    for pid in pids:
        with contextlib.suppress(OSError):  # gone already, or no descriptor is left to wait with
            descriptors.append(os.pidfd_open(pid))
            waiting.register(descriptors[-1], select.POLLIN)  # readable once the process has ended
        send(pid, signal.SIGKILL)
        told += 1
    left, deadline = len(descriptors), time.monotonic() + GONE_S
    while left and time.monotonic() < deadline:
        for descriptor, _ in waiting.poll(max(1.0, (deadline - time.monotonic()) * 1000)):
            waiting.unregister(descriptor)
            left -= 1
    for descriptor in descriptors:
        os.close(descriptor)
    return told


class Processes:
    """All processes of this cluster. `state` is its folder; one live cluster per folder (the caller locks)."""

    def __init__(self, state: Path) -> None:
        self._ledger = state / "processes.jsonl"
        self._boot = _BOOT.read_text().strip()

    def clean_up(self) -> int:
        """Ends what an earlier cluster on this folder left; returns how many processes that were."""
        leaders, containers = self._read_ledger()
        ended = end(
            one.pid
            for one in all_stats()
            if not one.zombie
            and (leaders.get(one.pid) == one.started or not containers.isdisjoint(_marks(one.pid)))
        )
        self._ledger.write_text("")
        return ended

    def _read_ledger(self) -> tuple[dict[int, int], set[str]]:
        """{pid: start time} and the container ids that were started since this machine booted."""
        leaders: dict[int, int] = {}
        containers: set[str] = set()
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError):  # the line that a crash cut short
                entry = json.loads(line)
                if entry["boot"] == self._boot:
                    containers.add(entry["container"])
                    leaders[entry["pid"]] = entry["started"]  # KeyError: the line from before it ran
        return leaders, containers

    async def spawn(
        self, argv: list[str], *, env: Mapping[str, str], cwd: Path, container: str, output: int, nice: int
    ) -> asyncio.subprocess.Process:
        """Starts a session of its own. `output`: descriptor for stdout and stderr. OSError: nothing runs."""
        self._write(container=container)
        process = await asyncio.create_subprocess_exec(
            *argv,
            env={**env, MARK: container},
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        stat = read_stat(process.pid)
        try:
            self._write(container=container, pid=process.pid, started=stat.started if stat else 0)
        except OSError:
            send(process.pid, signal.SIGKILL, group=True)
            raise
        if nice:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                own = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(os.PRIO_PGRP, process.pid, min(19, own + nice))
        return process

    def _write(self, **entry: str | int) -> None:
        with self._ledger.open("a") as ledger:
            ledger.write(json.dumps({**entry, "boot": self._boot}) + "\n")

    async def sweep(self, leader: int, container: str) -> None:
        """Ends whatever a container whose leader is gone left running; returns when it is gone."""
        left = [
            one.pid
            for one in all_stats()
            if not one.zombie
            and one.pid != os.getpid()
            and (leader in (one.group, one.session) or container in _marks(one.pid))
        ]
        if left:
            await asyncio.to_thread(end, left)


def tree_rss_bytes(leaders: Mapping[str, int]) -> dict[str, int]:
    """Resident memory of each container's session and descendants, by container id, in bytes.

    One pass over /proc for all of them. Pages shared between processes count once per process, so a
    container of many forks reads higher here than in a cgroup.
    """
    stats = {one.pid: one for one in all_stats()}
    owner: dict[int, str] = {pid: container for container, pid in leaders.items()}
    total = dict.fromkeys(leaders, 0)
    for one in stats.values():
        here: Stat | None = one
        while here is not None and here.pid not in owner and here.session not in owner:
            here = stats.get(here.parent)
        if here is not None:
            total[owner.get(here.pid) or owner[here.session]] += one.rss_bytes
    return total
