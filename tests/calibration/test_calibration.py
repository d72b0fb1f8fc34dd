"""Ranges from real samples, and INT8 candidates that stay near FP32."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.candidates import calibrate_release
from calibration.emit import activation_scale, signed_scale, weighted_operators
from calibration.passes import CalibrationError
from calibration.ranges import BINS, PERCENTILES, Histogram, collect, find_range, find_ranges, saturated
from calibration.samples import dataset_sha256
from sluice.errors import FatalError
from sluice.model_inputs import TooFewSamplesError
from sluice.signature import TensorSpec
from sluice.spec_types import METHODS
from tests.build_images.support import publish_onnx, released, write_checkpoint

X = TensorSpec(name="x", dtype="float32", dims=("batch", "rows", 8))


def model_of(*, conv=False):
    """MatMul, Relu, Gemm-free MLP over the last axis; with `conv` one convolution."""
    rng = np.random.default_rng(11)
    weights = [rng.normal(size=(8, 32)), rng.normal(size=(32, 8))]
    initializers = [numpy_helper.from_array(w.astype(np.float32), f"w{i}") for i, w in enumerate(weights)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], "up"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w1"], ["y"], "down"),
    ]
    shape = ["batch", "rows", 8]
    if conv:
        kernel = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
        initializers = [numpy_helper.from_array(kernel, "k")]
        nodes, shape = [helper.make_node("Conv", ["x", "k"], ["y"], "conv")], ["batch", 3, 8, 8]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples_of(n, seed=1):
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_t(3, size=(rng.integers(2, 7), 8)).astype(np.float32)} for _ in range(n)]


def histogram_of(values):
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return Histogram(low=low, high=high, counts=np.histogram(values, BINS, (low, high))[0])


def test_ranges_do_not_depend_on_the_order_of_the_samples(tmp_path):
    model, samples = model_of(), samples_of(30)
    one, other = (collect(model, ["x", "r"], order, [X], tmp_path) for order in (samples, samples[::-1]))
    for name in ("x", "r"):
        assert (one[name].low, one[name].high) == (other[name].low, other[name].high)
        assert (one[name].counts == other[name].counts).all()
        for method in METHODS:
            assert find_range(one[name], method) == find_range(other[name], method)


def test_the_histogram_is_that_of_the_values(tmp_path):
    samples = samples_of(30)
    got = collect(model_of(), ["x"], samples, [X], tmp_path)["x"]
    values = np.concatenate([sample["x"].ravel() for sample in samples])
    assert (got.low, got.high) == (values.min(), values.max())
    assert got.counts.sum() == values.size
    assert abs(np.cumsum(got.counts) - np.cumsum(histogram_of(values).counts)).max() <= 2  # values on an edge


def test_each_percentile_cuts_its_share_and_minmax_cuts_nothing():
    values = np.random.default_rng(2).standard_t(3, size=2_000_000)
    histogram = histogram_of(values)
    assert find_range(histogram, "minmax") == (values.min(), values.max())
    width = (histogram.high - histogram.low) / BINS
    for name, percent in PERCENTILES.items():
        low, high = find_range(histogram, name)
        share = 1 - percent / 100
        assert low == pytest.approx(np.quantile(values, share / 2), abs=2 * width)
        assert high == pytest.approx(np.quantile(values, 1 - share / 2), abs=2 * width)
        assert saturated(histogram, low, high) <= 1.1 * share


def test_the_percentile_without_a_number_is_what_specs_have_always_meant_by_it():
    assert PERCENTILES == {"percentile": 99.999, "percentile_99_99": 99.99, "percentile_99_9": 99.9}


def test_one_pair_of_passes_gives_the_ranges_of_every_method_of_a_spec():
    histogram = histogram_of(np.random.default_rng(2).standard_t(3, size=2_000_000))
    found = find_ranges({"x": histogram}, METHODS)
    assert {name: of_tensor["x"] for name, of_tensor in found.items()} == {
        name: find_range(histogram, name) for name in METHODS
    }
    assert len({of_tensor["x"] for of_tensor in found.values()}) == len(METHODS)


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_searched_ranges_cut_a_lone_outlier_but_not_an_even_tensor(method):
    """With as few bins as levels an entropy search has one candidate, the maximum; ours must move."""
    rng = np.random.default_rng(4)
    heavy = histogram_of(np.append(rng.normal(size=2_000_000), 60.0))
    assert find_range(heavy, method)[1] < 30.0
    even = histogram_of(rng.uniform(0.0, 1.0, size=200_000))
    assert find_range(even, method)[1] > 0.9


def test_every_range_contains_zero_and_zero_is_exact():
    for low, high in ((0.0, 5.0), (-3.0, 0.0), (-1.0, 2.0), (0.0, 0.0)):
        scale, zero = activation_scale(low, high)
        assert scale > 0
        assert 0 <= int(zero) <= 255
    assert find_range(histogram_of(np.linspace(3.0, 4.0, 100)), "minmax")[0] == 0.0
    assert find_range(Histogram(low=0.0, high=0.0, counts=np.zeros(BINS, int)), "entropy") == (0.0, 0.0)


def test_unknown_methods_name_those_there_are():
    with pytest.raises(CalibrationError, match=f"choose from {', '.join(METHODS)}"):
        find_range(histogram_of(np.ones(3)), "magic")


def test_no_samples_and_values_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(CalibrationError, match="no samples"):
        collect(model_of(), ["x"], [], [X], tmp_path)
    with pytest.raises(CalibrationError, match="activation x is not finite"):
        collect(model_of(), ["x"], [{"x": np.full((2, 8), np.nan, np.float32)}], [X], tmp_path)


def test_a_model_without_weights_to_quantize_is_refused():
    model = model_of()
    del model.graph.initializer[:]
    with pytest.raises(FatalError, match="take int8 out of precisions"):
        weighted_operators(model)


@pytest.fixture
def release(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt", "")
    store, release = released(
        tmp_path / "store", checkpoint, calibration={"samples": 20, "methods": list(METHODS)}
    )
    onnx.save(model_of(), tmp_path / "model.onnx")
    publish_onnx(store, release, tmp_path / "model.onnx")
    return store, release


def test_every_method_gives_a_candidate_of_uint8_and_int8_near_fp32(release, tmp_path):
    store, release = release
    assert calibrate_release(store, release) == list(METHODS)
    artifact = store.get("calibration", release.keys.calibration)
    report = json.loads((artifact.path / "report.json").read_text())
    assert report["samples"] == 20
    x = np.random.default_rng(9).normal(size=(20, 6, 8)).astype(np.float32)
    want = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"x": x})[0]
    for method in METHODS:
        path = artifact.path / report["methods"][method]["files"]["unsigned"]
        assert report["methods"][method]["operators"] == 2
        initializers = onnx.load(path).graph.initializer
        types = {tensor.name: tensor.data_type for tensor in initializers}
        assert types["x_zero"] == TensorProto.UINT8
        assert types["w0_int8"] == TensorProto.INT8
        assert "w0" not in types  # the FP32 weight is gone
        got = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]
        cosine = (got * want).sum() / (np.linalg.norm(got) * np.linalg.norm(want))
        assert 0.98 < cosine < 1.0  # near, and not the FP32 model under another name


@pytest.mark.parametrize(
    ("backends", "names"),
    [
        pytest.param(("onnxruntime",), {"int8_"}, id="cpus-alone-need-no-signed-form"),
        pytest.param(("tensorrt_rtx",), {"int8s_"}, id="gpus-alone-need-no-unsigned-form"),
        pytest.param(("onnxruntime", "tensorrt_rtx"), {"int8_", "int8s_"}, id="both"),
    ],
)
def test_a_form_is_written_where_a_target_needs_it_and_the_signed_one_has_no_zero_point(
    tmp_path, backends, names
):
    archs = {"onnxruntime": "cpu-avx2", "tensorrt_rtx": "sm_80"}
    targets = [
        {
            "arch": archs[name],
            "backend": name,
            "selector": {"a": "b"},
            "image": "x",
            "share": 1 / len(backends),
        }
        for name in backends
    ]
    store, release = released(
        tmp_path / "store",
        write_checkpoint(tmp_path / "ckpt", ""),
        calibration={"samples": 20, "methods": ["minmax"]},
        targets=targets,
    )
    onnx.save(model_of(), tmp_path / "model.onnx")
    publish_onnx(store, release, tmp_path / "model.onnx")
    calibrate_release(store, release)
    folder = store.get("calibration", release.keys.calibration).path
    assert {path.name for path in folder.glob("*.onnx")} == {f"{name}minmax.onnx" for name in names}
    x = np.random.default_rng(9).normal(size=(20, 6, 8)).astype(np.float32)
    want = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"x": x})[0]
    for path in folder.glob("int8s_*.onnx"):
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
        zeros = [value for name, value in values.items() if name.endswith("_zero")]
        assert {value.dtype.name for value in zeros} == {"int8"}
        assert not any(value.any() for value in zeros)
        got = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]
        assert 0.98 < (got * want).sum() / (np.linalg.norm(got) * np.linalg.norm(want)) < 1.0


@pytest.mark.parametrize("low_high", [(0.0, 5.0), (-3.0, 0.0), (-1.0, 2.0), (0.0, 0.0)])
def test_a_signed_range_reaches_its_longer_end(low_high):
    scale, zero = signed_scale(*low_high)
    assert int(zero) == 0
    assert float(scale) * 127 == pytest.approx(max(map(abs, low_high)), rel=1e-6, abs=1e-9)
    assert scale > 0


def test_a_convolution_is_quantized_by_output_channel(tmp_path):
    (operator,) = weighted_operators(model_of(conv=True))
    assert (operator.op_type, operator.axis) == ("Conv", 0)


def test_the_same_inputs_give_the_same_bytes(release, tmp_path):
    store, release = release
    calibrate_release(store, release)
    first = store.get("calibration", release.keys.calibration).receipt.files
    again, _ = released(
        tmp_path / "again", tmp_path / "ckpt", calibration={"samples": 20, "methods": list(METHODS)}
    )
    publish_onnx(again, release, tmp_path / "model.onnx")
    calibrate_release(again, release)
    assert again.get("calibration", release.keys.calibration).receipt.files == first


def test_fewer_samples_than_asked_for_is_an_error(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt", "", samples=5)
    store, release = released(tmp_path / "store", checkpoint)
    onnx.save(model_of(), tmp_path / "model.onnx")
    publish_onnx(store, release, tmp_path / "model.onnx")
    with pytest.raises(
        TooFewSamplesError, match=r"calibration\.samples asks for 20 samples, .* has 5; write 15 more"
    ):
        calibrate_release(store, release)
    assert not store.has("calibration", release.keys.calibration)


def test_the_dataset_digest_changes_with_values_order_and_types():
    samples = samples_of(3)
    other = [{"x": sample["x"].astype(np.float64)} for sample in samples]
    digests = {dataset_sha256(some) for some in (samples, samples[::-1], samples[:2], other)}
    assert len(digests) == 4
