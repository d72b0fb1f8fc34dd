"""The few operators that INT8 hurts most stay in FP32, when that buys the accuracy the spec asks for."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.candidates import calibrate_release
from calibration.emit import Quantized, quantized_weights, weighted_operators
from calibration.mixed import answers, find_mixed, least_cosine, noise, target_of
from calibration.ranges import collect, find_range
from sluice.signature import TensorSpec
from sluice.spec_types import SIGNED, UNSIGNED
from tests.build_images.support import publish_onnx, released, write_checkpoint

X = TensorSpec(name="x", dtype="float32", dims=("batch", "rows", 8))
# Of one channel of `h1`, which the next weight takes back: nobody sees it but the one scale of that tensor.
OUTLIER = 30.0
HURT = "m1"
BAR = 0.998


def write_model(path):
    """Four MatMuls in a row; the input of the second has a channel 30 times as large as the others."""
    rng = np.random.default_rng(5)
    weights = [rng.normal(size=(8, 8)).astype(np.float32) / 3 for _ in range(4)]
    weights[0][:, 0] *= OUTLIER
    weights[1][0, :] /= OUTLIER
    nodes = [
        helper.make_node(
            "MatMul", ["x" if i == 0 else f"h{i}", f"w{i}"], ["y" if i == 3 else f"h{i + 1}"], f"m{i}"
        )
        for i in range(4)
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "rows", 8]) for n in ("x", "y")]
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def samples_of(n):
    rng = np.random.default_rng(2)
    return [{"x": rng.normal(size=(rng.integers(2, 7), 8)).astype(np.float32)} for _ in range(n)]


@pytest.fixture
def quantized(tmp_path):
    """`quantized(form)` of that model."""
    path = write_model(tmp_path / "model.onnx")
    model, samples = onnx.load(path), samples_of(16)
    operators = weighted_operators(model)
    histograms = collect(model, [one.activation for one in operators], samples, [X], tmp_path)
    ranges = {name: find_range(histogram, "minmax") for name, histogram in histograms.items()}

    def make(form):
        weights = quantized_weights(model, operators)
        return Quantized(model=model, operators=operators, weights=weights, ranges=ranges, form=form)

    return make


@pytest.mark.parametrize("form", [UNSIGNED, SIGNED])
def test_the_operator_behind_an_outlier_is_the_noisiest_by_far(quantized, form):
    noises = noise(quantized(form), samples_of(8), [X])
    assert set(noises) == {"m0", "m1", "m2", "m3"}
    others = max(value for node, value in noises.items() if node != HURT)
    assert noises[HURT] > 20 * others


def test_leaving_it_in_fp32_reaches_the_target_and_leaving_another_does_not(quantized, tmp_path):
    whole, samples = quantized(SIGNED), samples_of(8)
    expected = answers(tmp_path / "model.onnx", samples, [X])

    def judge(path):
        return least_cosine(expected, path, samples, [X])

    found = find_mixed(whole, [HURT, "m0", "m2", "m3"], judge, 0.999)
    assert found.left == (HURT,)
    assert {one.node for one in found.operators} == {"m0", "m2", "m3"}
    assert found.cosine >= 0.999
    wrong = find_mixed(whole, ["m3", "m2", "m0", HURT], judge, 0.999)
    assert wrong is None


def test_a_target_that_no_step_reaches_gives_no_candidate(quantized):
    assert find_mixed(quantized(SIGNED), ["m0", "m1", "m2", "m3"], lambda _: 0.5, 0.9) is None


def test_answers_that_are_not_finite_are_the_worst(tmp_path):
    path = write_model(tmp_path / "model.onnx")
    nan = [{"x": np.full((2, 8), np.nan, np.float32)}]
    expected = [[np.ones((1, 2, 8), np.float32)]]
    assert least_cosine(expected, path, nan, [X]) == -1.0


def calibrated(tmp_path, bar):
    checkpoint = write_checkpoint(tmp_path / "ckpt", "def load(folder): ...")
    accuracy = {"int8": {"cosine": bar}}
    store, release = released(tmp_path / "store", checkpoint, accuracy=accuracy)
    publish_onnx(store, release, write_model(tmp_path / "model.onnx"))
    methods = calibrate_release(store, release)
    folder = store.get("calibration", release.keys.calibration).path
    return methods, json.loads((folder / "report.json").read_text()), folder


def test_calibration_adds_one_mixed_candidate_where_the_best_method_misses_the_bar(tmp_path):
    methods, report, folder = calibrated(tmp_path, BAR)
    best = max(("percentile", "minmax"), key=lambda name: report["methods"][name]["cosine"])
    assert methods == ["percentile", "minmax", f"{best}-mixed"]
    mixed = report["methods"][f"{best}-mixed"]
    assert list(mixed["in_fp32"]) == [HURT]
    assert mixed["cosine"] >= target_of(BAR) > report["methods"][best]["cosine"]
    nodes = onnx.load(folder / f"int8_{best}-mixed.onnx").graph.node
    reads = {node.name: node.input[0] for node in nodes if node.op_type == "MatMul"}
    assert reads == {"m0": "x_restored", "m1": "h1", "m2": "h2_restored", "m3": "h3_restored"}


def test_it_adds_none_where_the_whole_is_good_enough(tmp_path):
    methods, report, _ = calibrated(tmp_path, 0.5)
    assert methods == ["percentile", "minmax"]
    assert all(one["cosine"] > target_of(0.5) for one in report["methods"].values())
