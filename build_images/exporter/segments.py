"""Submodules exported apart and chained into one ONNX, the numbers checked at every seam.

Problem: one submodule that cannot be traced (a loop over values, say) must not keep the rest from tracing.
Invariants: the segments together do all of forward()'s work: each input of a segment is, as the very same
tensor, an input of the model or an output of an earlier segment, or the export stops; each segment's ONNX
reproduces what PyTorch computed at its seam within the spec's tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnxruntime
import torch

from build_images.exporter.errors import FrozenControlFlowError, SegmentError, TracingError
from build_images.exporter.model import tensors_of
from build_images.exporter.table import compare
from build_images.exporter.tracing import Wanted, export, trace
from sluice.model_inputs import Sample, fill
from sluice.signature import TensorSpec
from sluice.spec import ReleaseSpec


@dataclass(slots=True, kw_only=True)
class Call:
    """What one segment took and gave in one forward pass."""

    inputs: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One observed forward pass: the model's inputs and outputs and each segment's call."""

    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    calls: dict[str, Call]


def export_segments(
    model: torch.nn.Module, spec: ReleaseSpec, samples: Sequence[Sample], path: Path
) -> list[dict[str, Any]]:
    """Write the chained ONNX to `path`; return [{name, how, max_abs}] in order, max_abs at the seam."""
    sizes, others = _two_shapes(spec)
    first = _observe(model, spec.model.segments, fill(sizes, samples, spec.model.inputs))
    second = _observe(model, spec.model.segments, fill(others, samples, spec.model.inputs))
    named = _name_tensors(spec, first)
    parts: dict[str, onnx.ModelProto] = {}
    report = []
    for name in spec.model.segments:
        file = path.with_name(f"{path.stem}.{name}.onnx")
        how = _export_one(model.get_submodule(name), name, (first, second), named, spec, file)
        worst = _check_seam(name, file, first.calls[name], named, spec)
        report.append({"name": name, "how": how, "max_abs": worst})
        parts[name] = onnx.load(str(file))
        file.unlink()
    _chain(spec, parts, [named[id(tensor)] for tensor in first.outputs], path)
    return report


