"""Start programs in their own process groups and make sure that none outlives us.

`airflow standalone` and `mlflow server` leave children behind on SIGTERM, and nobody can catch SIGKILL. So every
program gets its own session, its group is written down before anything else, and a small reaper process, tied to us
by a pipe, kills every group in the list when the pipe closes: on a normal end, on Ctrl-C, and on `kill -9` of us.

Invariant: a program is on the list or was never started, and none starts once `close` was called, whoever asks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil

from sluice.errors import FatalError, RetryableError

TERM_GRACE_S = 5.0


def free_ports(count: int, host: str = "127.0.0.1") -> tuple[int, ...]:
    """TCP ports that are free on `host` at this moment, no two the same: each is held until all are drawn."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)


def end_on_signals() -> None:
    """Ctrl-C, SIGTERM and SIGHUP end this program at once, through every `with` that it is in."""
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to start: `argv` with `env` on top of ours, output to `log`."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None


class Processes:
    """The programs of one stack. `start` and `kill` by name; `close` ends all of them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._list = folder / "groups.json"
        kill_listed(self._list)
        self._running: dict[str, tuple[Program, subprocess.Popen[bytes]]] = {}
        self._lock, self._closed = threading.Lock(), False
        # A signal interrupts the main thread alone: what is started beside it is always written down.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")
        self._reaper = subprocess.Popen(
            [sys.executable, "-m", "local.stack.processes", str(self._list)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def start(self, program: Program) -> subprocess.Popen[bytes]:
        """Start `program`; a program of that name that runs already is ended first. FatalError after `close`."""
        self.kill(program.name)
        return self._starter.submit(self._start, program).result()

    def _start(self, program: Program) -> subprocess.Popen[bytes]:
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, program.log.open("ab") as log:
            if self._closed:
                raise FatalError(
                    f"{program.name} was not started: everything has been ended", next_step="start it anew"
                )
            process = subprocess.Popen(
                list(program.argv),
                env={**os.environ, **program.env},
                cwd=program.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running[program.name] = (program, process)
            self._write()
        return process

    def restart(self, name: str) -> None:
        """Start again what was started as `name`, with the same arguments."""
        self.start(self._running[name][0])

    def pid(self, name: str) -> int:
        return self._running[name][1].pid

    def assert_alive(self, name: str) -> None:
        """Raise with the end of its log if the program has ended."""
        program, process = self._running[name]
        if (code := process.poll()) is not None:
            tail = program.log.read_text(errors="replace").splitlines()[-15:]
            raise RetryableError(
                f"{name} ended with exit code {code}:\n" + "\n".join(tail), next_step=f"read {program.log}"
            )

    def kill(self, name: str, *, sig: signal.Signals = signal.SIGTERM) -> None:
        """End the whole process group of `name`: `sig`, a grace, then SIGKILL. Unknown names are no error."""
        known = self._running.get(name)
        if known is not None:
            end_group(known[1].pid, sig=sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                known[1].wait(timeout=1)

    def close(self) -> None:
        """End everything, newest first, then the reaper; nothing can be started afterwards. Idempotent."""
        with self._lock:
            self._closed = True
        for _, process in self._running.values():
            signal_group(process.pid, signal.SIGTERM)
        for name in reversed(list(self._running)):
            self.kill(name)
        self._list.unlink(missing_ok=True)
        if self._reaper.stdin and not self._reaper.stdin.closed:
            self._reaper.stdin.close()
        self._reaper.wait(timeout=10)

    def _write(self) -> None:
        groups = [
            {"pid": p.pid, "started": started}
            for _, p in self._running.values()
            if (started := start_time(p.pid)) is not None
        ]
        draft = self._list.with_suffix(".tmp")
        draft.write_text(json.dumps(groups))
        draft.replace(self._list)


def start_time(pid: int) -> float | None:
    """When `pid` started (seconds since the epoch), or None if it is gone: tells a reused pid apart."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def signal_group(pgid: int, sig: signal.Signals) -> bool:
    """True if the group still had a member."""
    try:
        os.killpg(pgid, sig)
    except ProcessLookupError:
        return False
    return True


def members(pgid: int) -> list[psutil.Process]:
    """The living members of the process group and all their descendants (some start sessions of their own)."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, psutil.ZombieProcess):
            if os.getpgid(process.pid) == pgid and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
                found.update({child.pid: child for child in process.children(recursive=True)})
    return list(found.values())


def end_group(pgid: int, *, sig: signal.Signals = signal.SIGTERM, grace_s: float = TERM_GRACE_S) -> None:
    """Signal the group and its descendants, wait at most `grace_s`, then SIGKILL what is left."""
    family = members(pgid)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(sig)
    _, left = psutil.wait_procs(family, timeout=grace_s)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    signal_group(pgid, signal.SIGKILL)


def kill_listed(path: Path) -> None:
    """Kill the groups that an earlier stack wrote down and could not end itself."""
    if not path.exists():
        return
    try:
        groups = json.loads(path.read_text())
    except ValueError:
        groups = []  # cut off while being written: the reaper of that stack has a whole one
    for group in groups:
        if (started := start_time(group["pid"])) is not None and abs(started - group["started"]) < 1:
            end_group(group["pid"], grace_s=2)
    path.unlink(missing_ok=True)


def reap(path: Path) -> None:
    """Wait until our parent's end of the pipe closes, then end every group in the list."""
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)
    sys.stdin.buffer.read()
    time.sleep(0.1)  # a parent that ends in good order removes the list first
    kill_listed(path)


if __name__ == "__main__":
    reap(Path(sys.argv[1]))
