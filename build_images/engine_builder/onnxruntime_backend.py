"""ONNX Runtime on a CPU: the engine is the optimised graph, serialised for this instruction set.

Invariant: an engine is written by the same library version and on the same instruction set that will load it;
the manifest says which, and servers compare.
"""

import errno
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from build_images.engine_builder.backend import Backend, Candidate, Layers
from build_images.engine_builder.device import device_facts, require_arch
from build_images.engine_builder.errors import (
    LargestShapeError,
    ModelRefusedError,
    NoRoomError,
    PeakMemoryError,
)
from build_images.engine_builder.measure import Timing, measure
from build_images.engine_builder.runs import Feed, Run
from build_images.engine_builder.settings import BuildSettings
from sluice.errors import FatalError
from sluice.spec_types import UNSIGNED

PROVIDERS: Final = ["CPUExecutionProvider"]
PEAK: Final = Path(__file__).with_name("peak_memory.py")
PEAK_TIMEOUT_S: Final = 120
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
PROBE_BYTES: Final = 1 << 20
BUDGET_S: Final = 2.0  # for all candidates at one shape: live traffic shares the machine


class OnnxRuntimeBackend:
    """See `Backend`."""

    engine_file: str = "engine.onnx"
    int8_form: str = UNSIGNED
    every_bucket: bool = False

    def __init__(self) -> None:
        self._open: dict[Path, Run] = {}

    def version(self) -> str:
        return str(onnxruntime.__version__)

    def device(self) -> dict[str, Any]:
        return device_facts()

    def precisions(self) -> frozenset[str]:
        return frozenset({"fp32", "int8"})  # its CPU kernels for fp16 convert to fp32 and back

    def precision_by_flag(self) -> bool:
        return False

    def check_device(self, arch: str) -> None:
        require_arch(arch, self.device())

    def runs_here(self, arch: str) -> bool:
        return True

    def build(
        self, candidate: Candidate, engine: Path, *, arch: str, settings: BuildSettings
    ) -> dict[str, Any]:
        options = _options(settings.threads, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
        options.optimized_model_filepath = str(engine)
        # Weights beside the graph, packed as this machine's kernels want them: replicas map one copy of the file
        # instead of each packing its own (measured for MiniLM: 67 MB less a replica, and a shorter load).
        for name, value in (
            ("optimized_model_external_initializers_file_name", f"{engine.name}.data"),
            ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
            ("save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(f"session.{name}", value)
        try:
            _session(candidate.source, options)
        except FatalError as error:
            _blame_the_disk(engine)
            raise ModelRefusedError(candidate.name, error.message) from error
        return {}

    def open(self, engine: Path, *, threads: int) -> Run:
        return _runner(_session(engine, _options(threads, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)))

    def reference(self, source: Path, *, threads: int) -> Run:
        return _runner(
            _session(source, _options(threads, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC))
        )

    def time(self, engines: Mapping[str, Path], feed: Feed, *, threads: int) -> dict[str, Timing]:
        runs = {name: self._opened(engine, threads) for name, engine in engines.items()}
        return measure(runs, feed, budget_s=BUDGET_S)

    def includes(self) -> dict[str, bool]:
        return {"transfers": False, "cuda_graph": False, "spin": False}

    def layers(self, engine: Path, feed: Feed) -> Layers | None:
        return None

    def close(self) -> None:
        self._open.clear()

    def _opened(self, engine: Path, threads: int) -> Run:
        if engine not in self._open:
            self._open[engine] = self.open(engine, threads=threads)
        return self._open[engine]

    def peak_memory_bytes(self, engine: Path, feed: Feed, *, threads: int) -> int:
        with tempfile.TemporaryDirectory() as folder:
            inputs = Path(folder) / "inputs.npz"
            np.savez(inputs, **feed)
            command = [sys.executable, str(PEAK), str(engine), str(inputs), str(threads)]
            done = _measured(command)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
            raise LargestShapeError(shapes, last)
        return int(json.loads(done.stdout)["peak_memory_bytes"])


def make() -> Backend:
    """What `backend_of` calls."""
    return OnnxRuntimeBackend()


def _measured(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it. Raises PeakMemoryError for what says nothing about the engine: a kill, too slow a machine."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PEAK_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeakMemoryError(f"gave no answer within {PEAK_TIMEOUT_S} s") from error
    if done.returncode < 0:
        raise PeakMemoryError(f"was ended by a signal: {signal.strsignal(-done.returncode)}")
    return done


def _blame_the_disk(engine: Path) -> None:
    """Raises NoRoomError when the disk has no room for more of what was written.

    ONNX Runtime says that writing failed, or that serialising did, and never why: so the file system is asked.
    """
    folder = engine.parent
    for path in (*folder.iterdir(), folder / f"{engine.name}.probe"):
        try:
            with path.open("ab") as file:
                file.write(bytes(PROBE_BYTES))
        except OSError as error:
            if error.errno in FULL:
                raise NoRoomError(str(folder), error.strerror or str(error)) from error


def _options(threads: int, level: Any) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = level
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # the core is shared with traffic
    return options


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)
    except Exception as error:  # its errors have no common root; all of them mean this file
        raise FatalError(
            f"ONNX Runtime {onnxruntime.__version__} does not load {path.name}: {error}",
            "check the model's operators and opset against this ONNX Runtime",
        ) from error


def _runner(session: onnxruntime.InferenceSession) -> Run:
    names = [value.name for value in session.get_outputs()]

    def run(feed: Feed) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, dict(feed)), strict=True))

    return run
