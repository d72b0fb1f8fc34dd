"""Four methods between the server and whatever computes; ONNX Runtime is the first behind them.

Invariants: `load`, `warm` and `run` are called from one thread, in that order; `run` gets arrays of the manifest's
types whose sizes are within its axes, and gives every output of the manifest. A backend knows no HTTP and no queue.
"""

import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from serving.runtime.oip import Array
from serving.runtime.shapes import Model, Sizes, Tensor
from sluice.errors import FatalError
from sluice.model_inputs import label

_ONNX_TYPES = {"float32": "float", "float64": "double"}  # the others are spelled alike


class Backend(Protocol):
    """What computes one engine."""

    exact: ClassVar[bool]  # True: any size within the axes costs what it holds; False: only buckets are fast

    @staticmethod
    def version() -> str:
        """Of the library that would load the engine; told without loading the library."""

    def load(self, path: Path, model: Model, threads: int) -> None:
        """Load the engine file. Raises EngineLoadError when it cannot be used here."""

    def warm(self, shapes: Iterable[Sizes]) -> None:
        """Run every given combination of axis sizes once, so that no request pays for a first time.

        Raises EngineLoadError naming the sizes that it fails at.
        """

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute one batch; blocks. Any exception means that this batch has no answer."""

    def close(self) -> None:
        """Free the engine; nothing is called afterwards."""


class EngineLoadError(FatalError):
    """An engine file that this backend cannot use."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    @property
    def message(self) -> str:
        return f"engine {self.path} cannot be loaded: {self.reason}"

    @property
    def next_step(self) -> str:
        return "build the engine again for this machine with build_images.engine_builder"


class OnnxRuntimeBackend:
    """ONNX Runtime on CPU.

    Nothing is compiled per shape there. Measured on MiniLM after one run of each bucket of each axis: the first
    run of a combination takes what later ones take, but for the memory it grows by (once, 0.1 s at 16 x 128);
    running all combinations takes 1.1 s of CPU before ready, these few 0.14 s. So few are warmed, and a batch is
    padded to its longest request, not to a bucket.
    """

    exact: ClassVar[bool] = True

    def __init__(self) -> None:
        self._session: Any = None  # until load, and after close
        self._name = ""
        self._inputs: Mapping[str, Tensor] = {}
        self._outputs: list[str] = []

    @staticmethod
    def version() -> str:
        """As the package says: a refusal does not wait for the import."""
        return importlib.metadata.version("onnxruntime")

    def load(self, path: Path, model: Model, threads: int) -> None:
        """Open the optimised model as it is: the builder has optimised it for this instruction set."""
        import onnxruntime as ort  # here, so that a refusal by manifest does not wait for it

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors come back as exceptions, and are logged once, by us
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Many replicas share the CPUs of one node: a thread that spins for work takes it from a neighbour.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ORT's exception types share no other root
            raise EngineLoadError(path.name, _one_line(error)) from error
        self._name = path.name
        self._inputs, self._outputs = model.inputs, list(model.outputs)
        _compare(path, "inputs", self._session.get_inputs(), model.inputs)
        _compare(path, "outputs", self._session.get_outputs(), model.outputs)

    def warm(self, shapes: Iterable[Sizes]) -> None:
        """The smallest first: the arena then grows to what the largest needs and no further."""
        for sizes in shapes:
            feeds = {
                name: np.ones(tensor.shape(sizes), tensor.dtype) for name, tensor in self._inputs.items()
            }
            try:
                self.run(feeds)
            except Exception as error:  # as in load
                raise EngineLoadError(
                    self._name, f"it fails at {label(sizes)}: {_one_line(error)}"
                ) from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the session: every output of the manifest."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))

    def close(self) -> None:
        """Drop the session: ONNX Runtime frees what it holds."""
        self._session = None


def _one_line(error: Exception) -> str:
    """ONNX Runtime's messages have several lines, and some quote whole models."""
    return " ".join(str(error).split())[:400]


def _compare(path: Path, side: str, nodes: Iterable[Any], tensors: Mapping[str, Any]) -> None:
    """The file's own names and types are those of the manifest, all of them."""
    got = {node.name: node.type for node in nodes}
    want = {
        name: f"tensor({_ONNX_TYPES.get(tensor.dtype.name, tensor.dtype.name)})"
        for name, tensor in tensors.items()
    }
    if got != want:
        raise EngineLoadError(path.name, f"its {side} are {got}, the manifest says {want}")


BACKENDS: Mapping[str, type[Backend]] = {"onnxruntime": OnnxRuntimeBackend}
