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
from sluice.errors import FatalError, SluiceError

PYTHON_ENV: Final = "SLUICE_TENSORRT_PYTHON"
# In the driver's order, CUDA's device 0 is the one whose name and memory the driver tells under number 0.
CUDA_ENV: Final = {"CUDA_MODULE_LOADING": "LAZY", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
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
                errors="replace",  # what is no text is no answer either, and must not end the reader
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, **CUDA_ENV},
                start_new_session=True,
            )
        except OSError as error:
            raise FatalError(
                f"{PYTHON_ENV} = {self._python} cannot be started: {error.strerror}",
                f"set {PYTHON_ENV} to a Python that imports tensorrt",
            ) from error
        self._answers: Queue[str] = Queue()
        self._requests, stdout = _pipes(self._process)
        self._stdout = stdout
        self._reader = threading.Thread(target=self._read, args=(stdout,), daemon=True)
        self._reader.start()
        self.phase, self._answered = "start", False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(
        self, command: str, *, what: str = "", limit_s: float = ANSWER_S, **request: Any
    ) -> Mapping[str, Any]:
        """The result of one command. what: for people, in progress lines and errors.

        Raises what the worker's error becomes, WorkerDiedError, and BuildTimeError for a build after limit_s seconds.
        """
        self.phase = "start"
        try:
            self._requests.write(json.dumps({"command": command, **request}) + "\n")
            self._requests.flush()
        except OSError:
            raise self._died(what or command) from None
        build = command == "build"
        end = time.monotonic() + limit_s
        while True:
            line = self._line(end)
            if line is None:
                raise self._late(what or command, limit_s, build=build)
            answer = self._answer(line, what or command)
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

    def _line(self, end: float) -> str | None:
        """The next line, empty when there will be none; None when the time is over."""
        try:
            return self._answers.get(timeout=max(0.0, end - time.monotonic()))
        except Empty:
            return None

    def _late(self, what: str, limit_s: float, *, build: bool) -> SluiceError:
        self._kill()
        if build:
            return BuildTimeError(what, limit_s, self.phase)
        return WorkerDiedError(what, f"gave no answer within {limit_s:g} s", self.phase)

    def _answer(self, line: str, what: str) -> Mapping[str, Any]:
        """What a line says. A line without its end is of a process that died in the middle of it."""
        if not line.endswith("\n"):
            raise self._died(what)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not {"progress", "error", "result"} & set(answer):
            self._kill()
            raise FatalError(
                f"{what}: the TensorRT process, {PYTHON_ENV} = {self._python}, answered {line.strip()[:80]!r}",
                f"set {PYTHON_ENV} to a Python that imports tensorrt and prints nothing by itself",
            )
        self._answered = True
        return answer

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._answers.put(line)
        self._answers.put("")

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._process.wait()

    def _died(self, what: str) -> SluiceError:
        try:
            code = self._process.wait(KILL_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return WorkerDiedError(what, "stopped answering", self.phase)
        if code >= 0 and not self._answered:  # it ends like that every time
            return FatalError(
                f"{what}: {PYTHON_ENV} = {self._python} ended with exit code {code} before it answered",
                f"see its output above; set {PYTHON_ENV} to a Python that imports tensorrt",
            )
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return WorkerDiedError(what, how, self.phase)


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("started without pipes")
    return process.stdin, process.stdout
