"""The stack as a whole: it reaches its parts past any proxy, and it ends when it is told to."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import requests

from local.stack.processes import Program
from local.stack.programs import REPO
from local.stack.stack import Stack, reach_loopback_directly

NAMES = ("NO_PROXY", "no_proxy")


@pytest.fixture
def proxied(monkeypatch):
    """A person behind a proxy that does not answer; what is set here is undone."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.org, 10.0.0.1")
    monkeypatch.setenv("no_proxy", "")
    return monkeypatch


def test_behind_a_proxy_the_parts_are_reached_directly_also_by_their_children(proxied, tmp_path):
    stack = Stack(tmp_path, say=lambda line: None)
    try:
        assert requests.utils.get_environ_proxies(stack.layout.url("airflow")) == {}
        show = "import os; print(os.environ['NO_PROXY'], os.environ['no_proxy'])"
        program = Program(name="child", argv=(sys.executable, "-c", show), log=tmp_path / "log")
        assert stack.processes.start(program).wait(timeout=30) == 0
    finally:
        stack.processes.close()
    wanted = "example.org,10.0.0.1,127.0.0.1,localhost"
    assert (tmp_path / "log").read_text().split() == [wanted, wanted]


def test_who_excludes_every_host_already_keeps_it(proxied):
    """`*` means every host only while it stands alone."""
    proxied.setenv("NO_PROXY", "*")
    reach_loopback_directly()
    assert [os.environ[name] for name in NAMES] == ["*", "*"]


def groups(path):
    return [row["pid"] for row in json.loads(path.read_text())] if path.exists() else []


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_ends_everything_at_once(tmp_path, sig):
    """Until everything is ready a minute may pass: who changes their mind does not wait for it."""
    argv = [sys.executable, "-m", "local.stack", "--root", str(tmp_path)]
    owner = subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE, text=True, start_new_session=True)
    listed = tmp_path / "run" / "groups.json"
    deadline = time.monotonic() + 60
    while len(pids := groups(listed)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    owner.send_signal(sig)
    said, _ = owner.communicate(timeout=20)
    assert owner.returncode == 0
    assert "ended; nothing is left running" in said
    assert "up." not in said
    assert len(pids) >= 2
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
