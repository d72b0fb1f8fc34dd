"""A mask over keys becomes a channel of the heads: attention without an addition between its two products.

Problem: TensorRT 8.6 fuses softmax(Q K^T) V into one kernel, and does not where a mask is added to the scores; then the
scores of every head are written out and read back, which at 32 x 512 tokens is most of the time and of the memory.
The sum is a product with one channel more: Q K^T + m = [Q, 1] [K, m]^T. That channel comes from the bias of the
projection that makes Q, so no operator is added but one sum on K; widths are filled up with zeros to what the kernels
take. Invariants: every row that keeps a key answers as it did, and one that keeps none something finite; an attention
that does not look exactly as expected is left as it is.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.transformers.onnx_model import OnnxModel

from build_images.engine_builder.onnx_graph import reads

STEP: Final = 8  # kernels take heads of a multiple of so many channels
ROWS: Final = [0, 2, 1, 3]  # [batch, sequence, heads, width] -> [batch, heads, sequence, width]
COLUMNS: Final = [0, 2, 3, 1]  # -> [batch, heads, width, sequence]
LEAST: Final = -32_752.0  # hides a key as well as minus infinity does, and times 0 is 0
SMALL: Final = 64  # elements of a constant that shapes may be computed from


def fold_key_masks(model: onnx.ModelProto) -> bool:
    """Fold the mask of each attention that has one over keys alone, in place; whether there was any."""
    graph = model.graph
    if not any(node.op_type == "Softmax" for node in graph.node):
        return False
    view = _View(model)
    found = list(_attentions(view))
    if not found:
        return False
    for one in found:
        _fold(view, one)
    gone = {one.masked for one in found}
    kept = [node for node in graph.node if not gone & set(node.output)]
    used = {*reads(kept), *(value.name for value in (*graph.input, *graph.output))}
    left = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(left)
    OnnxModel.graph_topological_sort(graph)
    return True


class _OtherFormError(Exception):
    """What stands here is not what is looked for."""


class _View:
    """A graph by the names of its tensors; what it is asked for and does not find is an _OtherFormError."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.producers = {name: node for node in self.graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in self.graph.output}
        given = {value.name for value in self.graph.input}  # an initializer among them is a default
        self.names = {*self.producers, *given}
        self.tensors = {one.name: one for one in self.graph.initializer if one.name not in given}
        self.shapes = _shapes(model)
        self.channels: set[str] = set()  # made of masks by now: several attentions share one

    def constant(self, name: str) -> np.ndarray | None:
        """The value of an initializer or a Constant node."""
        tensor, node = self.tensors.get(name), self.producers.get(name)
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = next((one.t for one in node.attribute if one.name == "value"), None)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def needed(self, name: str) -> np.ndarray:
        """The same; it must be there."""
        value = self.constant(name)
        if value is None:
            raise _OtherFormError
        return value

    def before(self, names: Sequence[str], kind: str) -> onnx.NodeProto:
        """The node of this kind that makes the first such of these tensors, and that nobody else reads."""
        for name in names:
            node = self.producers.get(name)
            if node is not None and node.op_type == kind and self._read_once(name):
                return node
        raise _OtherFormError

    def behind(self, node: onnx.NodeProto, kind: str) -> onnx.NodeProto:
        """The one node, of this kind, that reads what this one makes."""
        readers = self.readers.get(node.output[0], [])
        if not readers or readers[0].op_type != kind or not self._read_once(node.output[0]):
            raise _OtherFormError
        return readers[0]

    def add(self, name: str, value: np.ndarray) -> str:
        """Name of a constant with this value: this one, or the next that is free."""
        free, number = name, 1
        while (known := self.constant(free)) is not None or free in self.names:
            if known is not None and known.dtype == value.dtype and np.array_equal(known, value):
                return free
            number += 1
            free = f"{name}_{number}"
        self.tensors[free] = numpy_helper.from_array(value, free)
        self.graph.initializer.append(self.tensors[free])
        return free

    def _read_once(self, name: str) -> bool:
        return len(self.readers.get(name, ())) == 1 and name not in self.outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weight:
    """The FP32 matrix that a product's right side comes from, and the Q/DQ pair between, or none."""

    product: onnx.NodeProto
    name: str
    matrix: np.ndarray
    pair: tuple[onnx.NodeProto, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """Q, K or V: x times `weight`, plus `offset` [heads * width], reshaped, and multiplied by `factor` in the end."""

    weight: _Weight
    bias: onnx.NodeProto
    offset: np.ndarray
    reshape: onnx.NodeProto
    width: int
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attention:
    """softmax(product + mask) times V, merged, times `output`. masked: name of the sum."""

    softmax: onnx.NodeProto
    masked: str
    mask: str
    product: onnx.NodeProto
    queries: _Side
    keys: _Side
    values: _Side
    merge: onnx.NodeProto
    output: _Weight


def _attentions(view: _View) -> Iterator[_Attention]:
    for node in view.graph.node:
        if node.op_type == "Softmax" and _attribute(node, "axis", -1) in (-1, 3):
            try:
                yield _attention(view, node)
            except _OtherFormError:
                continue


def _attention(view: _View, softmax: onnx.NodeProto) -> _Attention:
    masked = view.before(softmax.input, "Add")
    product = view.before(masked.input, "MatMul")
    mask = next(name for name in masked.input if name != product.output[0])
    shape = view.shapes.get(mask, [])
    attended = view.behind(softmax, "MatMul")
    transpose = view.behind(attended, "Transpose")
    merge = view.behind(transpose, "Reshape")
    one = _Attention(
        softmax=softmax,
        masked=masked.output[0],
        mask=mask,
        product=product,
        queries=_side(view, product.input[0], ROWS),
        keys=_side(view, product.input[1], COLUMNS),
        values=_side(view, attended.input[1], ROWS),
        merge=merge,
        output=_weight_behind(view, merge),
    )
    sides, channels = (one.queries, one.keys, one.values), len(one.output.matrix)
    _need(len(shape) == 4 and shape[1:3] == [1, 1])
    _need(attended.input[0] == softmax.output[0] and _attribute(transpose, "perm", []) == ROWS)
    _need({(side.width, len(side.offset)) for side in sides} == {(one.queries.width, channels)})
    _need(_target(view, merge)[-1] in (channels, -1))
    return one


def _side(view: _View, name: str, perm: list[int]) -> _Side:
    factor = 1.0
    scale = view.producers.get(name)
    if scale is not None and scale.op_type in ("Mul", "Div"):
        view.before([name], scale.op_type)
        numbers = view.needed(scale.input[1]).ravel()
        _need(len(numbers) == 1 and math.isfinite(numbers[0]) and numbers[0] != 0)
        factor = float(numbers[0]) if scale.op_type == "Mul" else 1.0 / float(numbers[0])
        name = scale.input[0]
    transpose = view.before([name], "Transpose")
    reshape = view.before(transpose.input, "Reshape")
    bias = view.before(reshape.input[:1], "Add")
    product = view.before(bias.input, "MatMul")
    weight = _weight(view, product)
    offset = view.needed(next(one for one in bias.input if one != product.output[0]))
    _need(offset.dtype == np.float32 and offset.shape == weight.matrix.shape[1:])
    target = _target(view, reshape)
    _need(_attribute(transpose, "perm", []) == perm and len(target) == 4 and target[3] > 0)
    heads, rest = divmod(len(offset), target[3])
    _need(rest == 0 and target[2] in (heads, -1))
    return _Side(weight=weight, bias=bias, offset=offset, reshape=reshape, width=target[3], factor=factor)


def _weight(view: _View, product: onnx.NodeProto) -> _Weight:
    name = product.input[1]
    pair: tuple[onnx.NodeProto, ...] = ()
    if name in view.producers:
        dequantize = view.before([name], "DequantizeLinear")
        quantize = view.before(dequantize.input[:1], "QuantizeLinear")
        _need(quantize.input[1:] == dequantize.input[1:])
        by_column = all(_attribute(node, "axis", 1) in (1, -1) for node in (quantize, dequantize))
        _need(by_column or view.needed(quantize.input[1]).size == 1)
        name, pair = quantize.input[0], (quantize, dequantize)
    matrix = view.needed(name)
    _need(matrix.dtype == np.float32 and matrix.ndim == 2)
    return _Weight(product=product, name=name, matrix=matrix, pair=pair)


def _weight_behind(view: _View, node: onnx.NodeProto) -> _Weight:
    """Of the projection that reads what this node makes, through a Q/DQ pair or not."""
    if any(one.op_type == "QuantizeLinear" for one in view.readers.get(node.output[0], ())):
        quantize = view.behind(node, "QuantizeLinear")
        node = view.behind(quantize, "DequantizeLinear")
        _need(all(view.needed(one.input[1]).size == 1 for one in (quantize, node)))
    return _weight(view, view.behind(node, "MatMul"))


def _target(view: _View, reshape: onnx.NodeProto) -> list[int]:
    """What a Reshape asks for; 0 for each dimension that is computed."""
    value = view.constant(reshape.input[1])
    if value is not None:
        return [int(one) for one in value.ravel()]
    concat = view.producers.get(reshape.input[1])
    _need(concat is not None and concat.op_type == "Concat")
    parts = [view.constant(name) for name in ([] if concat is None else concat.input)]
    _need(all(part is None or part.size == 1 for part in parts))
    return [0 if part is None else int(part.ravel()[0]) for part in parts]


def _fold(view: _View, one: _Attention) -> None:
    width, wide = one.queries.width, (one.queries.width // STEP + 1) * STEP
    for side in (one.queries, one.keys, one.values):
        _widen_weight(view, side.weight, width, wide, columns=True)
        offset = _wider(side.offset, width, wide)
        if side is one.queries:
            offset[width::wide] = 1.0 / side.factor
        old = next(name for name in side.bias.input if name != side.weight.product.output[0])
        new = view.add(f"{side.bias.output[0]}_wide", offset)
        side.bias.input[:] = [new if name == old else name for name in side.bias.input]
        _set_last(view, side.reshape, wide)
    _widen_weight(view, one.output, width, wide, columns=False)
    _set_last(view, one.merge, len(one.output.matrix) // width * wide)
    scores = one.product.output[0]
    keys = f"{scores}_keys"
    channel = _channel(view, one.mask, width, wide)
    view.graph.node.append(onnx.helper.make_node("Add", [one.product.input[1], channel], [keys]))
    one.product.input[1] = keys
    one.softmax.input[0] = scores


def _channel(view: _View, mask: str, width: int, wide: int) -> str:
    """[batch, 1, wide, sequence]: the mask behind the channels that were there, and zeros behind it."""
    made = f"{mask}_channel_{width}"
    if made not in view.channels:
        place = np.zeros((1, 1, wide, 1), np.float32)
        place[0, 0, width] = 1.0
        least = view.add("least_mask", np.array(LEAST, np.float32))
        placed = view.add(f"{made}_place", place)
        clipped = onnx.helper.make_node("Max", [mask, least], [f"{made}_clipped"])
        view.graph.node.extend([clipped, onnx.helper.make_node("Mul", [f"{made}_clipped", placed], [made])])
        view.channels.add(made)
    return made


def _widen_weight(view: _View, weight: _Weight, width: int, wide: int, *, columns: bool) -> None:
    matrix = weight.matrix
    wider = _wider(matrix, width, wide) if columns else np.ascontiguousarray(_wider(matrix.T, width, wide).T)
    new = view.add(f"{weight.name}_wide", wider)
    if not weight.pair:
        weight.product.input[1] = new
        return
    weight.pair[0].input[0] = new
    for place, fill in ((1, 1), (2, 0)) if columns else ():  # a column of zeros has any scale
        name = weight.pair[0].input[place] if len(weight.pair[0].input) > place else ""
        old = view.constant(name)
        if old is not None and old.size > 1:
            grown = view.add(f"{name}_wide", _wider(old, width, wide, fill=fill))
            for part in weight.pair:
                part.input[place] = grown


def _wider(array: np.ndarray, width: int, wide: int, *, fill: int = 0) -> np.ndarray:
    """The last axis, heads of `width`, with every head as wide as `wide`."""
    shape, heads = array.shape[:-1], array.shape[-1] // width
    grown = np.full((*shape, heads, wide), fill, array.dtype)
    grown[..., :width] = array.reshape(*shape, heads, width)
    return grown.reshape(*shape, heads * wide)


def _set_last(view: _View, reshape: onnx.NodeProto, size: int) -> None:
    old, new = reshape.input[1], f"{reshape.output[0]}_target"
    value = view.constant(old)
    if value is not None:
        view.add(new, np.array([*value.ravel()[:-1], size], np.int64))
    else:  # a copy: another Reshape may read it
        *names, _ = view.producers[old].input
        last = view.add(f"dimension_{size}", np.array([size], np.int64))
        view.graph.node.append(onnx.helper.make_node("Concat", [*names, last], [new], axis=0))
    reshape.input[1] = new


def _need(held: bool) -> None:
    if not held:
        raise _OtherFormError


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = (onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name)
    return next(found, default)


def _shapes(model: onnx.ModelProto) -> Mapping[str, list[int | str]]:
    """By tensor, as far as they are known. Large constants take no part: with them a model may pass 2 GB."""
    graph = model.graph
    large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) > SMALL]
    inputs = [onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in large]
    names = {tensor.name for tensor in large}
    light = onnx.helper.make_graph(
        list(graph.node),
        "shapes",
        [*graph.input, *inputs],
        list(graph.output),
        [tensor for tensor in graph.initializer if tensor.name not in names],
    )
    made = onnx.helper.make_model(light, opset_imports=model.opset_import, ir_version=model.ir_version)
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*onnx.shape_inference.infer_shapes(made).graph.value_info, *graph.input)
    }
