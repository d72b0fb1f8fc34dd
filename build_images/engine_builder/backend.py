"""What every backend offers the builder: from an ONNX file to an engine, and ways to run and time it where it runs on
the machine that builds.

Invariant: the builder knows no backend by name; what it measures and how it chooses is the same for all.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from build_images.engine_builder.errors import UnknownBackendError
from build_images.engine_builder.measure import Timing
from build_images.engine_builder.runs import Feed, Run
from build_images.engine_builder.settings import BuildSettings

# Imported when asked for: an image carries the libraries of its own backends only.
MODULES: Final = {
    "onnxruntime": "build_images.engine_builder.onnxruntime_backend",
    "tensorrt": "build_images.engine_builder.tensorrt_backend",
    "tensorrt_rtx": "build_images.engine_builder.tensorrt_rtx_backend",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve the model. name: `fp32` or `int8-<method>`. source: the ONNX that it is built from.

    fp32_nodes: names of its nodes that overflow in FP16; only a backend where flags decide the precision reads them.
    """

    name: str
    precision: str
    source: Path
    fp32_nodes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Where the time goes. slowest: [{name, ms, share}], slowest first. described: the library's account of all."""

    slowest: list[dict[str, Any]]
    described: str


class Backend(Protocol):
    """One inference library on one machine."""

    engine_file: str  # name of the engine in its artifact
    int8_form: str  # of the calibration's files: see sluice.spec_types.INT8_FORMS
    every_bucket: (
        bool  # whether it is timed at every combination of buckets, not only at the shapes that rank
    )

    def version(self) -> str:
        """Of the library; part of the manifest."""

    def device(self) -> dict[str, Any]:
        """What the machine is; `arch` is compared with the target."""

    def precisions(self) -> frozenset[str]:
        """Those that this backend can build here."""

    def precision_by_flag(self) -> bool:
        """Whether FP16 is allowed by a flag over the FP32 file (TensorRT 8.6) and not written into the file."""

    def check_device(self, arch: str) -> None:
        """Raises WrongDeviceError where this machine must not build for `arch`."""

    def runs_here(self, arch: str) -> bool:
        """Whether an engine for `arch` can be opened, timed and judged on this machine."""

    def build(
        self, candidate: Candidate, engine: Path, *, arch: str, settings: BuildSettings
    ) -> dict[str, Any]:
        """Write the engine for `arch`; what is worth telling of the build beside its seconds (may be empty)."""

    def open(self, engine: Path, *, threads: int) -> Run:
        """Load an engine, ready to run. Asked for only where it runs."""

    def reference(self, source: Path, *, threads: int) -> Run:
        """The ONNX itself, without optimisations that are specific to a machine: what engines are judged by."""

    def time(self, engines: Mapping[str, Path], feed: Feed, *, threads: int) -> dict[str, Timing]:
        """All engines side by side at one shape, by name."""

    def includes(self) -> dict[str, bool]:
        """What a timing holds: {transfers, cuda_graph, spin}. Asked for after `time`."""

    def layers(self, engine: Path, feed: Feed) -> Layers | None:
        """The slowest layers at this shape; None where the library does not tell."""

    def peak_memory_bytes(self, engine: Path, feed: Feed, *, threads: int) -> int:
        """Of a fresh process that loads the engine and answers `feed`."""

    def close(self) -> None:
        """Let go of processes and engines."""


def backend_of(name: str) -> Backend:
    """The backend by its name in the spec. Raises UnknownBackendError."""
    if name not in MODULES:
        raise UnknownBackendError(name, ", ".join(MODULES))
    made: Backend = importlib.import_module(MODULES[name]).make()
    return made
