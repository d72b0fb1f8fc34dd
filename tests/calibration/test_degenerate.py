"""Samples and tensors that say nothing, or too much: each is a clear error, or follows a rule that is written down."""

import itertools
import json
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.cache import CACHE_FILE, CalibrationCache
from calibration.candidates import calibrate_release
from calibration.emit import Quantized, activation_scale, quantized_weights, signed_scale, weighted_operators
from calibration.passes import CalibrationError, in_chunks
from calibration.ranges import BINS, Histogram, collect, count, find_range, find_ranges
from calibration.tensorrt_cache import from_tensorrt, to_tensorrt
from sluice.signature import TensorSpec
from sluice.spec_types import METHODS, SIGNED, UNSIGNED
from tests.build_images.support import publish_onnx, released, write_checkpoint
from tests.calibration.test_calibration import X, model_of, samples_of

TWO = (X, TensorSpec(name="mask", dtype="float32", dims=("batch", "rows")))


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")], ids=["nan", "inf", "minus-inf"]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_value_that_is_not_finite_names_the_tensor_the_sample_and_what_to_do(
    tmp_path, value, said, threads
):
    """Of three broken samples the first in order is named, whichever thread finds one first."""
    samples = samples_of(40)
    for number in (11, 12, 30):
        samples[number]["x"][1, 3] = value
    with pytest.raises(CalibrationError) as error:
        collect(model_of(), ("x",), in_chunks(samples, 4), [X], tmp_path, threads=threads)
    size = samples[11]["x"].size
    assert str(error.value) == (
        f"activation x is not finite on sample 11 (from 0): 1 of {size} values, such as {said}; "
        "correct the sample, or the model where FP32 itself overflows on it"
    )


class Waiting(dict):
    """A sample that is not read before another one is."""

    def __init__(self, *, until, **values):
        super().__init__(values)
        self.read, self.until = threading.Event(), until

    def __getitem__(self, name):
        self.read.set()
        assert self.until is None or self.until.read.wait(30)
        return super().__getitem__(name)


def test_of_two_samples_that_fail_at_once_the_first_in_order_is_named(tmp_path):
    broken = np.full((2, 8), np.nan, np.float32)
    second = Waiting(until=None, x=broken)
    samples = [*samples_of(3), Waiting(until=second, x=broken), second]
    with pytest.raises(CalibrationError, match=r"sample 3 \(from 0\)"):
        collect(model_of(), ("x",), samples, [X], tmp_path, threads=2)


def test_after_a_sample_that_fails_no_thread_reads_on(tmp_path):
    read = []

    def stream():
        for number, sample in enumerate(itertools.cycle(samples_of(20))):
            assert number < 100_000, "somebody reads on"
            read.append(number)
            yield {"x": sample["x"] * np.nan} if number == 11 else sample

    with pytest.raises(CalibrationError, match=r"sample 11 \(from 0\)"):
        collect(model_of(), ("x",), in_chunks(stream, 1), [X], tmp_path, threads=2)
    assert len(read) < 50_000


def test_an_activation_that_overflows_within_the_model_is_named_too(tmp_path):
    samples = samples_of(3)
    samples[2]["x"][:] = 3e38
    with pytest.raises(CalibrationError, match=r"activation r is not finite on sample 2 \(from 0\)"):
        collect(model_of(), ("r",), samples, [X], tmp_path)


@pytest.mark.parametrize("empty", [[], list, lambda: iter(())], ids=["sequence", "no-chunk", "iterator"])
def test_an_empty_dataset_is_refused(tmp_path, empty):
    with pytest.raises(CalibrationError, match="no samples: nothing was calibrated; fill the file"):
        collect(model_of(), ("x",), empty, [X], tmp_path)


def test_an_empty_chunk_is_refused_since_a_part_without_samples_calibrates_nothing(tmp_path):
    samples = samples_of(4)
    with pytest.raises(CalibrationError, match=r"chunk 1 \(from 0\) holds no sample; leave out a part"):
        collect(model_of(), ("x",), lambda: [samples[:2], [], samples[2:]], [X], tmp_path)


