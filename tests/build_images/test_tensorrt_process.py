"""Whatever the TensorRT process does, the builder ends with an error that says so, and leaves nobody behind."""

import contextlib
import os
import select
import signal
import subprocess
import sys

import pytest

from build_images.engine_builder.errors import BuildTimeError, NoLibraryError, WorkerDiedError
from build_images.engine_builder.tensorrt_process import ROOT, TensorRtProcess
from sluice.errors import FatalError


@pytest.fixture
def started(tmp_path):
    """`started(code)`: a process of this Python that runs `code`, whatever arguments it is given."""

    def make(code):
        (tmp_path / "code.py").write_text(code)
        program = tmp_path / "trtpython"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "code.py"}"\n')
        program.chmod(0o755)
        return TensorRtProcess(str(program))

    return make


@pytest.mark.parametrize(
    ("prints", "says"),
    [
        pytest.param("b'banner of a library\\n'", "answered 'banner of a library'", id="no-json"),
        pytest.param("b'[1]\\n'", r"answered '\[1\]'", id="no-answer"),
        pytest.param("b'{}\\n'", "answered '{}'", id="empty"),
        pytest.param("b'\\xff\\xfe\\n'", "answered", id="no-text"),
    ],
)
def test_nonsense_is_an_error_that_shows_it(started, prints, says):
    code = f"import os\ninput()\nos.write(1, {prints})\ninput()\n"
    with started(code) as process, pytest.raises(FatalError, match=says):
        process.ask("facts", what="TensorRT", limit_s=60.0)


def test_a_process_that_is_killed_within_an_answer_is_worth_a_retry(started):
    code = 'import os\ninput()\nos.write(1, b\'{"result": {"host\')\nos.kill(os.getpid(), 9)\n'
    with started(code) as process, pytest.raises(WorkerDiedError, match="was ended by SIGKILL"):
        process.ask("time", what="timing")


def test_a_program_that_ends_before_it_answers_is_no_retry(started):
    says = r"SLUICE_TENSORRT_PYTHON = .* ended with exit code 7"
    with started("raise SystemExit(7)") as process, pytest.raises(FatalError, match=says):
        process.ask("facts", what="TensorRT")


def test_a_library_that_cannot_be_loaded_is_no_retry_whatever_it_raises(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text(
        "raise AttributeError(\"module 'numpy' has no attribute 'bool'\")\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        TensorRtProcess(sys.executable) as process,
        pytest.raises(NoLibraryError, match="AttributeError: module 'numpy' has no attribute 'bool'"),
    ):
        process.ask("facts", what="TensorRT")


def test_only_a_build_is_told_to_raise_the_time_of_builds(started):
    hangs, says = "import signal\nsignal.pause()", r"timing: .* gave no answer within 0\.2 s"
    with started(hangs) as process, pytest.raises(BuildTimeError):
        process.ask("build", limit_s=0.2)
    with started(hangs) as process, pytest.raises(WorkerDiedError, match=says):
        process.ask("time", what="timing", limit_s=0.2)


def test_a_request_after_the_process_died_says_so_again(started):
    with started("input()") as process:
        for _ in range(3):
            with pytest.raises(FatalError, match="ended with exit code 0"):
                process.ask("facts", what="TensorRT")


def test_the_first_device_of_cuda_is_the_first_of_the_driver(started):
    code = "import json, os\ninput()\nprint(json.dumps({'result': dict(os.environ)}), flush=True)\n"
    with started(code) as process:
        assert process.ask("facts")["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_builder_that_is_killed_takes_the_process_along_in_the_middle_of_its_work(tmp_path):
    busy = (
        "import os, signal\n"
        "from build_images.engine_builder.tensorrt_worker.__main__ import end_with_the_builder\n"
        'end_with_the_builder()\nprint(\'{"progress": "%d"}\' % os.getpid(), flush=True)\nsignal.pause()\n'
    )
    (tmp_path / "busy.py").write_text(busy)
    program = tmp_path / "trtpython"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "busy.py"}"\n')
    program.chmod(0o755)
    code = (
        "from build_images.engine_builder.tensorrt_process import TensorRtProcess\n"
        f"TensorRtProcess({str(program)!r}).ask('build')\n"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as builder:
        worker = int(builder.stdout.readline().rpartition(" ")[2])
        watch = os.pidfd_open(worker)
        builder.kill()
    try:
        assert select.select([watch], [], [], 30.0)[0], (
            f"{worker} is still there"
        )  # readable once it has ended
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(watch, signal.SIGKILL)
        os.close(watch)
