"""Which graph a calibration belongs to, and which weights: two digests of one ONNX model.

Problem: activations of one graph say nothing of another's, but a model that is trained again has the same graph, and
its old ranges may still hold. Invariants: the graph's digest covers topology, operators, attributes, tensor names,
types and shapes, and no floating-point initializer's values; those, and nothing else, make the weights' digest. Integer
initializers (shapes, axes, indices) say what a node does, so their values belong to the graph. Node names, comments
and the producer count for nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Final

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper
from pydantic import Field

from sluice.digest import sha256_bytes, sha256_json
from sluice.spec_types import Count, Part, Sha256, Text

FLOATING: Final = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "COMPLEX64", "COMPLEX128")
)


class Graph(Part):
    """What a graph is, by part: enough to say where another one differs.

    parts: digest of its opsets, inputs, outputs, values (known shapes between nodes), initializers, nodes, functions.
    operators: how many nodes of each type, in subgraphs too.
    """

    sha256: Sha256
    parts: Annotated[dict[Text, Sha256], Field(min_length=1)]
    operators: Annotated[dict[Text, Count], Field(min_length=1)]

    def differences(self, other: "Graph") -> list[str]:
        """What `other` has differently, in words; empty for the same graph."""
        types = sorted({*self.operators, *other.operators})
        counts = [(name, self.operators.get(name, 0), other.operators.get(name, 0)) for name in types]
        found = [f"{name} operators {mine} -> {theirs}" for name, mine, theirs in counts if mine != theirs]
        parts = sorted({*self.parts, *other.parts})
        found += [name for name in parts if self.parts.get(name) != other.parts.get(name)]
        if not found and self.sha256 != other.sha256:
            found.append("sha256")
        return found


def graph_of(model: onnx.ModelProto) -> Graph:
    """The graph's digest, by part and as a whole."""
    described = {
        "opsets": sorted([entry.domain or "ai.onnx", entry.version] for entry in model.opset_import),
        **_graph(model.graph),
        "functions": sorted([one.domain, one.name, _nodes(one.node)] for one in model.functions),
    }
    parts = {name: sha256_json(value) for name, value in described.items()}
    operators = Counter(node.op_type for node in _all_nodes(model.graph))
    return Graph(sha256=sha256_json(parts), parts=parts, operators=dict(sorted(operators.items())))


def weights_sha256(model: onnx.ModelProto) -> str:
    """Digest of the floating-point initializers, by name; 64 lowercase hex digits."""
    digest = hashlib.sha256()
    for tensor in sorted(_all_initializers(model.graph), key=lambda one: one.name):
        if tensor.data_type in FLOATING:
            values = np.ascontiguousarray(numpy_helper.to_array(tensor))
            digest.update(f"{tensor.name}:{values.dtype}:{values.shape};".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


def _graph(graph: onnx.GraphProto) -> dict[str, Any]:
    return {
        "inputs": [_value(one) for one in graph.input],
        "outputs": [_value(one) for one in graph.output],
        "values": sorted((_value(one) for one in graph.value_info), key=lambda one: str(one["name"])),
        "initializers": sorted((_initializer(one) for one in graph.initializer), key=lambda one: one[0]),
        "nodes": _nodes(graph.node),
    }


def _value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim] if tensor.HasField("shape") else None
    return {"name": value.name, "type": tensor.elem_type, "dims": dims}


def _initializer(tensor: onnx.TensorProto) -> list[Any]:
    values = None if tensor.data_type in FLOATING else _digest(tensor)
    return [tensor.name, tensor.data_type, list(tensor.dims), values]


def _digest(tensor: onnx.TensorProto) -> str:
    return sha256_bytes(np.ascontiguousarray(numpy_helper.to_array(tensor)).tobytes())


def _nodes(nodes: Any) -> list[Any]:
    return [
        [
            node.domain or "ai.onnx",
            node.op_type,
            list(node.input),
            list(node.output),
            {one.name: _attribute(one) for one in node.attribute},
        ]
        for node in nodes
    ]


def _attribute(attribute: AttributeProto) -> list[Any]:
    """[type, value] in plain JSON; floats by their exact hexadecimal spelling, which knows infinity as well."""
    value = onnx.helper.get_attribute_value(attribute)
    many = isinstance(value, list | tuple) or hasattr(value, "extend")
    values = [_plain(one) for one in value] if many else _plain(value)
    return [int(attribute.type), values]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, onnx.TensorProto):
        return [value.data_type, list(value.dims), _digest(value)]
    if isinstance(value, onnx.GraphProto):
        return _graph(value)
    if isinstance(value, int | str):
        return value
    return sha256_bytes(value.SerializeToString(deterministic=True))  # types and sparse tensors: rare, whole


def _subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.g,) if attribute.HasField("g") else ()
            yield from attribute.graphs


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    yield from graph.node
    for inner in _subgraphs(graph):
        yield from _all_nodes(inner)


def _all_initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for inner in _subgraphs(graph):
        yield from _all_initializers(inner)