def test_a_sample_that_lacks_an_input_is_refused(tmp_path):
    samples = [{"x": one["x"], "mask": np.ones(len(one["x"]), np.float32)} for one in samples_of(5)]
    del samples[3]["mask"]
    model = model_of()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", "rows"]))
    with pytest.raises(
        CalibrationError, match=r"sample 3 \(from 0\) lacks mask; give every sample each input"
    ):
        collect(model, ("x",), samples, TWO, tmp_path)


def test_a_sample_that_the_model_fails_on_is_named(tmp_path):
    samples = samples_of(5)
    samples[4] = {"x": np.ones((3, 9), np.float32)}
    with pytest.raises(
        CalibrationError, match=r"the model fails on sample 4 \(from 0\): .*; correct the sample"
    ):
        collect(model_of(), ("r",), samples, [X], tmp_path)


def sparse_model():
    """`c`: the positive values of x in one column, of which a sample may have none."""
    node = helper.make_node
    nodes = [
        node("Greater", ["x", "zero"], ["g"]),
        node("Reshape", ["g", "whole"], ["flat"]),
        node("Compress", ["x", "flat"], ["p"]),
        node("Unsqueeze", ["p", "last"], ["c"]),
        node("MatMul", ["c", "w"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.array([-1]), "whole"),
        numpy_helper.from_array(np.array([1]), "last"),
        numpy_helper.from_array(np.ones((1, 4), np.float32), "w"),
    ]
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "rows", 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_tensor_without_elements_counts_for_nothing_on_that_sample_and_on_all_of_them_is_refused(tmp_path):
    some = [*samples_of(3), {"x": -np.ones((2, 8), np.float32)}]
    found = collect(sparse_model(), ("c",), some, [X], tmp_path)["c"]
    assert found.counts.sum() == sum(int((one["x"] > 0).sum()) for one in some)
    with pytest.raises(
        CalibrationError, match=r"activation c has no element on any of 2 samples; add samples"
    ):
        collect(sparse_model(), ("c",), [some[3]] * 2, [X], tmp_path)


def dead_model():
    """`d` is zero on every sample here, and would not be for x below -1 000."""
    model = model_of()
    node = helper.make_node
    model.graph.node.extend(
        [
            node("Neg", ["x"], ["n"], "negative"),
            node("Sub", ["n", "far"], ["s"], "shifted"),
            node("Relu", ["s"], ["d"], "dead"),
            node("MatMul", ["d", "w2"], ["z"], "sideways"),
        ]
    )
    weight = np.random.default_rng(2).normal(size=(8, 8)).astype(np.float32)
    tensors = [numpy_helper.from_array(np.float32(1000), "far"), numpy_helper.from_array(weight, "w2")]
    model.graph.initializer.extend(tensors)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return model


def calibrated(tmp_path, model, methods=METHODS):
    checkpoint = write_checkpoint(tmp_path / "ckpt", "")
    output = {"dtype": "float32", "dims": ["batch", "rows", 8]}
    outputs = [{"name": one.name, **output} for one in model.graph.output]
    store, release = released(
        tmp_path / "store",
        checkpoint,
        model={"outputs": outputs},
        calibration={"samples": 20, "methods": list(methods)},
        accuracy={"int8": {"cosine": 0.1}},
    )
    onnx.save(model, tmp_path / "model.onnx")
    publish_onnx(store, release, tmp_path / "model.onnx")
    calibrate_release(store, release)
    return store.get("calibration", release.keys.calibration).path


def test_what_reads_a_tensor_that_was_always_zero_stays_in_fp32_and_answers_what_comes_later(tmp_path):
    model = dead_model()
    folder = calibrated(tmp_path, model)
    report = json.loads((folder / "report.json").read_text())
    assert report["zero"] == ["d"]
    later = np.full((1, 2, 8), -1500, np.float32)
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(["z"], {"x": later})[0]
    assert abs(want).max() > 100
    for method in METHODS:
        assert report["methods"][method]["operators"] == 2
        got = onnxruntime.InferenceSession(folder / f"int8_{method}.onnx").run(["z"], {"x": later})[0]
        np.testing.assert_array_equal(got, want)
    cache = CalibrationCache.from_json((folder / CACHE_FILE).read_bytes())
    assert {(one.low, one.high) for one in cache.tensors["d"].ranges.values()} == {(0.0, 0.0)}
    assert set(from_tensorrt(to_tensorrt(cache, "entropy"))) == {"x", "r"}


def test_a_model_all_of_whose_activations_were_zero_is_refused(tmp_path):
    model = dead_model()
    del model.graph.node[0:3]
    del model.graph.output[0]
    with pytest.raises(
        CalibrationError, match="every activation was zero on each of 20 samples: d; give samples"
    ):
        calibrated(tmp_path, model)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [3.0, -3.0, 1e-6, -1e6, 7e30, 1e-35, -3e38])