def _observe(model: torch.nn.Module, segments: Sequence[str], feed: dict[str, np.ndarray]) -> Pass:
    """Run once and keep each segment's tensors; the same object at two places is the same tensor."""
    calls: dict[str, Call] = {}

    def watch(name: str) -> Any:
        def hook(_: torch.nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            if name in calls:
                raise SegmentError(name, "is called more than once in a forward pass")
            if kwargs:
                raise SegmentError(name, f"takes keyword arguments {sorted(kwargs)}; pass them by position")
            calls[name] = Call(inputs=tensors_of(args), outputs=tensors_of(result))

        return hook

    hooks = []
    for name in segments:
        try:
            hooks.append(model.get_submodule(name).register_forward_hook(watch(name), with_kwargs=True))
        except AttributeError as error:
            known = ", ".join(child for child, _ in model.named_children())
            raise SegmentError(name, f"the model has no such submodule; it has {known}") from error
    inputs = [torch.from_numpy(array) for array in feed.values()]
    try:
        with torch.no_grad():
            outputs = tensors_of(model(*inputs))
    finally:
        for hook in hooks:
            hook.remove()
    if uncalled := [name for name in segments if name not in calls]:
        raise SegmentError(uncalled[0], "is never called in a forward pass")
    return Pass(inputs=inputs, outputs=outputs, calls=calls)


def _name_tensors(spec: ReleaseSpec, seen: Pass) -> dict[int, str]:
    """A name for every tensor at a seam, by identity; SegmentError where work is done between segments."""
    named = {
        id(tensor): tensor_spec.name
        for tensor, tensor_spec in zip(seen.inputs, spec.model.inputs, strict=True)
    }
    for name in spec.model.segments:
        for index, tensor in enumerate(seen.calls[name].inputs):
            if id(tensor) not in named:
                raise SegmentError(
                    name,
                    f"its input {index} is neither an input of the model nor an output of an earlier segment",
                )
        for index, tensor in enumerate(seen.calls[name].outputs):
            named[id(tensor)] = f"{name}.{index}"
    for index, tensor in enumerate(seen.outputs):
        if id(tensor) not in named:
            raise SegmentError(spec.model.segments[-1], f"output {index} of the model is computed after it")
    return named


def _export_one(
    module: torch.nn.Module,
    name: str,
    passes: tuple[Pass, Pass],
    named: dict[int, str],
    spec: ReleaseSpec,
    file: Path,
) -> str:
    """Trace the segment, or script it where tracing would freeze control flow; say which."""
    call, other = passes[0].calls[name], passes[1].calls[name]
    axes = {
        named[id(a)]: {i: f"d{i}" for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n}
        for a, b in zip((*call.inputs, *call.outputs), (*other.inputs, *other.outputs), strict=True)
    }
    how, ready = "traced", None
    try:
        ready = trace(module, call.inputs, prefix=name)
        how = "scripted" if ready is module else "traced"
    except FrozenControlFlowError as frozen:
        how, ready = "scripted", _scripted(module, name, frozen)
    wanted = Wanted(
        path=file,
        opset=spec.model.opset,
        inputs=[named[id(tensor)] for tensor in call.inputs],
        outputs=[named[id(tensor)] for tensor in call.outputs],
        axes=axes,
    )
    export(ready, call.inputs, wanted, prefix=name)
    return how


def _scripted(module: torch.nn.Module, name: str, frozen: FrozenControlFlowError) -> torch.jit.ScriptModule:
    try:
        return torch.jit.script(module)
    except Exception as error:
        text = f"{frozen.message}; torch.jit.script refuses it too: {str(error).strip().splitlines()[0]}"
        raise TracingError(f"segment {name}", text) from error


def _check_seam(name: str, file: Path, call: Call, named: dict[int, str], spec: ReleaseSpec) -> float:
    """Run the segment's ONNX on what PyTorch fed it; the largest difference of its outputs, or SegmentError."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed = {named[id(tensor)]: tensor.numpy() for tensor in call.inputs}
    wanted_inputs = {value.name for value in session.get_inputs()}
    results = session.run(None, {key: array for key, array in feed.items() if key in wanted_inputs})
    worst = 0.0
    for tensor, result in zip(call.outputs, results, strict=True):
        drift = compare(tensor.numpy(), result, spec.numerics)
        if not drift.passes(spec.numerics):
            raise SegmentError(name, f"at its seam {named[id(tensor)]}: {drift}, outside spec.numerics")
        worst = max(worst, drift.max_abs)
    return worst


def _prefixed(part: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    """Give everything inside a segment its own prefix; bring its seams back to their common names."""
    inputs = [value.name for value in part.graph.input]
    outputs = [value.name for value in part.graph.output]
    onnx.compose.add_prefix(part, f"{name}/", inplace=True)
    into = [onnx.helper.make_node("Identity", [seam], [f"{name}/{seam}"]) for seam in inputs]
    out = [onnx.helper.make_node("Identity", [f"{name}/{seam}"], [seam]) for seam in outputs]
    return [*into, *part.graph.node, *out]


def _chain(spec: ReleaseSpec, parts: dict[str, onnx.ModelProto], outputs: Sequence[str], path: Path) -> None:
    """Write the parts as one model whose inputs and outputs are the spec's. outputs: their seam names."""
    nodes = [node for name, part in parts.items() for node in _prefixed(part, name)]
    for seam, tensor in zip(outputs, spec.model.outputs, strict=True):
        nodes.append(onnx.helper.make_node("Identity", [seam], [tensor.name]))
    graph = onnx.helper.make_graph(
        nodes,
        "segments",
        [_value(tensor) for tensor in spec.model.inputs],
        [_value(tensor) for tensor in spec.model.outputs],
        initializer=[weight for part in parts.values() for weight in part.graph.initializer],
    )
    opsets = {entry.domain: entry for part in parts.values() for entry in part.opset_import}
    ir_version = max(part.ir_version for part in parts.values())
    model = onnx.helper.make_model(graph, opset_imports=list(opsets.values()), ir_version=ir_version)
    onnx.save_model(model, str(path))


def _value(tensor: TensorSpec) -> onnx.ValueInfoProto:
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return onnx.helper.make_tensor_value_info(tensor.name, dtype, list(tensor.dims))


def _two_shapes(spec: ReleaseSpec) -> tuple[dict[str, int], dict[str, int]]:
    """Two sizes of every axis that can have two: what differs between them is a dynamic dimension."""
    one = {name: max(axis.opt, min(2, axis.max)) for name, axis in spec.model.axes.items()}
    other = {
        name: size + 1 if size < axis.max else max(axis.min, size - 1)
        for (name, size), axis in zip(one.items(), spec.model.axes.values(), strict=True)
    }
    return one, other
