"""Nothing that the stack starts may outlive it, however it ends."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from local.stack.processes import Processes, Program, end_group, free_ports, kill_listed, start_time
from sluice.errors import FatalError, RetryableError

# A program that ignores SIGTERM and leaves a child in a session of its own, as Airflow and MLflow do.
STUBBORN = (
    "import os, signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "print(os.getpid(), child.pid, flush=True)\n"
    "time.sleep(600)\n"
)
OWNER = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from local.stack.processes import Processes, Program\n"
    "folder = Path(sys.argv[1])\n"
    "processes = Processes(folder)\n"
    "processes.start(Program(name='stubborn', argv=(sys.executable, '-c', sys.argv[2]), log=folder / 'log'))\n"
    "time.sleep(600)\n"
)


def stubborn(folder: Path) -> Program:
    return Program(name="stubborn", argv=(sys.executable, "-c", STUBBORN), log=folder / "log")


def family(log: Path) -> list[psutil.Process]:
    """The two processes of STUBBORN once they have written their pids."""
    deadline = time.monotonic() + 30
    while len(words := log.read_text().split() if log.exists() else []) < 2:
        assert time.monotonic() < deadline, "the program did not start"
        time.sleep(0.02)
    return [psutil.Process(int(word)) for word in words[-2:]]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=30)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_close_ends_a_program_that_ignores_sigterm_and_its_detached_child(tmp_path):
    """The whole family is gone, also what left the process group."""
    processes = Processes(tmp_path)
    processes.start(stubborn(tmp_path))
    members = family(tmp_path / "log")
    processes.close()
    assert gone(members)


def test_kill_minus_nine_of_the_owner_ends_everything(tmp_path):
    """Nobody can catch SIGKILL: the reaper ends what the owner could not."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), STUBBORN], start_new_session=True)
    members = family(tmp_path / "log")
    owner.kill()
    owner.wait()
    assert gone(members)


def test_a_second_start_ends_what_an_unreaped_first_one_left(tmp_path):
    """Owner and reaper both killed: the next start finds the list and ends the rest."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), STUBBORN], start_new_session=True)
    members = family(tmp_path / "log")
    for child in psutil.Process(owner.pid).children():
        if "local.stack.processes" in " ".join(child.cmdline()):
            child.kill()
    owner.kill()
    owner.wait()
    assert all(process.is_running() for process in members)
    Processes(tmp_path).close()
    assert gone(members)


def test_a_reused_pid_is_never_killed(tmp_path):
    """The list says when each process started; another process with that pid is left alone."""
    innocent = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    started = start_time(innocent.pid)
    assert started is not None
    path = tmp_path / "groups.json"
    path.write_text(f'[{{"pid": {innocent.pid}, "started": {started - 100}}}]')
    kill_listed(path)
    assert innocent.poll() is None
    end_group(innocent.pid, sig=signal.SIGKILL)
    assert not psutil.pid_exists(innocent.pid)


def test_a_program_that_ended_is_named_with_the_end_of_its_log(tmp_path):
    processes = Processes(tmp_path)
    argv = (sys.executable, "-c", "import sys; print('the reason'); sys.exit(7)")
    processes.start(Program(name="short", argv=argv, log=tmp_path / "log")).wait()
    with pytest.raises(RetryableError, match=r"short ended with exit code 7.*the reason"):
        processes.assert_alive("short")
    processes.close()


def test_nothing_starts_once_everything_has_been_ended(tmp_path):
    """Somebody restarts a part beside the main thread while Ctrl-C ends the stack: it must stay ended."""
    processes = Processes(tmp_path)
    processes.start(stubborn(tmp_path))
    members = family(tmp_path / "log")
    processes.close()
    for start in (lambda: processes.restart("stubborn"), lambda: processes.start(stubborn(tmp_path))):
        with pytest.raises(FatalError, match=r"stubborn was not started"):
            start()
    assert gone(members)


def test_what_is_being_started_while_everything_is_ended_does_not_outlive_it(tmp_path):
    processes = Processes(tmp_path)
    argv = (sys.executable, "-c", "import time; time.sleep(600)")
    started = []

    def start_until_refused():
        with contextlib.suppress(FatalError):
            while len(started) < 1_000:
                program = Program(name=f"part-{len(started)}", argv=argv, log=tmp_path / "log")
                started.append(processes.start(program))

    thread = threading.Thread(target=start_until_refused)
    thread.start()
    while len(started) < 4:
        time.sleep(0.001)
    processes.close()
    thread.join()
    assert 4 <= len(started) < 1_000
    for process in started:
        process.wait(timeout=30)  # raises while it lives


def test_no_two_free_ports_are_the_same():
    """One after the other, each let go before the next is drawn, 500 of them would all but surely repeat one."""
    ports = free_ports(500)
    assert len(set(ports)) == 500
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", ports[0]))
