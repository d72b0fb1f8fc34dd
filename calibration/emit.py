"""From FP32 and ranges to INT8: explicit quantize/dequantize pairs around every weighted operator.

Problem: on CPUs an 8-bit product is fast for unsigned activations and signed weights only (symmetric signed
activations ran slower than FP32 for us), while TensorRT takes nothing but symmetric signed ones: a zero point that
is not 0 is an error of its parser. So the same ranges are written in two forms. Invariants: activations have one
scale a tensor and hold zero exactly, uint8 with a zero point (unsigned) or int8 with zero point 0 (signed); weights
are int8, symmetric, one scale an output channel; everything else stays FP32. Pairs, not fused kernels, are written:
each backend fuses them in its own way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from sluice.errors import FatalError
from sluice.spec_types import SIGNED, UNSIGNED

WEIGHT_LIMIT: Final = 127
ACTIVATION_LIMIT: Final = 255
SIGNED_LIMIT: Final = 127  # -128 stays unused: the grid is the same on both sides of zero
EXTERNAL_ABOVE_BYTES: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """One operator to quantize. node: as `node_names` calls it. axis: of the output channels in its weight.

    reading: what its INT8 weight is called; two operators that read one weight along different axes have two.
    """

    node: str
    op_type: str
    activation: str
    weight: str
    axis: int
    reading: str


def weighted_operators(model: onnx.ModelProto) -> tuple[Weighted, ...]:
    """MatMul, Gemm and Conv of the main graph whose weight is a constant float32 matrix or kernel.

    FatalError when there is none: an INT8 candidate that quantizes nothing is FP32 under another name.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for name, node in zip(node_names(model), model.graph.node, strict=True):
        weight = constants.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or weight.data_type != onnx.TensorProto.FLOAT or node.input[0] in constants:
            continue
        axis = _channel_axis(node, len(weight.dims))
        if axis is not None:
            found.append(
                Weighted(
                    node=name,
                    op_type=node.op_type,
                    activation=node.input[0],
                    weight=weight.name,
                    axis=axis,
                    reading=weight.name,
                )
            )
    if not found:
        raise FatalError(
            "the ONNX has no MatMul, Gemm or Conv with a constant float32 weight, so nothing can be INT8",
            "take int8 out of precisions",
        )
    return _readings_apart(found)


def node_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """One name for each node of the main graph: its own, or one by type and place where it has none."""
    taken = {node.name for node in model.graph.node}
    names = []
    for place, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{place}"
        while not node.name and name in taken:
            name += "_"
        names.append(name)
    return tuple(names)


def quantized_weights(
    model: onnx.ModelProto, operators: Sequence[Weighted]
) -> dict[str, list[onnx.TensorProto]]:
    """{reading: its INT8 values, scales and zero points}; the same for every method, so made once."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {}
    for operator in {one.reading: one for one in operators}.values():
        values = numpy_helper.to_array(constants[operator.weight])
        others = tuple(axis for axis in range(values.ndim) if axis != operator.axis)
        scale = np.maximum(np.abs(values).max(axis=others), 1e-12).astype(np.float32) / np.float32(
            WEIGHT_LIMIT
        )
        shape = [-1 if axis == operator.axis else 1 for axis in range(values.ndim)]
        rounded = np.clip(np.round(values / scale.reshape(shape)), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(
            np.int8
        )
        made[operator.reading] = [
            numpy_helper.from_array(rounded, f"{operator.reading}_int8"),
            numpy_helper.from_array(scale, f"{operator.reading}_scale"),
            numpy_helper.from_array(np.zeros(len(scale), dtype=np.int8), f"{operator.reading}_zero"),
        ]
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """One set of ranges over one model: all that a candidate is written from.

    operators: those that could be INT8; ranges: (low, high) of the activation of each. form: of the activations.
    """

    model: onnx.ModelProto
    operators: Sequence[Weighted]
    weights: Mapping[str, list[onnx.TensorProto]]
    ranges: Mapping[str, tuple[float, float]]
    form: str = UNSIGNED

    def write(self, path: Path, operators: Sequence[Weighted] | None = None) -> None:
        """Write the INT8 candidate. operators: those that become INT8, the others stay as they were; None: all."""
        chosen = self.operators if operators is None else operators
        nodes: list[onnx.NodeProto] = []
        for node, operator, pairs in _with_pairs(self.model, chosen):
            nodes += [*pairs, node if operator is None else _redirected(node, operator)]
        _save(self.model, nodes, self._parameters(chosen), path)

    def write_shadows(self, path: Path) -> dict[str, tuple[str, str]]:
        """Write the FP32 model with an INT8 shadow beside each operator, that feeds nothing but two outputs of its own.

        {node: (output with the sum of the squared differences, output with the sum of the operator's own squares)}.
        """
        nodes: list[onnx.NodeProto] = []
        told: dict[str, tuple[str, str]] = {}
        for node, operator, pairs in _with_pairs(self.model, self.operators):
            nodes += [*pairs, node]
            if operator is not None:
                shadow, names = _shadow(node, operator)
                nodes += shadow
                told[operator.node] = names
        outputs = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [])
            for pair in told.values()
            for name in pair
        ]
        _save(self.model, nodes, self._parameters(self.operators), path, outputs=outputs)
        return told

    def _parameters(self, operators: Sequence[Weighted]) -> list[onnx.TensorProto]:
        """Scales and zero points of what these operators read, and their weights in INT8."""
        scale_of = {UNSIGNED: activation_scale, SIGNED: signed_scale}[self.form]
        made: list[onnx.TensorProto] = []
        for name in dict.fromkeys(operator.activation for operator in operators):
            made += _activation_parameters(name, *scale_of(*self.ranges[name]))
        for name in dict.fromkeys(operator.reading for operator in operators):
            made += self.weights[name]
        return made


def activation_scale(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """(scale, zero point) of uint8 for a range that contains zero."""
    scale = np.float32(max(high - low, 1e-12) / ACTIVATION_LIMIT)
    return scale, np.uint8(np.clip(round(-low / float(scale)), 0, ACTIVATION_LIMIT))


def signed_scale(low: float, high: float) -> tuple[np.float32, np.int8]:
    """(scale, zero point 0) of int8 for a range that contains zero: as wide on either side as its longer one."""
    return np.float32(max(-low, high, 1e-12) / SIGNED_LIMIT), np.int8(0)


def _readings_apart(operators: Sequence[Weighted]) -> tuple[Weighted, ...]:
    """Scales are by output channel, so a weight that is read along two axes has two sets of them."""
    axes: dict[str, set[int]] = {}
    for one in operators:
        axes.setdefault(one.weight, set()).add(one.axis)
    return tuple(
        replace(one, reading=f"{one.weight}_axis{one.axis}") if len(axes[one.weight]) > 1 else one
        for one in operators
    )


def _channel_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """The axis of the output channels, None for what is not quantized."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    axes: dict[str, Callable[[], int | None]] = {
        "MatMul": lambda: 1 if rank == 2 else None,
        "Gemm": lambda: None if attributes.get("transA") else (0 if attributes.get("transB") else 1),
        "Conv": lambda: 0,
    }
    return axes[node.op_type]() if node.op_type in axes and node.domain in ("", "ai.onnx") else None


def _activation_parameters(name: str, scale: np.float32, zero: np.uint8 | np.int8) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(scale, f"{name}_scale"), numpy_helper.from_array(zero, f"{name}_zero")]


