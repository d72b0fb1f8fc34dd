"""A cache reads back as it was written, names its graph apart from its weights, and says what is broken in it."""

import base64
import json
import zlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.cache import CACHE_FILE, CacheError, CalibrationCache, cache_of
from calibration.candidates import calibrate_release
from calibration.graph import graph_of, weights_sha256
from calibration.ranges import BINS, Histogram, collect, find_range
from calibration.samples import calibration_samples, dataset_sha256
from tests.build_images.support import publish_onnx, released, write_checkpoint
from tests.calibration.test_calibration import X, model_of, samples_of

METHODS = ("percentile", "minmax")


def made(tmp_path, *, model=None, seed=1):
    model, samples = model or model_of(), samples_of(20, seed)
    histograms = collect(model, ["x", "r"], samples, [X], tmp_path)
    ranges = {
        method: {name: find_range(one, method) for name, one in histograms.items()} for method in METHODS
    }
    digest = dataset_sha256(samples)
    return cache_of(model, histograms, ranges, samples=len(samples), dataset_sha256=digest), histograms


def test_a_cache_reads_back_equal_and_has_the_histograms_and_ranges_themselves(tmp_path):
    cache, histograms = made(tmp_path)
    again = CalibrationCache.from_json(cache.to_json())
    assert again == cache
    assert (again.samples, set(again.methods), again.versions.onnx) == (20, set(METHODS), onnx.__version__)
    for name, one in histograms.items():
        read = again.tensors[name]
        assert (read.histogram.low, read.histogram.high) == (one.low, one.high)
        assert (read.histogram.counts == one.counts).all()
        for method in METHODS:
            assert (read.ranges[method].low, read.ranges[method].high) == find_range(one, method)


def test_the_same_inputs_give_the_same_bytes_and_other_samples_give_others(tmp_path):
    first = made(tmp_path)[0].to_json()
    assert made(tmp_path)[0].to_json() == first
    assert CalibrationCache.from_json(first).to_json() == first
    assert made(tmp_path, seed=2)[0].to_json() != first
    assert len(first) < 20_000  # 4 096 counts: encoded, not spelled out


def test_the_artifact_holds_the_cache_of_its_own_onnx_and_samples(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt", "")
    store, release = released(
        tmp_path / "store", checkpoint, calibration={"samples": 20, "methods": list(METHODS)}
    )
    model = model_of()
    onnx.save(model, tmp_path / "model.onnx")
    publish_onnx(store, release, tmp_path / "model.onnx")
    calibrate_release(store, release)
    folder = store.get("calibration", release.keys.calibration).path
    cache = CalibrationCache.from_json((folder / CACHE_FILE).read_bytes())
    report = json.loads((folder / "report.json").read_text())
    assert cache.graph == graph_of(model)
    assert cache.weights_sha256 == weights_sha256(model)
    assert cache.dataset_sha256 == dataset_sha256(
        calibration_samples(checkpoint / release.spec.model.samples, release.spec)
    )
    assert cache.samples == report["samples"] == 20
    for method in METHODS:
        for name, told in report["methods"][method]["ranges"].items():
            found = cache.tensors[name].ranges[method]
            assert (found.low, found.high) == (told["low"], told["high"])


def retrained(model, factor=1.5):
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name)
        )
    return model


def test_a_model_that_was_trained_again_has_the_same_graph_and_other_weights():
    one, other = model_of(), retrained(model_of())
    assert graph_of(one) == graph_of(other)
    assert weights_sha256(one) != weights_sha256(other)
    for node in other.graph.node:
        node.name += "_renamed"
    other.producer_name = "another"
    assert graph_of(one) == graph_of(other)


def set_attribute(model):
    model.graph.node[1].op_type = "LeakyRelu"
    model.graph.node[1].attribute.append(helper.make_attribute("alpha", 0.1))


def set_alpha(model):
    set_attribute(model)
    model.graph.node[1].attribute[0].f = 0.2


def rename_tensor(model):
    model.graph.node[0].output[0] = "q"
    model.graph.node[1].input[0] = "q"


def reshape_weight(model):
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((8, 16), np.float32), "w0"))


def rewire(model):
    model.graph.node[1].input[0] = "x"


def set_opset(model):
    model.opset_import[0].version = 16


def set_dims(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "columns"


def shape_of(values):
    def change(model):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), "shape"))
        model.graph.node.append(helper.make_node("Reshape", ["y", "shape"], ["z"], "last"))

    return change


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param((None, set_attribute), "LeakyRelu operators 0 -> 1", id="operator"),
        pytest.param((set_attribute, set_alpha), "nodes", id="attribute"),
        pytest.param((None, rename_tensor), "nodes", id="tensor-name"),
        pytest.param((None, rewire), "nodes", id="topology"),
        pytest.param((None, reshape_weight), "initializers", id="weight-shape"),
        pytest.param((None, set_opset), "opsets", id="opset"),
        pytest.param((None, set_dims), "inputs", id="input-dims"),
        pytest.param((shape_of([-1, 8]), shape_of([-1, 16])), "initializers", id="values-of-a-shape"),
    ],
)
def test_another_graph_has_another_digest_and_says_where_it_differs(changes, said):
    graphs = []
    for change in changes:
        model = model_of()
        if change:
            change(model)
        graphs.append(graph_of(model))
    assert graphs[0].sha256 != graphs[1].sha256
    assert said in graphs[0].differences(graphs[1])
    assert graphs[0].differences(graphs[0]) == []


