"""A task is named so that it can fail, and makes other engines only where it decides about them."""

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


def test_one_class_tells_no_engine_from_another():
    with pytest.raises(SpecError, match=r"task\.output"):
        parse({"task": {"metric": "top1", "output": "y"}, "model.outputs.0.dims": ["batch", 1]})


def test_a_task_decides_about_engines_and_nothing_else():
    without, with_task = Release(parse(), SHA), Release(parse({"task": RECALL}), SHA)
    assert with_task.keys.engines != without.keys.engines
    for same in ("onnx", "numerics", "calibration"):
        assert getattr(with_task.keys, same) == getattr(without.keys, same)
    assert Release(parse({"task": {**RECALL, "max_drop": 0.02}}), SHA).keys.engines != with_task.keys.engines


def test_no_task_and_a_task_of_null_are_the_same_release():
    assert Release(parse({"task": None}), SHA).digest == Release(parse(), SHA).digest