def _activation_pair(name: str) -> list[onnx.NodeProto]:
    parameters = [f"{name}_scale", f"{name}_zero"]
    return [
        onnx.helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_byte"], f"{name}_quantize"),
        onnx.helper.make_node(
            "DequantizeLinear", [f"{name}_byte", *parameters], [f"{name}_restored"], f"{name}_dequantize"
        ),
    ]


def _weight_dequantize(operator: Weighted) -> onnx.NodeProto:
    name = operator.reading
    inputs = [f"{name}_int8", f"{name}_scale", f"{name}_zero"]
    return onnx.helper.make_node(
        "DequantizeLinear", inputs, [f"{name}_restored"], f"{name}_dequantize", axis=operator.axis
    )


def _with_pairs(
    model: onnx.ModelProto, operators: Sequence[Weighted]
) -> Iterator[tuple[onnx.NodeProto, Weighted | None, list[onnx.NodeProto]]]:
    """Every node with the operator that it is, if it is one, and the pairs that must stand before it, each once."""
    by_node = {operator.node: operator for operator in operators}
    done: set[str] = set()
    for name, node in zip(node_names(model), model.graph.node, strict=True):
        operator = by_node.get(name)
        pairs: list[onnx.NodeProto] = []
        if operator is not None and operator.activation not in done:
            pairs += _activation_pair(operator.activation)
        if operator is not None and operator.reading not in done:
            pairs.append(_weight_dequantize(operator))
        if operator is not None:
            done |= {operator.activation, operator.reading}
        yield node, operator, pairs


def _shadow(node: onnx.NodeProto, operator: Weighted) -> tuple[list[onnx.NodeProto], tuple[str, str]]:
    """The operator once more, on what INT8 would give it, and two sums over all of its output."""
    copy = _redirected(node, operator)
    shadow, output = f"{operator.node}_shadow", node.output[0]
    copy.name, copy.output[0] = shadow, f"{shadow}_output"
    names = f"{shadow}_noise", f"{shadow}_signal"
    make = onnx.helper.make_node
    return [
        copy,
        make("Sub", [copy.output[0], output], [f"{shadow}_difference"], f"{shadow}_subtract"),
        make("ReduceSumSquare", [f"{shadow}_difference"], [names[0]], names[0], keepdims=0),
        make("ReduceSumSquare", [output], [names[1]], names[1], keepdims=0),
    ], names


def _redirected(node: onnx.NodeProto, operator: Weighted) -> onnx.NodeProto:
    """The operator with its activation and weight read from behind the pairs; a bias stays as it is."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = operator.node
    copy.input[0], copy.input[1] = f"{operator.activation}_restored", f"{operator.reading}_restored"
    return copy


def _save(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    added: Sequence[onnx.TensorProto],
    path: Path,
    *,
    outputs: Sequence[onnx.ValueInfoProto] = (),
) -> None:
    """Write the graph with these nodes and more outputs; FP32 weights that nothing reads any more stay out."""
    read = {name for node in nodes for name in node.input} | _read_inside(nodes)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    graph = onnx.helper.make_graph(
        nodes,
        model.graph.name,
        model.graph.input,
        [*model.graph.output, *outputs],
        initializer=[*kept, *added],
    )
    written = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    size_bytes = sum(tensor.ByteSize() for tensor in graph.initializer)
    onnx.save_model(
        written,
        str(path),
        save_as_external_data=size_bytes > EXTERNAL_ABOVE_BYTES,
        location=f"{path.name}.data",
    )


def _read_inside(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Names that the bodies of Loop, If and Scan read from the graph around them."""
    graphs = [attribute.g for node in nodes for attribute in node.attribute if attribute.HasField("g")]
    inner = [node for graph in graphs for node in graph.node]
    names = {name for node in inner for name in node.input}
    return names | _read_inside(inner) if inner else names
