"""Graphs that are not as tidy as an exporter's: weights that are read twice, nodes without names."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.emit import Quantized, node_names, quantized_weights, weighted_operators
from calibration.mixed import noise
from calibration.ranges import collect, find_range
from sluice.signature import TensorSpec
from sluice.spec_types import SIGNED, UNSIGNED
from tests.calibration.test_calibration import model_of

X = TensorSpec(name="x", dtype="float32", dims=("batch", 8))
FORMS = (UNSIGNED, SIGNED)


def tied_model(*, size=8):
    """One weight, read along columns, along rows, and along columns again; its columns and rows differ in size."""
    rng = np.random.default_rng(21)
    reach = np.geomspace(0.001, 100, size)
    weight = (rng.normal(size=(size, size)) * reach[:, None] * reach[None, ::-1]).astype(np.float32)
    node = helper.make_node
    nodes = [
        node("Gemm", ["x", "w"], ["a"], "along"),
        node("Gemm", ["x", "w"], ["b"], "across", transB=1),
        node("MatMul", ["x", "w"], ["c"], "again"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name in "xabc"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples_of(n, size=8):
    rng = np.random.default_rng(5)
    return [{"x": rng.normal(size=(size,)).astype(np.float32)} for _ in range(n)]


def quantized(model, folder, form, samples):
    operators = weighted_operators(model)
    tensors = list(dict.fromkeys(one.activation for one in operators))
    spec = TensorSpec(name="x", dtype="float32", dims=("batch", *["rows"] * (samples[0]["x"].ndim - 1), 8))
    histograms = collect(model, tensors, samples, [spec], folder)
    ranges = {name: find_range(one, "minmax") for name, one in histograms.items()}
    weights = quantized_weights(model, operators)
    return Quantized(model=model, operators=operators, weights=weights, ranges=ranges, form=form)


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_that_is_read_along_two_axes_has_scales_for_each(tmp_path, form):
    """They once shared the last one's scales, which the first applied along its own axis."""
    model, samples = tied_model(), samples_of(50)
    made = quantized(model, tmp_path, form, samples)
    assert [(one.node, one.axis, one.reading) for one in made.operators] == [
        ("along", 1, "w_axis1"),
        ("across", 0, "w_axis0"),
        ("again", 1, "w_axis1"),
    ]
    made.write(tmp_path / "int8.onnx")
    written = onnx.load(tmp_path / "int8.onnx")
    assert sum(tensor.name.endswith("_int8") for tensor in written.graph.initializer) == 2
    x = np.stack([sample["x"] for sample in samples])
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    got = onnxruntime.InferenceSession(tmp_path / "int8.onnx").run(None, {"x": x})
    for one, other in zip(want, got, strict=True):
        for column in range(8):  # of very different sizes: no large one hides a small one
            a, b = one[:, column], other[:, column]
            assert (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) > 0.999


def test_a_weight_that_is_not_square_may_be_read_along_both_axes_too(tmp_path):
    """The scales of one reading did not even have the length of the other's axis."""
    rng = np.random.default_rng(3)
    weight = numpy_helper.from_array(rng.normal(size=(8, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "down"),
        helper.make_node("Gemm", ["h", "w"], ["y"], "up", transB=1),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    quantized(model, tmp_path, UNSIGNED, samples_of(20)).write(tmp_path / "int8.onnx")
    x = np.stack([sample["x"] for sample in samples_of(20)])
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    got = onnxruntime.InferenceSession(tmp_path / "int8.onnx").run(None, {"x": x})[0]
    assert (want * got).sum() / np.linalg.norm(want) / np.linalg.norm(got) > 0.999


def test_a_weight_with_one_reading_keeps_its_name_and_the_file_its_bytes(tmp_path):
    samples = [{"x": np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)}]
    quantized(model_of(), tmp_path, UNSIGNED, samples).write(tmp_path / "int8.onnx")
    names = {tensor.name for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert {"w0_int8", "w1_int8", "x_scale", "r_zero"} <= names


def renamed(names):
    model = model_of()
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    return model


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        pytest.param(["", "", ""], ("MatMul_0", "Relu_1", "MatMul_2"), id="none-has-one"),
        pytest.param(["", "MatMul_0", "x"], ("MatMul_0_", "MatMul_0", "x"), id="a-made-name-is-taken"),
        pytest.param(["up", "relu", "down"], ("up", "relu", "down"), id="all-have-their-own"),
    ],
)
def test_nodes_without_a_name_get_one_and_are_quantized(tmp_path, names, wanted):
    """Without names every node was taken for the last operator."""
    model = renamed(names)
    assert node_names(model) == wanted
    rng = np.random.default_rng(1)
    samples = [{"x": rng.normal(size=(3, 8)).astype(np.float32)} for _ in range(20)]
    made, tidy = (quantized(one, tmp_path, UNSIGNED, samples) for one in (model, model_of()))
    paths = tmp_path / "untidy.onnx", tmp_path / "tidy.onnx"
    for one, path in zip((made, tidy), paths, strict=True):
        one.write(path)
    x = np.stack([sample["x"] for sample in samples])
    got, want = (onnxruntime.InferenceSession(path).run(None, {"x": x})[0] for path in paths)
    np.testing.assert_array_equal(got, want)
    spec = TensorSpec(name="x", dtype="float32", dims=("batch", "rows", 8))
    noises, same = (noise(one, samples[:4], [spec]) for one in (made, tidy))
    assert list(noises) == [wanted[0], wanted[2]]
    assert list(noises.values()) == list(same.values())