def test_what_a_branch_holds_counts_too():
    def model_with(value, constant):
        branches = [
            helper.make_graph(
                [helper.make_node("Mul" if value else "Add", ["x", f"k{i}"], [f"b{i}"])],
                f"branch{i}",
                [],
                [helper.make_tensor_value_info(f"b{i}", TensorProto.FLOAT, None)],
                [numpy_helper.from_array(np.array([constant], np.float32), f"k{i}")],
            )
            for i in range(2)
        ]
        node = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
        graph = helper.make_graph([node], "g", [], [])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])

    one = model_with(True, 1.0)
    assert graph_of(one).sha256 == graph_of(model_with(True, 2.0)).sha256
    assert weights_sha256(one) != weights_sha256(model_with(True, 2.0))
    assert graph_of(one).sha256 != graph_of(model_with(False, 1.0)).sha256
    assert graph_of(one).operators == {"If": 1, "Mul": 2}


def counts_of(values):
    return base64.b64encode(zlib.compress(np.array(values, "<i8").tobytes())).decode()


ONE_BIN = counts_of([0, 5] + [0] * (BINS - 2))
STREAM = base64.b64decode(ONE_BIN)
BROKEN = [
    pytest.param("schema", 2, id="schema"),
    pytest.param("samples", 0, id="no-samples"),
    pytest.param("dataset_sha256", "abc", id="digest"),
    pytest.param("versions.numpy", None, id="version"),
    pytest.param("graph.operators", {}, id="no-operators"),
    pytest.param("tensors", {}, id="no-tensors"),
    pytest.param("tensors.x.low", 1.0, id="range-without-zero"),
    pytest.param("tensors.x.high", float("nan"), id="nan"),
    pytest.param("tensors.x.counts", "%%%", id="no-base64"),
    pytest.param("tensors.x.counts", [1, 2], id="no-text"),
    pytest.param("tensors.x.counts", base64.b64encode(b"no zlib").decode(), id="no-zlib"),
    pytest.param("tensors.x.counts", counts_of([1] * (BINS - 1)), id="too-few"),
    pytest.param("tensors.x.counts", counts_of([1] * (BINS + 1)), id="too-many"),
    pytest.param("tensors.x.counts", base64.b64encode(STREAM[:-4]).decode(), id="cut-short"),
    pytest.param("tensors.x.counts", base64.b64encode(STREAM + b"more").decode(), id="more-behind"),
    pytest.param("tensors.x.counts", counts_of([0] * BINS), id="nothing-counted"),
    pytest.param("tensors.x.counts", counts_of([-1] + [2] * (BINS - 1)), id="negative"),
    pytest.param("tensors.x.ranges", {}, id="no-ranges"),
    pytest.param("tensors.x.ranges.minmax.high", -1.0, id="range"),
    pytest.param("tensors.x.ranges.magic", {"low": 0.0, "high": 1.0}, id="method"),
    pytest.param("tensors.x.scale", 1.0, id="unknown-field"),
]


@pytest.mark.parametrize(("path", "value"), BROKEN)
def test_a_broken_document_is_an_error_that_names_the_field(tmp_path, path, value):
    raw = json.loads(made(tmp_path)[0].to_json())
    *parents, last = path.split(".")
    here = raw
    for name in parents:
        here = here[name]
    here[last] = value
    with pytest.raises(CacheError) as error:
        CalibrationCache.from_json(json.dumps(raw))
    assert any(problem.path.startswith(path) for problem in error.value.problems), str(error.value)
    assert str(error.value).endswith("calibrate again")


def test_every_problem_is_said_at_once(tmp_path):
    raw = json.loads(made(tmp_path)[0].to_json())
    del raw["graph"], raw["tensors"]["r"]["ranges"]["minmax"]
    raw["samples"] = "twenty"
    raw["tensors"]["x"] |= {"high": raw["tensors"]["x"]["low"], "counts": ONE_BIN}
    with pytest.raises(CacheError) as error:
        CalibrationCache.from_json(raw)
    paths = {problem.path for problem in error.value.problems}
    assert {"graph", "samples", "tensors.x.high"} <= paths
    assert any(path.endswith(".ranges") for path in paths)


@pytest.mark.parametrize("data", ["", "[]", "null", "{", b"\xff"])
def test_what_is_no_document_is_refused(data):
    with pytest.raises(CacheError, match="calibration cache"):
        CalibrationCache.from_json(data)


def test_a_histogram_without_values_makes_no_cache(tmp_path):
    empty = {"x": Histogram(low=0.0, high=1.0, counts=np.zeros(BINS, np.int64))}
    with pytest.raises(CacheError, match=r"tensors\.x\.counts.*no value was counted"):
        cache_of(model_of(), empty, {"minmax": {"x": (0.0, 1.0)}}, samples=1, dataset_sha256="0" * 64)
