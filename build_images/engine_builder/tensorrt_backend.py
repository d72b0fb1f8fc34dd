"""TensorRT (8.6, 10, 11) on the GPU that will run the engine.

Problem: an engine that was timed on another card is tuned for that card. Invariants: nothing is built unless the
device, by the driver's word, is the target; what was written is read back (header: family, version) before it counts;
everything of the library happens in `tensorrt_worker`, whose death loses nothing here.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from build_images.engine_builder.backend import Backend, Candidate, Layers
from build_images.engine_builder.device import require_arch
from build_images.engine_builder.errors import (
    DeviceMemoryError,
    LargestShapeError,
    NoDeviceError,
    NoLibraryError,
    NoPlanError,
    TimingCacheError,
    UnsupportedNodeError,
)
from build_images.engine_builder.measure import Timing, rows_of, timing
from build_images.engine_builder.onnxruntime_backend import OnnxRuntimeBackend
from build_images.engine_builder.runs import Feed, Run
from build_images.engine_builder.settings import BuildSettings, ShapeRange
from build_images.engine_builder.tensorrt_process import TensorRtProcess
from sluice.errors import FatalError
from sluice.plan import HEAD_BYTES, TENSORRT, read_header, version_text
from sluice.spec_types import SIGNED

ROUNDS: Final = 400
ROUNDS_MIN: Final = 20
BUDGET_S: Final = 15.0  # of all candidates at one shape, kept after ROUNDS_MIN rounds
PEAK_RUNS: Final = 20


class TensorRtBackend:
    """See `Backend`."""

    engine_file: str = "engine.plan"
    int8_form: str = SIGNED
    every_bucket: bool = True

    def __init__(self) -> None:
        self._process: TensorRtProcess | None = None
        self._facts: Mapping[str, Any] = {}
        self._files = tempfile.TemporaryDirectory(prefix="sluice-tensorrt-")
        self._open: dict[Path, str] = {}
        self._graphs: list[bool] = []
        self._weights: dict[Path, Path] = {}  # of plans that have none

    def version(self) -> str:
        return str(self._ask_facts()["version"])

    def device(self) -> dict[str, Any]:
        return dict(self._ask_facts()["device"])

    def precisions(self) -> frozenset[str]:
        return frozenset({"fp32", "fp16", "int8"})

    def precision_by_flag(self) -> bool:
        return not self._ask_facts()["offers"]["strongly_typed"]

    def check_device(self, arch: str) -> None:
        require_arch(arch, self.device())

    def runs_here(self, arch: str) -> bool:
        return True

    def build(
        self, candidate: Candidate, engine: Path, *, arch: str, settings: BuildSettings
    ) -> dict[str, Any]:
        what, cache = f"building {arch} {candidate.name}", settings.cache
        cache_in = cache if cache is not None and cache.is_file() else None
        told: dict[str, Any] = {}
        try:
            try:
                told |= self._plan(what, candidate, engine, settings, cache_in)
            except TimingCacheError as error:
                if settings.replay:
                    raise
                print(f"{error.message}; built without it", flush=True)
                told |= {"cache_refused": error.reason, **self._plan(what, candidate, engine, settings, None)}
        except UnsupportedNodeError as error:
            raise _named(error, candidate.source) from None
        self._check_header(engine)
        if cache is not None:
            cache.write_bytes(self._cache_out.read_bytes())
        if settings.strip_weights:
            self._weights[engine] = candidate.source
        return told

    def _plan(
        self, what: str, candidate: Candidate, engine: Path, settings: BuildSettings, cache_in: Path | None
    ) -> Mapping[str, Any]:
        return self._worker().ask(
            "build",
            what=what,
            limit_s=settings.time_limit_s,
            source=str(candidate.source),
            engine=str(engine),
            precision=candidate.precision,
            fp32_nodes=sorted(candidate.fp32_nodes),
            profiles=[_shapes(profile) for profile in settings.profiles],
            workspace_bytes=settings.workspace_bytes,
            optimization_level=settings.optimization_level,
            threads=settings.threads,
            cache_in=None if cache_in is None else str(cache_in),
            cache_out=str(self._cache_out),
            replay=settings.replay,
            hardware_compatibility=settings.hardware_compatibility,
            version_compatible=settings.version_compatible,
            strip_weights=settings.strip_weights,
        )

    @property
    def _cache_out(self) -> Path:
        return Path(self._files.name) / "cache.bin"

    def open(self, engine: Path, *, threads: int) -> Run:
        name = self._opened(engine)

        def run(feed: Feed) -> dict[str, np.ndarray]:
            inputs, outputs = self._written(feed), Path(self._files.name) / "outputs.npz"
            self._worker().ask("run", name=name, inputs=str(inputs), outputs=str(outputs))
            with np.load(outputs) as answer:
                return {name: answer[name] for name in answer.files}

        return run

    def reference(self, source: Path, *, threads: int) -> Run:
        return OnnxRuntimeBackend().reference(source, threads=threads)

    def time(self, engines: Mapping[str, Path], feed: Feed, *, threads: int) -> dict[str, Timing]:
        names = {self._opened(engine): name for name, engine in engines.items()}
        told = self._worker().ask(
            "time",
            names=list(names),
            inputs=str(self._written(feed)),
            rounds=ROUNDS,
            least=ROUNDS_MIN,
            budget_s=BUDGET_S,
        )
        self._graphs += [bool(one["cuda_graph"]) for one in told.values()]
        return {
            names[name]: timing(one["host_ms"], rows_of(feed), one["device_ms"]) for name, one in told.items()
        }

    def includes(self) -> dict[str, bool]:
        return {"transfers": True, "cuda_graph": bool(self._graphs) and all(self._graphs), "spin": True}

    def layers(self, engine: Path, feed: Feed) -> Layers | None:
        told = self._worker().ask("layers", name=self._opened(engine), inputs=str(self._written(feed)))
        return Layers(slowest=told["layers"], described=told["described"])

    def peak_memory_bytes(self, engine: Path, feed: Feed, *, threads: int) -> int:
        self._stop()  # by the driver's count of the whole device: nobody else may come or go meanwhile
        try:
            with TensorRtProcess() as fresh:
                told = fresh.ask(
                    "peak",
                    engine=str(engine),
                    inputs=str(self._written(feed)),
                    runs=PEAK_RUNS,
                    weights=self._weights_of(engine),
                )
        except (DeviceMemoryError, NoDeviceError, NoLibraryError):
            raise
        except FatalError as error:  # a launch that failed, an engine that does not load
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
            raise LargestShapeError(shapes, error.message) from error
        return int(told["peak_memory_bytes"])

    def close(self) -> None:
        self._stop()
        self._files.cleanup()

    def _worker(self) -> TensorRtProcess:
        if self._process is None:
            self._process = TensorRtProcess()
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.end()
        self._process = None
        self._open.clear()

    def _ask_facts(self) -> Mapping[str, Any]:
        if not self._facts:
            self._facts = self._worker().ask("facts", what="TensorRT")
        return self._facts

    def _opened(self, engine: Path) -> str:
        if engine not in self._open:
            name = f"{engine.parent.name} {len(self._open)}"
            self._worker().ask(
                "open",
                what=f"loading {name}",
                name=name,
                engine=str(engine),
                weights=self._weights_of(engine),
            )
            self._open[engine] = name
        return self._open[engine]

    def _weights_of(self, engine: Path) -> str | None:
        weights = self._weights.get(engine)
        return None if weights is None else str(weights)

    def _written(self, feed: Feed) -> Path:
        path = Path(self._files.name) / "inputs.npz"
        np.savez(path, **feed)
        return path

    def _check_header(self, engine: Path) -> None:
        with engine.open("rb") as file:
            header = read_header(file.read(HEAD_BYTES))
        version = version_text(header.version)
        if header.family != TENSORRT or not f"{version}.".startswith(f"{self.version()}."):
            got = f"{header.family} {version}"
            raise NoPlanError(engine.name, f"its header says {got}, the library is TensorRT {self.version()}")


def make() -> Backend:
    """What `backend_of` calls."""
    return TensorRtBackend()


def _shapes(profile: Mapping[str, ShapeRange]) -> dict[str, Any]:
    return {name: (shape.least, shape.best, shape.most) for name, shape in profile.items()}


def _named(error: UnsupportedNodeError, source: Path) -> UnsupportedNodeError:
    """With the node's operator and name: the library of 8.6 knows only where it stands in the file."""
    import onnx

    nodes = onnx.load(str(source), load_external_data=False).graph.node
    index = int(error.node)
    if not 0 <= index < len(nodes):
        return error
    return UnsupportedNodeError(nodes[index].op_type, nodes[index].name or f"number {index}", error.reason)
