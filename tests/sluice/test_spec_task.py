"""A task is named so that it can fail, and makes other engines only where it decides about them."""

import json

import pytest

from sluice.errors import SpecError
from sluice.release import Release
from tests.sluice.specs import SHA, parse

RECALL = {"metric": "recall_at_1", "output": "y", "pairs": "pairs.jsonl", "max_drop": 0.01}


@pytest.mark.parametrize(
    ("task", "path", "says"),
    [
        pytest.param({**RECALL, "pairs": None}, "task.pairs", "required by recall_at_1", id="no-pairs"),
        pytest.param({**RECALL, "metric": "top1"}, "task.pairs", "reads no pairs", id="pairs-for-nothing"),
        pytest.param({**RECALL, "metric": "f1"}, "task.metric", "one of top1, recall_at_1", id="metric"),
        pytest.param(
            {**RECALL, "output": "z"}, "task.output", "no such output in model.outputs; there: y", id="output"
        ),
        pytest.param({**RECALL, "max_drop": 1.0}, "task.max_drop", "less than 1", id="all-of-it"),
        pytest.param({**RECALL, "max_drop": -0.1}, "task.max_drop", "at least 0", id="below-zero"),
        pytest.param(
            {**RECALL, "pairs": "../p"}, "task.pairs", "inside the checkpoint folder", id="elsewhere"
        ),
        pytest.param({**RECALL, "k": 1}, "task.k", "unknown", id="unknown"),
    ],
)
def test_each_wrong_field_is_named(task, path, says):
    with pytest.raises(SpecError) as caught:
        parse({"task": task})
    (problem,) = caught.value.problems
    assert problem.path == path
    assert says in problem.message


AXES = {name: {"min": 1, "opt": 2, "max": 8, "buckets": [8]} for name in ("batch", "rows")}
INPUT = {"name": "x", "dtype": "float32", "dims": ["batch", "rows"]}


@pytest.mark.parametrize(
    ("metric", "dims", "says"),
    [
        pytest.param("top1", ["batch", 1], "a last dimension of 2 or more classes", id="one-class"),
        pytest.param("top1", ["batch"], "a last dimension of 2 or more classes", id="no-class"),
        pytest.param("top1", ["rows", 4], "one row for each sample is wanted, so batch first", id="no-batch"),
        pytest.param("top1", ["batch", "rows", 4], None, id="classes-of-each-place"),
        pytest.param("top1", ["batch", "rows"], None, id="places-as-classes"),
        pytest.param("recall_at_1", ["batch", 1], "one vector of a fixed length, 2 or more", id="a-number"),
        pytest.param("recall_at_1", ["batch", "rows"], "one vector of a fixed length", id="no-fixed-length"),
        pytest.param("recall_at_1", ["batch", "rows", 4], "one vector of a fixed length", id="many-vectors"),
        pytest.param("recall_at_1", [8, 4], "so batch first; its dims are 8, 4", id="another-batch"),
        pytest.param("recall_at_1", ["batch", 4], None, id="a-vector"),
    ],
)
def test_an_output_that_cannot_tell_engines_apart_is_refused(metric, dims, says):
    task = {**RECALL, "metric": metric, "pairs": "pairs.jsonl" if metric == "recall_at_1" else None}
    model = {"model.axes": AXES, "model.inputs": [INPUT], "model.outputs.0.dims": dims, "task": task}
    if says is None:
        assert parse(model).task.metric == metric
        return
    with pytest.raises(SpecError) as caught:
        parse(model)
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("task.output", "y")
    assert says in problem.message


@pytest.mark.parametrize("limit", [0, 0.0, 0.5, 0.999])
def test_a_limit_of_nothing_at_all_is_a_limit(limit):
    assert parse({"task": {**RECALL, "max_drop": limit}}).task.max_drop == limit


def test_every_wrong_field_is_reported_at_once():
    with pytest.raises(SpecError) as caught:
        parse({"task": {"metric": "recall_at_1", "output": "z", "max_drop": "little"}})
    assert {problem.path for problem in caught.value.problems} == {
        "task.max_drop",
        "task.pairs",
        "task.output",
    }


FIELDS = [
    {"max_drop": 0.02},
    {"pairs": "other.jsonl"},
    {"metric": "top1", "pairs": None},
]


@pytest.mark.parametrize("change", FIELDS, ids=str)
def test_a_task_decides_about_engines_and_nothing_else(change):
    tasks = (None, RECALL, {**RECALL, **change})
    keys = [Release(parse({"task": task}), SHA).keys for task in tasks]
    assert len({one.engine("cpu-avx2") for one in keys}) == len(tasks)
    for same in ("checkpoint", "onnx", "numerics", "calibration"):
        assert len({getattr(one, same) for one in keys}) == 1, same


def test_a_spec_without_a_task_keeps_the_keys_that_it_had(monkeypatch):
    """Of the same code without the one input; `test_release` pins their values."""
    now = [Release(parse(changes), SHA) for changes in ({}, {"task": None})]
    monkeypatch.setattr(Release, "_task_inputs", lambda self: {})
    before = Release(parse(), SHA)
    assert [one.keys for one in now] == [before.keys] * 2
    assert {one.digest for one in now} == {before.digest}


def test_a_task_is_in_the_document_that_every_pod_reads():
    release = Release(parse({"task": RECALL}), SHA)
    again = Release.from_json(release.to_json())
    assert again.spec.task.model_dump() == RECALL
    assert again.keys == release.keys


def test_a_document_of_before_has_no_task():
    document = json.loads(Release(parse(), SHA).to_json())
    del document["spec"]["task"]
    assert Release.from_json(document).spec.task is None
