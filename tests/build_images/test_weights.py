"""Weights that plans share are found by every byte of them, wherever the ONNX keeps them."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from artifacts.store import Store
from build_images.engine_builder.backend import Candidate
from build_images.engine_builder.weights import FILE, KIND, keep_weights


def write(folder, seed, beside):
    """One graph, and weights of the seed; beside: in a file of this name, None: within."""
    folder.mkdir()
    weight = np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in ("x", "y")]
    nodes, kept = [helper.make_node("MatMul", ["x", "w"], ["y"])], [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(
        model,
        str(folder / "fp16.onnx"),
        save_as_external_data=beside is not None,
        location=beside,
        size_threshold=0,
    )
    return Candidate(name="fp16", precision="fp16", source=folder / "fp16.onnx"), weight


def request(store):
    return SimpleNamespace(store=store, strips_weights=True)


@pytest.mark.parametrize("beside", [None, "fp16.onnx.data", "elsewhere.bin"])
def test_two_models_of_one_graph_keep_their_own_weights(tmp_path, beside):
    store = Store(tmp_path / "store")
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    kept = {}
    for seed in (1, 2):
        candidate, weight = write(tmp_path / str(seed), seed, beside)
        kept[seed] = keep_weights(request(store), candidate)
        file = store.get(KIND, kept[seed]).path / FILE
        (got,) = onnxruntime.InferenceSession(str(file)).run(None, {"x": x})
        assert np.allclose(got, x @ weight, atol=1e-5)
    again, _ = write(tmp_path / "again", 1, beside)
    assert kept[1] == keep_weights(request(store), again) != kept[2]
