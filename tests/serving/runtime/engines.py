"""Tiny engines with known answers, in folders as the engine builder leaves them."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.runtime.backend import OnnxRuntimeBackend
from serving.runtime.device import machine_arch
from sluice.manifest import EngineManifest

VOCABULARY, WIDTH = 128, 8
NAN_TOKEN = 7  # its row of the table is NaN: a model whose answer is no number for some inputs
TABLE = np.random.default_rng(3).normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
TABLE[NAN_TOKEN] = np.nan
AXES = {
    "batch": {"min": 1, "opt": 4, "max": 16, "buckets": [1, 4, 16]},
    "sequence": {"min": 4, "opt": 32, "max": 128, "buckets": [16, 32, 64, 128]},
}
TOKENS = {"name": "input_ids", "dtype": "int64", "dims": ["batch", "sequence"]}
MASK = {"name": "attention_mask", "dtype": "int64", "dims": ["batch", "sequence"]}
EMBEDDING = {"name": "embedding", "dtype": "float32", "dims": ["batch", WIDTH]}
STATES = {"name": "states", "dtype": "float32", "dims": ["batch", "sequence", WIDTH]}


def expected(ids: list[int], mask: list[int] | None = None) -> np.ndarray:
    """What the embedding model answers for one row: the mean of the table's rows under the mask."""
    weights = np.array(mask or [1] * len(ids), dtype=np.float32)[:, None]
    return (TABLE[ids] * weights).sum(axis=0) / weights.sum()


def embedding_engine(folder: Path, *, turns: int = 0, **changes: object) -> Path:
    """Masked mean of a table's rows, and the rows themselves. turns: matrix products of 512 x 512 that are
    computed per run for nothing but their time; `changes` replace fields of the manifest."""
    constants = {"table": TABLE, "axis": np.array([1], np.int64), "last": np.array([2], np.int64)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["states"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["states", "column"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "axis"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], ["plain" if turns else "embedding"]),
    ]
    if turns:
        slow_nodes, slow_constants = _slowly(turns)
        nodes, constants = nodes + slow_nodes, constants | slow_constants
    return _write(folder, nodes, constants, [TOKENS, MASK], [EMBEDDING, STATES], AXES, changes)


def unmasked_engine(folder: Path) -> Path:
    """Adds one to every number of a row and has no mask: a padded row would be another answer."""
    nodes = [
        helper.make_node("Add", ["values", "one"], ["more"]),
        helper.make_node("ReduceSum", ["more", "axis"], ["sum"], keepdims=0),
    ]
    constants = {"one": np.array(1, np.float32), "axis": np.array([1], np.int64)}
    inputs = [{"name": "values", "dtype": "float32", "dims": ["batch", "length"]}]
    outputs = [{"name": "sum", "dtype": "float32", "dims": ["batch"]}]
    axes = {
        "batch": {"min": 1, "opt": 1, "max": 8, "buckets": [1, 8]},
        "length": {"min": 2, "opt": 2, "max": 6, "buckets": [2, 6]},
    }
    return _write(folder, nodes, constants, inputs, outputs, axes, {})


def broken_engine(folder: Path) -> Path:
    """Adds a row of two numbers: a length of 2 is answered, every other one is an error of the engine."""
    nodes = [helper.make_node("Add", ["values", "row"], ["sum"])]
    inputs = [{"name": "values", "dtype": "float32", "dims": ["batch", "length"]}]
    outputs = [{"name": "sum", "dtype": "float32", "dims": ["batch", "length"]}]
    axes = {
        "batch": {"min": 1, "opt": 1, "max": 2, "buckets": [1, 2]},
        "length": {"min": 2, "opt": 2, "max": 6, "buckets": [2, 6]},
    }
    return _write(folder, nodes, {"row": np.ones((1, 2), np.float32)}, inputs, outputs, axes, {})


def _slowly(turns: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """embedding = plain + 0 x (a chain of matrix products that hangs on the request)."""
    square = np.eye(512, dtype=np.float32)
    nodes = [
        helper.make_node("ReduceSum", ["weights"], ["seed"], keepdims=0),
        helper.make_node("Mul", ["square", "seed"], ["product0"]),
        *(
            helper.make_node("MatMul", [f"product{turn}", "square"], [f"product{turn + 1}"])
            for turn in range(turns)
        ),
        helper.make_node("ReduceMax", [f"product{turns}"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "zero"], ["nothing"]),
        helper.make_node("Add", ["plain", "nothing"], ["embedding"]),
    ]
    return nodes, {"square": square, "zero": np.array(0, np.float32)}


def _write(
    folder: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: list[dict],
    outputs: list[dict],
    axes: dict,
    changes: dict,
) -> Path:
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [_value(tensor) for tensor in inputs],
        [_value(tensor) for tensor in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "engine.onnx")
    document = {
        "schema": 1,
        "service": "tiny",
        "arch": machine_arch(),
        "backend": "onnxruntime",
        "backend_version": OnnxRuntimeBackend.version(),
        "precision": "fp32",
        "onnx_sha256": "0" * 64,
        "engine_file": "engine.onnx",
        "engine_sha256": hashlib.sha256((folder / "engine.onnx").read_bytes()).hexdigest(),
        "calibration_sha256": None,
        "inputs": inputs,
        "outputs": outputs,
        "axes": axes,
        "accuracy": {},
        "performance": {},
        "device": {},
    } | changes
    (folder / "manifest.json").write_text(EngineManifest.from_json(document).to_json())
    return folder


def _value(tensor: dict) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor["dtype"]))
    return helper.make_tensor_value_info(tensor["name"], kind, tensor["dims"])
