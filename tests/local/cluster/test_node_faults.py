"""What this machine cannot do ends a container with an event and a text; nothing of a container is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.cluster.logs import ContainerLog, LogQuery
from local.cluster.processes import MARK, Processes, read_stat
from tests.local.cluster.kube import Emulator, Kube, alive, pod

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


class Held:
    """A pod that waits for its volume, so that a test can spoil its folder before its container is made."""

    def __init__(self, emulator: Emulator, kube: Kube, gate: Path) -> None:
        self._emulator, self._kube, self._gate = emulator, kube, gate

    def create(self, name: str, code: str, **spec: Any) -> Path:
        """Returns the folder of the pod on its node."""
        volume = {"name": "gate", "hostPath": {"path": str(self._gate), "type": "Directory"}}
        made = self._kube.create_pod(pod(name, code, volumes=[volume], **spec))
        self._kube.await_event("FailedMount", name)
        folder = self._emulator.state / "pods" / made.metadata.uid
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def release(self) -> None:
        self._gate.mkdir()


@pytest.fixture
def held(emulator: Emulator, local: Kube, tmp_path: Path) -> Held:
    return Held(emulator, local, tmp_path / "gate")


def test_a_container_that_cannot_be_made_here_is_terminated_with_128_and_the_text(
    held: Held, local: Kube
) -> None:
    """As on a full disk: the error once ended the pod's worker, and the pod stayed as it was for ever."""
    folder = held.create("nofolder", "print(1)")
    (folder / "main").write_text("a file where the container's folder should be")
    held.release()
    ended = local.await_phase("nofolder", "Failed").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (128, "StartError")
    assert "failed to start: " in ended.message
    assert str(folder / "main") in ended.message
    assert ended.message in local.await_event("Failed", "nofolder").message


def test_a_container_that_removes_its_message_file_has_no_message(local: Kube) -> None:
    container = {"env": [{"name": "WHERE", "value": "/dev/termination-log"}]}
    local.create_pod(pod("silent", "import os; os.remove(os.environ['WHERE'])", container=container))
    ended = local.await_phase("silent", "Succeeded").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.message) == (0, None)


def test_output_that_no_disk_takes_is_lost_and_said_to_be_while_the_container_goes_on(
    held: Held, local: Kube
) -> None:
    folder = held.create("loud", "for i in range(3): print(i, flush=True)")
    (folder / "main").mkdir()
    (folder / "main" / "0.log").symlink_to("/dev/full")
    held.release()
    ended = local.await_phase("loud", "Succeeded").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (0, "Completed")
    assert "No space left on device" in local.await_event("FailedLogging", "loud").message
    local.core.delete_namespaced_pod("loud", local.namespace)
    local.await_gone("loud")


def test_a_pod_that_cannot_be_set_up_fails_with_the_text(local: Kube) -> None:
    meta = {"metadata": {"name": "odd"}, "binaryData": {"f": "abc"}}  # no base64: the length is wrong
    local.core.create_namespaced_config_map(local.namespace, meta)
    local.create_pod(pod("odd", "print(1)", volumes=[{"name": "v", "configMap": {"name": "odd"}}]))
    ended = local.await_phase("odd", "Failed").status.container_statuses[0].state.terminated
    assert ended.exit_code == 128
    assert "padding" in ended.message


# Exec probes


