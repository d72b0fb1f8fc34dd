"""Attention in the form that TensorRT fuses: the queries are scaled before the first product, not the scores after it.

Problem: exporters write softmax(Q K^T * scale + mask). TensorRT's fused attention wants Q or K scaled, and in FP16 the
raw product is the first thing to pass 65 504. Invariants: the graph computes the same; who reads the scores finds
them under the same name.
Source: NVIDIA's TensorRT documentation, "Fused Attention".
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from build_images.engine_builder.onnx_graph import reads

MASKING: Final = ("Add", "Where")  # may stand between the scale and the Softmax

Scale = tuple[onnx.NodeProto, onnx.NodeProto]  # the product Q K^T; its one reader, by a number


def scale_queries(graph: onnx.GraphProto) -> bool:
    """Move every scale of attention scores to the queries, in place; whether there was any."""
    producers = {name: node for node in graph.node for name in node.output}
    numbers = set(_numbers(graph))
    readers = Counter(reads(graph.node))
    readers.update(value.name for value in graph.output)
    found = {
        product.output[0]: (product, scale) for product, scale in _scales(graph, producers, numbers, readers)
    }
    if not found:
        return False
    moved = {scale.output[0] for _, scale in found.values()}
    nodes = [node for node in graph.node if node.op_type == "Constant"]  # one may stand behind its new reader
    for node in graph.node:
        pair = found.get(node.output[0]) if node.output else None
        if pair is not None:
            nodes += reversed(pair)
        elif node.op_type != "Constant" and not moved & set(node.output):
            nodes.append(node)
    for product, scale in found.values():
        _swap(product, scale, numbers)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # the scores' name has another producer now
    return True


def _scales(
    graph: onnx.GraphProto,
    producers: Mapping[str, onnx.NodeProto],
    numbers: set[str],
    readers: Mapping[str, int],
) -> Iterator[Scale]:
    for softmax in graph.node:
        for scale in _before(softmax, producers) if softmax.op_type == "Softmax" else ():
            scores = next((name for name in scale.input if name not in numbers), "")
            product = producers.get(scores)
            divides = scale.op_type == "Div" and scale.input[0] != scores
            if product is None or divides or readers[scores] != 1 or len(numbers & set(scale.input)) != 1:
                continue
            if _is_of_two_activations(product, producers):
                yield product, scale


def _is_of_two_activations(product: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """And not of INT8: a DequantizeLinear stays next to its product."""
    sides = [producers.get(name) for name in product.input]
    return product.op_type == "MatMul" and all(
        side is not None and side.op_type not in ("Constant", "DequantizeLinear") for side in sides
    )


def _before(softmax: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Each Mul and Div that is found behind nothing but masks."""
    waiting = list(softmax.input)
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.op_type in MASKING:
            waiting += node.input
        elif node is not None and node.op_type in ("Mul", "Div"):
            yield node


def _swap(product: onnx.NodeProto, scale: onnx.NodeProto, numbers: set[str]) -> None:
    queries, scores = product.input[0], scale.output[0]
    number = next(name for name in scale.input if name in numbers)
    scaled = f"{scores}_scaled_queries"
    scale.input[:] = [queries, number]
    scale.output[:] = [scaled]
    product.input[0] = scaled
    product.output[:] = [scores]


def _numbers(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the constants that are one number."""
    for tensor in graph.initializer:
        if _is_number(tensor):
            yield tensor.name
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and _is_number(attribute.t):
                yield node.output[0]


def _is_number(tensor: onnx.TensorProto) -> bool:
    is_float = tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return (
        is_float and int(np.prod(tensor.dims)) == 1 and bool(np.isfinite(numpy_helper.to_array(tensor)).all())
    )
