"""The scale of attention scores moves to the queries, and nothing else changes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from build_images.engine_builder.attention import scale_queries

RNG = np.random.default_rng(11)
QUARTER = np.float32(0.25)


def attention(*, scale, mask=None, readers=(), factor=QUARTER):
    """softmax(Q K^T scaled, masked) V over q, k, v [batch, 3, 4]. scale: (operator, its inputs)."""
    nodes = [
        helper.make_node("Identity", ["q"], ["queries"], "queries"),
        helper.make_node("Transpose", ["k"], ["keys"], "keys", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["queries", "keys"], ["raw"], "product"),
        helper.make_node("Constant", [], ["factor"], "c", value=numpy_helper.from_array(np.asarray(factor))),
        helper.make_node(scale[0], scale[1], ["scores"], "scale"),
        *(mask or [helper.make_node("Identity", ["scores"], ["masked"], "unmasked")]),
        helper.make_node("Softmax", ["masked"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["y"], "attended"),
        *readers,
    ]
    if mask is None:
        nodes[-2 - len(readers)].input[0] = "scores"
    shaped = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 4]) for name in "qkv"]
    bias = helper.make_tensor_value_info("bias", TensorProto.FLOAT, ["batch", 1, 3])
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 4])]
    outputs += [
        helper.make_tensor_value_info(one.output[0], TensorProto.FLOAT, ["batch", 3, 3]) for one in readers
    ]
    graph = helper.make_graph(nodes, "g", [*shaped, bias], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answers(model):
    onnx.checker.check_model(model)
    feed = {name: RNG.normal(size=(2, 3, 4)).astype(np.float32) for name in "qkv"}
    feed["bias"] = np.array([[[0, 0, -1e9]], [[0, 0, 0]]], np.float32)
    return feed, onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)


def scaled_first(model):
    names = [node.name for node in model.graph.node]
    return names.index("scale") < names.index("product")


ADDED = [helper.make_node("Add", ["scores", "bias"], ["masked"], "mask")]
CHOSEN = [
    helper.make_node("Constant", [], ["zero"], "z", value=numpy_helper.from_array(np.zeros(1, np.float32))),
    helper.make_node("Less", ["bias", "zero"], ["hidden"], "less"),
    helper.make_node("Where", ["hidden", "bias", "scores"], ["masked"], "mask"),
]


@pytest.mark.parametrize("mask", [None, ADDED, CHOSEN], ids=["unmasked", "added", "chosen"])
@pytest.mark.parametrize(
    "scale", [("Mul", ["raw", "factor"]), ("Mul", ["factor", "raw"]), ("Div", ["raw", "factor"])]
)
def test_queries_are_scaled_and_the_answers_stay(scale, mask):
    model = attention(scale=scale, mask=mask)
    feed, wanted = answers(model)
    assert scale_queries(model.graph)
    assert scaled_first(model)
    onnx.checker.check_model(model)
    got = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    assert got[0] == pytest.approx(wanted[0], rel=1e-5)
    assert not scale_queries(model.graph), "twice"


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": ("Div", ["factor", "raw"])},
        {"scale": ("Mul", ["raw", "bias"])},
        {"scale": ("Mul", ["raw", "factor"]), "factor": np.ones(3, np.float32)},
        {"scale": ("Add", ["raw", "factor"])},
        {
            "scale": ("Mul", ["raw", "factor"]),
            "readers": [helper.make_node("Neg", ["raw"], ["also"], "reader")],
        },
    ],
    ids=["number-by-scores", "no-number", "three-numbers", "sum", "raw-scores-are-read"],
)
def test_what_is_no_scale_of_scores_alone_is_left(changes):
    model = attention(**changes)
    before = model.SerializeToString()
    assert not scale_queries(model.graph)
    assert model.SerializeToString() == before


def test_raw_scores_that_a_branch_reads_are_left():
    model = attention(scale=("Mul", ["raw", "factor"]))
    value = helper.make_tensor_value_info("told", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["raw"], ["told"])], "b", [], [value])
    yes = numpy_helper.from_array(np.array(True), "yes")
    model.graph.initializer.append(yes)
    model.graph.node.append(helper.make_node("If", ["yes"], ["also"], then_branch=branch, else_branch=branch))
    before = model.SerializeToString()
    assert not scale_queries(model.graph)
    assert model.SerializeToString() == before
