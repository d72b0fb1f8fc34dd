"""From the FP32 ONNX to an FP16 one: the precision is in the file, and every backend builds what it says.

Problem: newer TensorRT has no precision flags, so a graph that is cast carelessly overflows where nobody looks: sums
of squares, masks of -3.4e38, guards of 1e-12 against a division by zero. Invariants: inputs and outputs keep their
types; operators that sum, square or exponentiate stay in FP32, and so does whoever reads a constant that FP16 cannot
hold; every other weight is FP16, or this raises.

Needs `onnx`, which the builder imports only when FP16 is asked for.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnxruntime.transformers import float16

from build_images.engine_builder.attention import scale_queries
from build_images.engine_builder.key_masks import fold_key_masks
from sluice.errors import FatalError

# Sums over an axis, squares and exponentials pass 65 504 for values that are ordinary themselves; a normalisation
# divides by such a sum. Softmax subtracts the maximum first and stays FP16.
OVERFLOWING: Final = (
    *("Pow", "Exp", "ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd"),
    *("ReduceLogSum", "ReduceLogSumExp", "CumSum", "LayerNormalization", "InstanceNormalization"),
    *("GroupNormalization", "LpNormalization", "MeanVarianceNormalization"),
)
BLOCKED: Final = frozenset((*float16.DEFAULT_OP_BLOCK_LIST, *OVERFLOWING))
FP16_MAX: Final = 65_504.0
FP16_LEAST: Final = 2.0**-24
MASK_FROM: Final = 1e30  # so large a constant means "never": exporters write the lowest FP32 into masks
MASK: Final = FP16_MAX / 2  # room for the score it is added to: -65 504 and a little more is minus infinity
LIMIT_BYTES: Final = 2_000_000_000  # of one protobuf, which the conversion holds whole
EXTERNAL_ABOVE_BYTES: Final = 1_000_000_000


def write_fp16(source: Path, target: Path) -> None:
    """Write the FP16 form of `source`. FatalError when it is too large, or did not become what is claimed above."""
    model = _read(source)
    if sum(tensor.ByteSize() for tensor in model.graph.initializer) > LIMIT_BYTES:
        raise FatalError(
            f"{source.name} has more than 2 GB of weights, too many for one FP16 conversion", _LEAVE
        )
    _name_nodes(model.graph)
    _lift_constants(model.graph)
    scale_queries(model.graph)
    _lower_masks(model.graph)
    kept = _readers_of_what_fp16_cannot_hold(model.graph)
    wanted = _interface(model)
    try:
        made = float16.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=sorted(BLOCKED), node_block_list=sorted(kept)
        )
    except Exception as error:  # the converter's own errors have no common root
        raise FatalError(f"{source.name} cannot be converted to FP16: {error}", _LEAVE) from error
    _check(made, wanted, kept)
    size_bytes = sum(tensor.ByteSize() for tensor in made.graph.initializer)
    onnx.save_model(
        made,
        str(target),
        save_as_external_data=size_bytes > EXTERNAL_ABOVE_BYTES,
        location=f"{target.name}.data",
    )


def flagged(source: Path, target: Path) -> tuple[Path, frozenset[str]]:
    """For a library whose flags decide the precision: the file to build, and the nodes that must stay in FP32.

    In the file attention has the form that is fused, masks are lowered, the weights of Q/DQ pairs are FP32, and every
    node has a name. It is `source` where that is so already.
    """
    model = _read(source)
    changed = _quantize_within(model.graph)
    changed |= scale_queries(model.graph)
    changed |= fold_key_masks(model)
    changed |= _name_nodes(model.graph)
    changed |= _lower_masks(model.graph)
    kept = _readers_of_what_fp16_cannot_hold(model.graph)
    kept |= {node.name for node in model.graph.node if node.op_type in OVERFLOWING}
    if not changed:
        return source, frozenset(kept)
    large = sum(tensor.ByteSize() for tensor in model.graph.initializer) > EXTERNAL_ABOVE_BYTES
    onnx.save_model(model, str(target), save_as_external_data=large, location=f"{target.name}.data")
    return target, frozenset(kept)


def _read(source: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(source))
    except DecodeError as error:
        raise FatalError(f"{source} is no ONNX: {error}", "export the model again") from error


def _quantize_within(graph: onnx.GraphProto) -> bool:
    """INT8 weights become FP32 ones behind a QuantizeLinear, which gives the same INT8 back; whether there were any.

    The fuser of TensorRT 8.6 takes no INT8 constants ("weights.type() != DataType::kINT8").
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes, gone = [], set()
    for node in graph.node:
        weight = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is not None and weight.data_type == onnx.TensorProto.INT8:
            axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
            scale = numpy_helper.to_array(constants[node.input[1]])
            values = numpy_helper.to_array(weight).astype(np.float32)
            name, quantized = f"{weight.name}_fp32", f"{node.output[0]}_quantized"
            if name not in constants:
                wide = numpy_helper.from_array(values * _along(scale, values.ndim, axis), name)
                graph.initializer.append(wide)
                constants[name] = wide
            pair = [name, *node.input[1:]]
            nodes.append(
                onnx.helper.make_node("QuantizeLinear", pair, [quantized], f"{quantized}_node", axis=axis)
            )
            gone.add(weight.name)
            node.input[0] = quantized
        nodes.append(node)
    kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return bool(gone)


