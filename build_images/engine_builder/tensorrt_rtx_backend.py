"""TensorRT-RTX: real plans for one compute capability, built on any machine, with no GPU and no driver.

Problem: the library says what is wrong in its log, and answers None. Invariants: its last errors are in the message
of the exception; a build that takes longer than its limit ends at the next step that the library reports; what was
written is read back (header: family, version, this one compute capability) before it counts.

Precision is in the ONNX: networks are strongly typed here, and there are no flags.
"""

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tensorrt_rtx_bindings as trt

from build_images.engine_builder.backend import Backend, Candidate, Layers
from build_images.engine_builder.device import device_facts
from build_images.engine_builder.errors import (
    BuildTimeError,
    NoPlanError,
    NotOfferedError,
    UnsupportedNodeError,
)
from build_images.engine_builder.measure import Timing
from build_images.engine_builder.onnxruntime_backend import OnnxRuntimeBackend
from build_images.engine_builder.runs import Feed, Run
from build_images.engine_builder.settings import BuildSettings
from sluice.errors import FatalError
from sluice.plan import HEAD_BYTES, TENSORRT_RTX, check_plan
from sluice.spec_types import SIGNED

ERRORS_KEPT: Final = 5
PROGRESS_S: Final = 5.0  # between two lines of progress


class TensorRtRtxBackend:
    """See `Backend`."""

    engine_file: str = "engine.plan"
    int8_form: str = SIGNED
    every_bucket: bool = False

    def version(self) -> str:
        return str(trt.__version__)

    def device(self) -> dict[str, Any]:
        """The machine that builds, which is not the one that will run it."""
        return device_facts()

    def precisions(self) -> frozenset[str]:
        return frozenset({"fp32", "fp16", "int8"})

    def precision_by_flag(self) -> bool:
        return False

    def check_device(self, arch: str) -> None:
        """Any machine may build."""

    def runs_here(self, arch: str) -> bool:
        return False

    def build(
        self, candidate: Candidate, engine: Path, *, arch: str, settings: BuildSettings
    ) -> dict[str, Any]:
        _refuse_options(settings)
        source, log = candidate.source, _Log()
        builder = trt.Builder(log)
        builder.max_threads = settings.threads
        network = builder.create_network(0)
        _parse(trt.OnnxParser(network, log), source, log)
        config = _config(builder, arch, settings)
        progress = _Progress(f"{arch} {source.stem}", settings.time_limit_s)
        config.progress_monitor = progress
        blob = builder.build_serialized_network(network, config)
        if progress.over:
            raise BuildTimeError(arch, settings.time_limit_s, progress.phase)
        if blob is None:
            raise NoPlanError(arch, log.reason())
        data = memoryview(blob)
        check_plan(bytes(data[:HEAD_BYTES]), backend=TENSORRT_RTX, arch=arch, backend_version=self.version())
        engine.write_bytes(data)
        return {}

    def open(self, engine: Path, *, threads: int) -> Run:
        raise _cannot_run(engine)

    def reference(self, source: Path, *, threads: int) -> Run:
        return OnnxRuntimeBackend().reference(source, threads=threads)

    def time(self, engines: Mapping[str, Path], feed: Feed, *, threads: int) -> dict[str, Timing]:
        raise _cannot_run(next(iter(engines.values())))

    def includes(self) -> dict[str, bool]:
        return {}

    def layers(self, engine: Path, feed: Feed) -> Layers | None:
        return None

    def peak_memory_bytes(self, engine: Path, feed: Feed, *, threads: int) -> int:
        raise _cannot_run(engine)

    def close(self) -> None:
        """Nothing is kept."""


def make() -> Backend:
    """What `backend_of` calls."""
    return TensorRtRtxBackend()


def _cannot_run(engine: Path) -> FatalError:
    return FatalError(f"{engine.name} cannot run where it is built", "serve it where its target is")


def _refuse_options(settings: BuildSettings) -> None:
    """What the library cannot do without a GPU, measured with 1.7.1.116: it fails late, with words of its insides."""
    asked = {
        f"hardware_compatibility: {settings.hardware_compatibility}": settings.hardware_compatibility
        != "none",
        "version_compatible: true": settings.version_compatible,
        "strip_weights: true": settings.strip_weights,
        "timing_cache: <sha256>": settings.replay,
    }
    for option, wanted in asked.items():
        if wanted:
            raise NotOfferedError(option, f"TensorRT-RTX {trt.__version__} cannot without a GPU")


class _Log(trt.ILogger):
    """Keeps the last errors: they are the only reason the library gives."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: deque[str] = deque(maxlen=ERRORS_KEPT)

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self._errors.append(message)

    def reason(self) -> str:
        """The last errors on one line."""
        return " | ".join(self._errors) or "the library gave no reason"


class _Progress(trt.IProgressMonitor):
    """Prints where the build is, and ends it once its time is over. The library asks between its own steps."""

    def __init__(self, what: str, limit_s: float) -> None:
        trt.IProgressMonitor.__init__(self)
        self._what, self._start = what, time.monotonic()
        self._end, self._said = self._start + limit_s, self._start
        self.phase, self.over = "start", False

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        self.phase = name
        self._say(0, steps, always=parent is None)

    def step_complete(self, name: str, step: int) -> bool:
        self._say(step, 0)
        self.over = self.over or time.monotonic() > self._end
        return not self.over

    def phase_finish(self, name: str) -> None:
        self._say(0, 0, always=name == "Building engine")

    def _say(self, step: int, steps: int, *, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._said >= PROGRESS_S:
            self._said = now
            print(f"building {self._what}: {self.phase}, step {step}, {now - self._start:.1f} s", flush=True)


def _parse(parser: Any, source: Path, log: _Log) -> None:
    if parser.parse_from_file(str(source)):
        return
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        raise UnsupportedNodeError(error.node_operator(), error.node_name(), error.desc())
    raise NoPlanError(source.name, log.reason())


def _config(builder: Any, arch: str, settings: BuildSettings) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    config.builder_optimization_level = settings.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for shapes in settings.profiles:
        profile = builder.create_optimization_profile()
        for name, sizes in shapes.items():
            profile.set_shape(name, sizes.least, sizes.best, sizes.most)
        config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    capability = getattr(trt.ComputeCapability, arch.replace("_", "").upper(), None)
    if capability is None or not config.set_compute_capability(capability, 0):
        raise NoPlanError(arch, f"TensorRT-RTX {trt.__version__} has no such compute capability")
    return config
