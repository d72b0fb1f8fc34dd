"""What can be wrong with a model that is exported or compared; every one names where and the next step."""

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.errors import FatalError


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where in the model something stands: dotted module path (empty: the model itself) and source line."""

    module: str
    source: str

    def __str__(self) -> str:
        return f"`{self.module or '(the model itself)'}` ({self.source})"


class CheckpointCodeError(FatalError):
    """The checkpoint's own Python failed."""

    def __init__(self, entrypoint: str, where: str, problem: str) -> None:
        super().__init__(entrypoint, where, problem)
        self.entrypoint, self.where, self.problem = entrypoint, where, problem

    @property
    def message(self) -> str:
        return f"{self.entrypoint} at {self.where}: {self.problem}"

    @property
    def next_step(self) -> str:
        return "correct the checkpoint's code (spec: model.entrypoint, model.symbolics) and release it anew"


class OutputError(FatalError):
    """The model returns another number of tensors than the spec names."""

    def __init__(self, got: int, wanted: Sequence[str]) -> None:
        super().__init__(got, list(wanted))
        self.got, self.wanted = got, list(wanted)

    @property
    def message(self) -> str:
        return f"the model returns {self.got} tensors, model.outputs names {len(self.wanted)}: {self.wanted}"

    @property
    def next_step(self) -> str:
        return "name every tensor that forward() returns, in its order, under model.outputs"


class FrozenControlFlowError(FatalError):
    """Tracing would write one branch of data-dependent Python into the graph for good."""

    def __init__(self, places: Sequence[Place], scriptable: Sequence[str]) -> None:
        super().__init__(list(places), list(scriptable))
        self.places, self.scriptable = list(places), list(scriptable)

    @property
    def message(self) -> str:
        where = ", ".join(map(str, self.places))
        return f"Python control flow that depends on tensor values would be frozen by tracing, in {where}"

    @property
    def next_step(self) -> str:
        names = ", ".join(self.scriptable) or "the submodule around it"
        return (
            f"wrap it with torch.jit.script in load(), or name {names} and the other parts of the chain in "
            "model.segments (a segment that cannot be traced is scripted)"
        )


class UnsupportedOperatorsError(FatalError):
    """Operators without an ONNX form at the spec's opset; `found` maps each to where it stands."""

    def __init__(self, opset: int, found: dict[str, list[Place]]) -> None:
        super().__init__(opset, found)
        self.opset, self.found = opset, found

    @property
    def message(self) -> str:
        each = "; ".join(
            f"{op} in {', '.join(map(str, places))}" for op, places in sorted(self.found.items())
        )
        return f"no ONNX opset {self.opset} form for {each}"

    @property
    def next_step(self) -> str:
        return (
            "register a symbolic for each in a Python file of the checkpoint with `register(opset)` calling "
            "torch.onnx.register_custom_op_symbolic, and name the file in model.symbolics"
        )


class SegmentError(FatalError):
    """The segments of the spec cannot be chained, or one of them left the tolerance at its seam."""

    def __init__(self, segment: str, problem: str) -> None:
        super().__init__(segment, problem)
        self.segment, self.problem = segment, problem

    @property
    def message(self) -> str:
        return f"segment {self.segment}: {self.problem}"

    @property
    def next_step(self) -> str:
        return "let model.segments name submodules that, in this order, do all of forward()'s work"


class WrittenFileError(FatalError):
    """The ONNX file on disk is not what the spec asks for."""

    def __init__(self, field: str, got: str, wanted: str) -> None:
        super().__init__(field, got, wanted)
        self.field, self.got, self.wanted = field, got, wanted

    @property
    def message(self) -> str:
        return f"exported ONNX: {self.field} is {self.got}, the spec wants {self.wanted}"

    @property
    def next_step(self) -> str:
        return "correct model.opset, model.inputs, model.outputs or the model's forward()"


class TracingError(FatalError):
    """The model cannot be traced or exported for another reason."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(what, problem)
        self.what, self.problem = what, problem

    @property
    def message(self) -> str:
        return f"{self.what}: {self.problem}"

    @property
    def next_step(self) -> str:
        return "run forward() on one line of model.samples on your machine; the pod's log has the trace"


class NumericsError(FatalError):
    """ONNX Runtime's answers left the tolerance to PyTorch's; `worst` is the worst row of the table."""

    def __init__(self, worst: dict[str, object], reason: str) -> None:
        super().__init__(worst, reason)
        self.worst, self.reason = worst, reason

    @property
    def message(self) -> str:
        row = self.worst
        where = f"output {row['output']} at {row['shape']}"
        if row.get("shapes"):
            return f"{where} has another shape: {row['shapes']}"
        return (
            f"ONNX drifts from PyTorch: worst is {where} ({row['precision']}): "
            f"max_abs {_number(row['max_abs'])}, max_rel {_number(row['max_rel'])}, "
            f"cosine {_number(row['cosine'])}; {self.reason}"
        )

    @property
    def next_step(self) -> str:
        if self.worst.get("shapes"):
            return "correct the dims in model.outputs, or the model; docs/index.html of this artifact has every shape"
        return "look at docs/index.html of this numerics artifact, correct the model, or widen spec.numerics"


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "not comparable"
