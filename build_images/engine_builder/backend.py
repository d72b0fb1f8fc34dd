"""What every backend offers the builder: from an ONNX file to an engine, and a way to run it
where it runs on the machine that builds.

Invariant: the builder knows no backend by name; what it measures and how it chooses is the same for all.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from build_images.engine_builder.errors import UnknownBackendError
from build_images.engine_builder.settings import BuildSettings

Feed = Mapping[str, np.ndarray]
Run = Callable[[Feed], dict[str, np.ndarray]]

# Imported when asked for: an image carries the libraries of its own backends only.
MODULES: Final = {
    "onnxruntime": "build_images.engine_builder.onnxruntime_backend",
    "tensorrt_rtx": "build_images.engine_builder.tensorrt_rtx_backend",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve the model. name: `fp32` or `int8-<method>`. source: the ONNX that it is built from."""

    name: str
    precision: str
    source: Path


class Backend(Protocol):
    """One inference library on one machine."""

    engine_file: str  # name of the engine in its artifact
    int8_form: str  # of the calibration's files: see sluice.spec_types.INT8_FORMS

    def version(self) -> str:
        """Of the library; part of the manifest."""

    def device(self) -> dict[str, Any]:
        """What the machine is; `arch` is compared with the target."""

    def precisions(self) -> frozenset[str]:
        """Those that this backend can build here."""

    def check_device(self, arch: str) -> None:
        """Raises WrongDeviceError where this machine must not build for `arch`."""

    def runs_here(self, arch: str) -> bool:
        """Whether an engine for `arch` can be opened, timed and judged on this machine."""

    def build(self, source: Path, engine: Path, *, arch: str, settings: BuildSettings) -> None:
        """Write the engine for `arch`."""

    def open(self, engine: Path, *, threads: int) -> Run:
        """Load an engine, ready to run. Asked for only where it runs."""

    def reference(self, source: Path, *, threads: int) -> Run:
        """The ONNX itself, without optimisations that are specific to a machine: what engines are judged by."""

    def peak_memory_bytes(self, engine: Path, feed: Feed, *, threads: int) -> int:
        """Of a fresh process that loads the engine and answers `feed` once."""


def backend_of(name: str) -> Backend:
    """The backend by its name in the spec. Raises UnknownBackendError."""
    if name not in MODULES:
        raise UnknownBackendError(name, ", ".join(MODULES))
    made: Backend = importlib.import_module(MODULES[name]).make()
    return made
