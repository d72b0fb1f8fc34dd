"""The FP16 ONNX: what it must keep in FP32 it keeps, and its answers stay near."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from build_images.engine_builder.precision import FP16_MAX, MASK, write_fp16
from sluice.errors import FatalError

RNG = np.random.default_rng(5)


def model(path, nodes, constants, *, opset=17):
    """A graph from x [batch, rows, 8] to y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "rows", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(made), path)
    return path


def converted(tmp_path, nodes, constants):
    write_fp16(model(tmp_path / "a.onnx", nodes, constants), tmp_path / "b.onnx")
    return onnx.load(tmp_path / "b.onnx")


def run(path, x):
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]


WEIGHT = {"w": RNG.normal(size=(8, 8)).astype(np.float32)}
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["h"], "product")


def test_weights_are_fp16_inputs_and_outputs_fp32_and_every_axis_stays_dynamic(tmp_path):
    made = converted(tmp_path, [PRODUCT, helper.make_node("Relu", ["h"], ["y"], "relu")], WEIGHT)
    assert {tensor.data_type for tensor in made.graph.initializer} == {TensorProto.FLOAT16}
    ends = (made.graph.input[0].type.tensor_type, made.graph.output[0].type.tensor_type)
    assert [end.elem_type for end in ends] == [TensorProto.FLOAT] * 2
    assert [dim.dim_param for dim in ends[0].shape.dim][:2] == ["batch", "rows"]
    for shape in ((1, 2, 8), (5, 3, 8)):
        x = RNG.normal(size=shape).astype(np.float32)
        assert run(tmp_path / "b.onnx", x) == pytest.approx(run(tmp_path / "a.onnx", x), abs=0.05)


def test_a_sum_of_squares_that_would_overflow_stays_fp32(tmp_path):
    """300 squared passes 65 504 already; the plain conversion answers infinity."""
    nodes = [PRODUCT, helper.make_node("ReduceL2", ["h"], ["y"], "norm", axes=[2], keepdims=1)]
    converted(tmp_path, nodes, {"w": np.eye(8, dtype=np.float32)})
    x = np.full((1, 2, 8), 300.0, np.float32)
    assert run(tmp_path / "b.onnx", x) == pytest.approx(run(tmp_path / "a.onnx", x), rel=1e-3)


@pytest.mark.parametrize("as_node", [True, False], ids=["constant-node", "initializer"])
def test_a_guard_against_division_by_zero_keeps_its_value(tmp_path, as_node):
    guard = np.float32(1e-12)
    nodes = [PRODUCT, helper.make_node("Max", ["h", "guard"], ["y"], "guarded")]
    constants = dict(WEIGHT)
    if as_node:
        nodes.insert(
            0, helper.make_node("Constant", [], ["guard"], "c", value=numpy_helper.from_array(guard))
        )
    else:
        constants["guard"] = guard
    converted(tmp_path, nodes, constants)
    answer = run(tmp_path / "b.onnx", np.zeros((1, 2, 8), np.float32))
    assert (answer <= 1e-7).all()
    made = onnx.load(tmp_path / "b.onnx")
    kept = next(tensor for tensor in made.graph.initializer if tensor.name == "guard")
    assert numpy_helper.to_array(kept) == guard


def test_a_mask_of_the_lowest_fp32_stays_finite_when_a_score_is_added(tmp_path):
    """-65 504 and a score of -50 is minus infinity in FP16, and a row of those is NaN after Softmax."""
    nodes = [
        PRODUCT,
        helper.make_node("Add", ["h", "mask"], ["masked"], "mask_it"),
        helper.make_node("Softmax", ["masked"], ["y"], "softmax", axis=-1),
    ]
    lowest = np.full(8, np.finfo(np.float32).min, np.float32)
    made = converted(tmp_path, nodes, {"w": np.eye(8, dtype=np.float32), "mask": lowest})
    mask = next(tensor for tensor in made.graph.initializer if tensor.name == "mask")
    assert (numpy_helper.to_array(mask) == -MASK).all()
    assert np.isfinite(run(tmp_path / "b.onnx", np.full((1, 2, 8), -50.0, np.float32))).all()


def test_a_constant_that_is_too_large_for_fp16_keeps_its_reader_in_fp32(tmp_path):
    nodes = [PRODUCT, helper.make_node("Div", ["h", "large"], ["y"], "shrink")]
    made = converted(tmp_path, nodes, {**WEIGHT, "large": np.float32(2 * FP16_MAX)})
    large = next(tensor for tensor in made.graph.initializer if tensor.name == "large")
    assert (large.data_type, numpy_helper.to_array(large)) == (TensorProto.FLOAT, np.float32(2 * FP16_MAX))


def test_nodes_without_names_are_not_kept_back_together(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Div", ["h", "large"], ["y"]),
    ]
    made = converted(tmp_path, nodes, {**WEIGHT, "large": np.float32(1e6)})
    weight = next(tensor for tensor in made.graph.initializer if tensor.name == "w")
    assert weight.data_type == TensorProto.FLOAT16


def test_a_model_without_a_weight_for_fp16_is_refused(tmp_path):
    with pytest.raises(FatalError, match="no weight that can be FP16; take fp16 out of precisions"):
        converted(tmp_path, [helper.make_node("Relu", ["x"], ["y"], "relu")], {})


def test_what_is_no_onnx_is_named(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(FatalError, match=r"model\.onnx is no ONNX: .*; export the model again"):
        write_fp16(tmp_path / "model.onnx", tmp_path / "fp16.onnx")
