"""The builder's end of `tensorrt_worker`: one process, asked by JSON lines.

Invariants: a process that dies, hangs or answers nonsense becomes one of our errors, with the last that it said; a
request has a time limit, after which the process is killed; what the process reports of its progress is printed.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any, Final, Self

from build_images.engine_builder.errors import BuildTimeError, WorkerDiedError
from build_images.engine_builder.tensorrt_answers import error_of
from sluice.errors import FatalError

PYTHON_ENV: Final = "SLUICE_TENSORRT_PYTHON"
ROOT: Final = Path(__file__).resolve().parents[2]
ANSWER_S: Final = 1800.0  # of a request that has no limit of its own: loading, timing
KILL_S: Final = 10.0


class TensorRtProcess:
    """One worker. Use as a context manager; `ask` raises FatalError or RetryableError."""

    def __init__(self, python: str | None = None) -> None:
        self._python = python or os.environ.get(PYTHON_ENV) or sys.executable
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        try:
            self._process = subprocess.Popen(
                [self._python, "-m", "build_images.engine_builder.tensorrt_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, "CUDA_MODULE_LOADING": "LAZY"},
                start_new_session=True,
            )
        except OSError as error:
            raise FatalError(
                f"{PYTHON_ENV} = {self._python} cannot be started: {error.strerror}",
                f"set {PYTHON_ENV} to a Python that imports tensorrt",
            ) from error
        self._answers: Queue[str | None] = Queue()
        self._requests, stdout = _pipes(self._process)
        self._stdout = stdout
        self._reader = threading.Thread(target=self._read, args=(stdout,), daemon=True)
        self._reader.start()
        self.phase = "start"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(
        self, command: str, *, what: str = "", limit_s: float = ANSWER_S, **request: Any
    ) -> Mapping[str, Any]:
        """The result of one command. what: for people, in progress lines and errors.

        Raises what the worker's error becomes, WorkerDiedError, and BuildTimeError after limit_s seconds.
        """
        try:
            self._requests.write(json.dumps({"command": command, **request}) + "\n")
            self._requests.flush()
        except OSError:
            raise self._died(what or command) from None
        end = time.monotonic() + limit_s
        while True:
            answer = self._next(end, what or command, limit_s)
            if "progress" in answer:
                self.phase = str(answer["progress"])
                print(f"{what or command}: {self.phase}", flush=True)
            elif "error" in answer:
                raise error_of(answer["error"], what or command)
            else:
                return dict(answer["result"])

    def end(self) -> None:
        """Stop the process, by force where it must be."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(KILL_S)
        except subprocess.TimeoutExpired:
            self._kill()
        self._reader.join(KILL_S)
        self._stdout.close()

    def _next(self, end: float, what: str, limit_s: float) -> Mapping[str, Any]:
        try:
            line = self._answers.get(timeout=max(0.0, end - time.monotonic()))
        except Empty:
            self._kill()
            raise BuildTimeError(what, limit_s, self.phase) from None
        if line is None:
            raise self._died(what)
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._process.wait()

    def _died(self, what: str) -> WorkerDiedError:
        try:
            code = self._process.wait(KILL_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return WorkerDiedError(what, "stopped answering", self.phase)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return WorkerDiedError(what, how, self.phase)


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("started without pipes")
    return process.stdin, process.stdout
