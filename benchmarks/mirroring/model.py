"""A model that takes what MiniLM takes and is quick: what is measured is the gateway, not the engine."""

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.runtime.backend import OnnxRuntimeBackend
from serving.runtime.device import machine_arch
from sluice.manifest import EngineManifest
from sluice.spec import ReleaseSpec

VOCABULARY: Final = 1000
WIDTH: Final = 384


def write_engine(folder: Path, spec: ReleaseSpec) -> Path:
    """A masked mean of a table's rows, through one dense layer, as an engine folder for `spec`'s signature."""
    rng = np.random.default_rng(5)
    constants = {
        "table": rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32),
        "dense": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32),
        "axis": np.array([1], np.int64),
        "last": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["states"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["states", "column"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "axis"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "dense"], ["embedding"]),
    ]
    tokens, floats = TensorProto.INT64, TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "quick",
        [helper.make_tensor_value_info(one.name, tokens, list(one.dims)) for one in spec.model.inputs],
        [helper.make_tensor_value_info(one.name, floats, list(one.dims)) for one in spec.model.outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True)
    onnx.save(model, str(folder / "engine.onnx"))
    (folder / "manifest.json").write_text(_manifest(folder, spec).to_json())
    return folder


def samples(count: int, spec: ReleaseSpec) -> list[dict[str, Any]]:
    """Seeded token rows whose lengths cover the spec's, plain values as a samples file has them."""
    rng, axis = np.random.default_rng(6), spec.model.axes["sequence"]
    made = []
    for _ in range(count):
        length = int(rng.integers(axis.min, axis.max, endpoint=True))
        made.append(
            {"input_ids": rng.integers(0, VOCABULARY, length).tolist(), "attention_mask": [1] * length}
        )
    return made


def _manifest(folder: Path, spec: ReleaseSpec) -> EngineManifest:
    model = spec.to_dict()["model"]
    document = {
        "schema": 1,
        "service": spec.service,
        "arch": machine_arch(),
        "backend": "onnxruntime",
        "backend_version": OnnxRuntimeBackend.version(),
        "precision": "fp32",
        "onnx_sha256": "0" * 64,
        "engine_file": "engine.onnx",
        "engine_sha256": hashlib.sha256((folder / "engine.onnx").read_bytes()).hexdigest(),
        "calibration_sha256": None,
        **{name: model[name] for name in ("inputs", "outputs", "axes")},
        "accuracy": {},
        "performance": {},
        "device": {},
    }
    return EngineManifest.from_json(document)