def test_a_constant_is_an_end_of_its_range_and_comes_back_as_it_was(method, value):
    """Entropy alone once took the narrowest range there is: where all is cut, every cut costs the same."""
    array = np.full(500, value, np.float32)
    value = float(array[0])
    low, high = min(0.0, value), max(0.0, value)
    histogram = Histogram(low=low, high=high, counts=count(array, low, high))
    assert histogram.counts.max() == array.size
    assert find_range(histogram, method) == (low, high)
    for scale, zero, least, most in (
        (*activation_scale(low, high), 0, 255),
        (*signed_scale(low, high), -127, 127),
    ):
        byte = np.clip(np.round(value / float(scale)) + int(zero), least, most)
        restored = (byte - int(zero)) * float(scale)
        assert restored == pytest.approx(value, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [1, -1])
def test_values_that_lie_together_far_from_zero_are_not_cut_off_as_a_whole(method, sign):
    """Where one bin of them was left inside, nothing seemed lost: entropy once ended at the least of them."""
    values = sign * np.random.default_rng(7).uniform(9.0, 10.0, size=100_000)
    low, high = min(0.0, values.min()), max(0.0, values.max())
    found = find_range(Histogram(low=low, high=high, counts=count(values, low, high)), method)
    assert max(-found[0], found[1]) > 9.9


def test_a_constant_activation_of_a_real_graph_stays_what_it_was(tmp_path):
    """Zero variance on every sample: x is 2.5 everywhere, and so is all that follows it."""
    model, samples = model_of(), [{"x": np.full((rows, 8), 2.5, np.float32)} for rows in (2, 3, 6)]
    operators = weighted_operators(model)
    histograms = collect(model, ("x", "r"), samples, [X], tmp_path)
    assert (histograms["x"].low, histograms["x"].high) == (0.0, 2.5)
    feed = {"x": samples[0]["x"][None]}
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    for method, ranges in find_ranges(histograms, METHODS).items():
        assert ranges["x"] == (0.0, 2.5)
        for form in (UNSIGNED, SIGNED):
            weights = quantized_weights(model, operators)
            path = tmp_path / f"{method}-{form}.onnx"
            made = Quantized(model=model, operators=operators, weights=weights, ranges=ranges, form=form)
            made.write(path)
            got = onnxruntime.InferenceSession(path).run(None, feed)[0]
            cosine = (got * want).sum() / np.linalg.norm(got) / np.linalg.norm(want)
            assert cosine > 0.999, (method, form)


@pytest.mark.parametrize("width", [1e-44, 1e-38, 1.0, 3e38])
def test_values_keep_their_bins_where_float32_cannot_hold_the_width(width):
    """The greatest of values 6e38 apart was once counted as the least, and all of a tiny range in one bin."""
    values = np.linspace(-1, 1, 9, dtype=np.float64) * width
    array = values.astype(np.float32)
    low, high = float(array.min()), float(array.max())
    found = count(array, low, high)
    assert found.sum() == array.size
    assert found[0] >= 1
    assert found[-1] >= 1
    expected = np.minimum((array.astype(np.float64) - low) / (high - low) * BINS, BINS - 1).astype(int)
    assert np.flatnonzero(found).tolist() == sorted(set(expected.tolist()))
