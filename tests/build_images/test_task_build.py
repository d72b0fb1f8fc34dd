"""A release whose engines are judged by a task: what is served, what is refused, and which pairs are read."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from build_images.engine_builder.build import build_release
from build_images.engine_builder.errors import NoEngineError
from build_images.engine_builder.request import BuildRequest
from calibration.candidates import calibrate_release
from sluice.errors import FatalError
from sluice.pairs import PairError
from sluice.spec import ReleaseSpec
from tests.build_images.support import ARCH, publish_onnx, released, spec_dict, write_checkpoint

WIDTH = 4
BATCH = {"min": 1, "opt": 2, "max": 4, "buckets": [4]}
RECALL = {"metric": "recall_at_1", "output": "y", "pairs": "pairs.jsonl"}
TOP1 = {"metric": "top1", "output": "y"}


def linear(tmp_path, weight):
    """model.onnx of y = x @ weight, with one MatMul for INT8 to ruin."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in "xy")
    w = onnx.numpy_helper.from_array(np.asarray(weight, dtype=np.float32), "w")
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y], [w]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def coarse_pairs(count=40):
    """Answers that differ by less than an INT8 step of inputs up to 8: FP32 tells them apart."""
    rng = np.random.default_rng(4)
    base = np.array([8.0, -8.0, 4.0, 1.0])
    queries = base + rng.uniform(-0.02, 0.02, size=(count, WIDTH))
    return [(query.tolist(), (query * 0.9).tolist()) for query in queries]


def build(tmp_path, task, pairs, **changes):
    checkpoint = write_checkpoint(tmp_path / "ckpt", "", samples=1)
    rng = np.random.default_rng(2)
    samples = [json.dumps({"x": row.tolist()}) for row in rng.uniform(-8, 8, size=(40, WIDTH))]
    (checkpoint / "samples.jsonl").write_text("\n".join(samples))
    if pairs is not None:
        lines = [json.dumps({"query": {"x": query}, "answer": {"x": answer}}) for query, answer in pairs]
        (checkpoint / "pairs.jsonl").write_text("\n".join(lines))
    tensors = {
        "inputs": [{"name": "x", "dtype": "float32", "dims": ["batch", WIDTH]}],
        "outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", WIDTH]}],
        "axes": {"batch": BATCH},
    }
    changes = {"accuracy": {"int8": {"cosine": 0.9}}, "precisions": ["int8"], **changes}
    store, release = released(tmp_path / "store", checkpoint, model=tensors, task=task, **changes)
    publish_onnx(store, release, linear(tmp_path, np.eye(WIDTH) + 0.01))
    if "int8" in release.spec.precisions:
        calibrate_release(store, release)
    return store, release


def test_an_engine_near_to_fp32_by_cosine_and_useless_at_the_task_is_turned_down_for_fp32(tmp_path):
    """The twin without a task serves that very engine."""
    (tmp_path / "twin").mkdir()
    store, release = build(tmp_path / "twin", None, coarse_pairs())
    assert build_release(store, release, ARCH).name.startswith("int8-")
    store, release = build(tmp_path, RECALL, coarse_pairs())
    choice = build_release(store, release, ARCH)
    report = json.loads((store.get("engine", release.keys.engine(ARCH)).path / "report.json").read_text())
    assert choice.name == "fp32"
    assert choice.reason.startswith("fp32: no asked-for precision is accurate enough")
    for name, one in report["candidates"].items():
        task = one["task"]
        assert (task["metric"], task["samples"], task["reference"]) == ("recall_at_1", 40, 1.0)
        assert task["drop"] == pytest.approx(task["reference"] - task["value"])
        assert (name == "fp32") == (task["drop"] == 0.0)
        if name != "fp32":
            assert one["accuracy"]["y"]["cosine_min"] > 0.99
            assert "below fp32's 1 (limit 0.01)" in report["rejected"][name] or task["why"]


def test_top1_is_asked_on_the_samples_that_did_not_calibrate(tmp_path):
    store, release = build(tmp_path, {**TOP1, "max_drop": 0.5}, None)
    build_release(store, release, ARCH)
    report = json.loads((store.get("engine", release.keys.engine(ARCH)).path / "report.json").read_text())
    tasks = [one["task"] for one in report["candidates"].values()]
    assert {(task["metric"], task["samples"], task["reference"]) for task in tasks} == {("top1", 12, 1.0)}


def test_pairs_that_fp32_itself_cannot_tell_apart_build_nothing(tmp_path):
    flat = [([1.0 + number, 0.0, 0.0, 0.0], [9.0 + number, 0.0, 0.0, 0.0]) for number in range(4)]
    store, release = build(tmp_path, RECALL, flat, precisions=["fp32"])
    with pytest.raises(NoEngineError, match=r"the fp32 onnx itself: 0 is no better than .* 0\.25"):
        build_release(store, release, ARCH)
    assert not store.has("engine", release.keys.engine(ARCH))


def test_a_file_of_pairs_that_is_not_there_is_named(tmp_path):
    store, release = build(tmp_path, RECALL, None, precisions=["fp32"])
    with pytest.raises(FatalError, match=r"task\.pairs is pairs\.jsonl: there is no such file"):
        build_release(store, release, ARCH)


def calibrating(tmp_path):
    """The first sample of the file that `build` writes, as a half of a pair."""
    return json.loads((tmp_path / "ckpt" / "samples.jsonl").read_text().splitlines()[0])["x"]


@pytest.mark.parametrize("precisions", [["int8"], ["fp32"]])
def test_a_pair_that_calibrates_is_refused_where_something_is_calibrated(tmp_path, precisions):
    """INT8 ranges are found on the first 20 lines; without INT8 these are samples like any other."""
    build(tmp_path, RECALL, coarse_pairs(), precisions=precisions)
    held = calibrating(tmp_path)
    (tmp_path / "again").mkdir()
    pairs = [*coarse_pairs(3), (coarse_pairs()[5][0], held)]
    store, release = build(tmp_path / "again", RECALL, pairs, precisions=precisions)
    if precisions == ["fp32"]:
        assert len(BuildRequest.of_release(store, release, ARCH).pairs.queries) == 4
        return
    with pytest.raises(PairError, match="pairs, line 4: answer is sample 1, which calibrates"):
        build_release(store, release, ARCH)


def test_from_files_the_pairs_lie_where_the_samples_do(tmp_path):
    build(tmp_path, RECALL, coarse_pairs(3))
    spec = ReleaseSpec.from_dict(
        {
            **spec_dict(
                model={
                    "inputs": [{"name": "x", "dtype": "float32", "dims": ["batch", WIDTH]}],
                    "outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", WIDTH]}],
                    "axes": {"batch": BATCH},
                },
                task=RECALL,
            ),
            "precisions": ["fp32"],
        }
    )
    request = BuildRequest.of_files(
        spec,
        ARCH,
        onnx=tmp_path / "model.onnx",
        samples=tmp_path / "ckpt" / "samples.jsonl",
        calibration=None,
        store=None,
    )
    assert len(request.pairs.queries) == 3