def _along(scale: np.ndarray, dimensions: int, axis: int) -> np.ndarray:
    """The scale, shaped so that it multiplies along `axis`."""
    if scale.ndim == 0:
        return scale
    shape = [1] * dimensions
    shape[axis] = -1
    return scale.reshape(shape)


_LEAVE: Final = "take fp16 out of precisions, or export the model so that it can be cast"


def _name_nodes(graph: onnx.GraphProto) -> bool:
    """Nodes are held in FP32 by name: those without one would all be held together. Whether there were any."""
    taken = {node.name for node in graph.node}
    unnamed = not all(node.name for node in graph.node)
    for number, node in enumerate(graph.node):
        if not node.name:
            node.name = next(
                name
                for suffix in ("", *(f"_{n}" for n in range(len(graph.node) + 1)))
                if (name := f"{node.op_type}_{number}{suffix}") not in taken
            )
            taken.add(node.name)
    return unnamed


def _lift_constants(graph: onnx.GraphProto) -> None:
    """FP32 Constant nodes become initializers: the converter keeps those in FP32 for readers that are blocked, but
    rounds a Constant node's value for everybody, so that 1e-12 would come back as 6e-8."""
    nodes = []
    for node in graph.node:
        values = {attribute.name: attribute for attribute in node.attribute}
        is_float = node.op_type == "Constant" and "value" in values
        if is_float and values["value"].t.data_type == onnx.TensorProto.FLOAT:
            lifted = graph.initializer.add()
            lifted.CopyFrom(values["value"].t)
            lifted.name = node.output[0]
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    constants = {tensor.name for tensor in graph.initializer}
    values_info = [value for value in graph.value_info if value.name not in constants]
    del graph.value_info[:]  # else the converter takes a lifted constant for a computed FP16 value
    graph.value_info.extend(values_info)


def _float_constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """FP32 constants by name, initializers and Constant nodes alike; the tensors of the graph itself."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                found[node.output[0]] = attribute.t
    return {name: tensor for name, tensor in found.items() if tensor.data_type == onnx.TensorProto.FLOAT}


def _lower_masks(graph: onnx.GraphProto) -> bool:
    """Values of masks come within FP16 in place: nobody has to stay in FP32 for them. Whether there were any."""
    lowered = False
    for tensor in _float_constants(graph).values():
        values = numpy_helper.to_array(tensor)
        masks = np.isfinite(values) & (np.abs(values) >= MASK_FROM)
        if masks.any():
            values = np.where(masks, np.sign(values) * np.float32(MASK), values).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            lowered = True
    return lowered


def _readers_of_what_fp16_cannot_hold(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that must stay FP32."""
    constants = _float_constants(graph).items()
    outside = {name for name, tensor in constants if not _fits(numpy_helper.to_array(tensor))}
    return {node.name for node in graph.node if outside & set(node.input)}


def _fits(values: np.ndarray) -> bool:
    """Whether FP16 holds these constants: the largest in any case, the smallest where the value stands alone.

    A weight that rounds to zero among thousands changes nothing; a lone 1e-12 that becomes zero divides by it.
    """
    sizes = np.abs(values[np.isfinite(values)])
    if sizes.size and sizes.max() > FP16_MAX:
        return False
    return values.size != 1 or bool((sizes == 0).all()) or bool(sizes.min() >= FP16_LEAST)


def _interface(model: onnx.ModelProto) -> list[tuple[str, int]]:
    values = (*model.graph.input, *model.graph.output)
    return [(value.name, value.type.tensor_type.elem_type) for value in values]


def _check(made: onnx.ModelProto, wanted: list[tuple[str, int]], kept: set[str]) -> None:
    got = _interface(made)
    if got != wanted:
        raise FatalError(f"the FP16 conversion changed inputs or outputs: {got}, wanted {wanted}", _LEAVE)
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    stray = sorted(set(_read_as_fp32(made.graph, types, kept)))
    if stray:
        raise FatalError(f"weights are FP32 still after the FP16 conversion: {', '.join(stray[:5])}", _LEAVE)
    if onnx.TensorProto.FLOAT16 not in types.values():
        raise FatalError("the model has no weight that can be FP16", _LEAVE)


def _read_as_fp32(graph: onnx.GraphProto, types: dict[str, int], kept: set[str]) -> Iterator[str]:
    """FP32 weights that a node reads which is not meant to stay FP32."""
    for node in graph.node:
        if node.op_type not in BLOCKED and node.name not in kept and node.op_type != "Resize":
            yield from (name for name in node.input if types.get(name) == onnx.TensorProto.FLOAT)