def ends(pid: int) -> bool:
    """Whether a process that has been told to go has gone within ten seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    gone = bool(waiting.poll(10_000))
    os.close(descriptor)
    return gone


def test_a_probes_children_end_with_it_or_at_the_latest_with_their_container(
    local: Kube, tmp_path: Path
) -> None:
    """The first stays in the probe's process group, the second leaves it; both keep the probe's output open."""
    pids = [tmp_path / "stays", tmp_path / "leaves"]
    code = (
        "import subprocess, sys\n"
        "for path, leave in zip(sys.argv[1:], (False, True)):\n"
        f"    child = subprocess.Popen({SLEEP!r}, start_new_session=leave)\n"
        "    open(path, 'w').write(str(child.pid))"
    )
    probe = {
        "exec": {"command": ["python", "-c", code, *map(str, pids)]},
        "timeoutSeconds": 20,
        "periodSeconds": 600,
    }
    local.create_pod(pod("probed", "import time; time.sleep(600)", container={"readinessProbe": probe}))
    local.await_pod(
        "probed", lambda one: bool(one.status.container_statuses and one.status.container_statuses[0].ready)
    )
    stays, leaves = (int(path.read_text()) for path in pids)
    assert ends(stays)
    local.core.delete_namespaced_pod("probed", local.namespace, grace_period_seconds=0)
    local.await_gone("probed")
    assert not alive(leaves)


def test_a_probe_that_takes_too_long_takes_its_children_with_it(local: Kube, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        f"open(sys.argv[1], 'w').write(str(subprocess.Popen({SLEEP!r}).pid))\n"
        "time.sleep(600)"
    )
    probe = {
        "exec": {"command": ["python", "-c", code, str(tmp_path / "pid")]},
        "timeoutSeconds": 3,
        "periodSeconds": 600,
    }
    local.create_pod(pod("slow", "import time; time.sleep(600)", container={"readinessProbe": probe}))
    assert "no answer within 3 s" in local.await_event("Unhealthy", "slow").message
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_probe_that_fails_shows_its_last_words(local: Kube) -> None:
    probe = {"exec": {"command": ["python", "-c", "exit('x' * 999 + ' no disk')"]}, "timeoutSeconds": 20}
    local.create_pod(pod("sick", "import time; time.sleep(600)", container={"readinessProbe": probe}))
    assert local.await_event("Unhealthy", "sick").message.endswith("no disk")


# The list of processes


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, env={**os.environ, MARK: "uid/main/0"}) as process:
        yield process
        process.kill()


def entries(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (state / "processes.jsonl").read_text().splitlines()]


async def test_a_containers_id_is_written_down_before_its_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, the cluster would leave a process that the next one knows nothing of."""
    at_start: list[dict[str, Any]] = []
    start = asyncio.create_subprocess_exec

    async def watched(*argv: str, **how: Any) -> asyncio.subprocess.Process:
        at_start.extend(entries(tmp_path))
        return await start(*argv, **how)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
    where = {"env": {}, "cwd": tmp_path, "container": "uid/main/0", "output": 2, "nice": 0}
    process = await Processes(tmp_path).spawn(["true"], **where)
    await process.wait()
    assert [entry["container"] for entry in at_start] == ["uid/main/0"]
    assert [entry.get("pid") for entry in entries(tmp_path)] == [None, process.pid]


async def test_what_cannot_be_written_down_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "processes.jsonl").mkdir()
    where = {"env": {}, "cwd": tmp_path, "container": "uid/main/0", "output": 2, "nice": 0}
    with pytest.raises(IsADirectoryError):
        await Processes(tmp_path).spawn(["touch", str(tmp_path / "ran")], **where)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("known", ["the id alone", "the pid alone"])
def test_a_process_is_found_by_either_line_and_gone_when_clean_up_returns(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], known: str
) -> None:
    processes = Processes(tmp_path)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    stat = read_stat(sleeper.pid)
    by_id = {"container": "uid/main/0", "boot": boot}
    by_pid = {"container": "other", "boot": boot, "pid": sleeper.pid, "started": stat.started}
    (tmp_path / "processes.jsonl").write_text(json.dumps(by_id if known == "the id alone" else by_pid) + "\n")
    assert processes.clean_up() == 1
    assert not alive(sleeper.pid)
    assert sleeper.wait() == -signal.SIGKILL


# A log on a disk that is full for a while


@contextlib.contextmanager
def room(file: Path, more_bytes: int) -> Iterator[None]:
    """The file may grow by so many bytes, as on a disk with no more left: a write takes that part of its data."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + more_bytes, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_log_keeps_no_half_line_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """What is written behind half a line could not be read: the answer broke off there."""
    file = tmp_path / "0.log"
    log = ContainerLog(file)
    log.feed(b"one\n")
    with room(file, 5), pytest.raises(OSError, match="No space left"):
        log.feed(b"two\n")
    log.feed(b"three\nfour")
    with room(file, 5), pytest.raises(OSError, match="No space left"):
        log.close()
    pieces = [piece async for piece in log.read(LogQuery(follow=True))]
    assert b"".join(pieces) == b"one\nthree\n", "and whoever follows is let go"
