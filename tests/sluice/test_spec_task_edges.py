"""Outputs at which every engine is right are no task, and without one the keys are what they were."""

import pytest

from sluice.errors import SpecError
from sluice.release import Release
from sluice.spec import ReleaseSpec
from tests.sluice.specs import SHA, parse, whole

TOP1 = {"metric": "top1", "output": "y"}
RECALL = {"metric": "recall_at_1", "output": "y", "pairs": "pairs.jsonl"}
# Of `specs.WHOLE` in FP32, from before there were tasks. Whoever changes it builds every such engine anew.
FP32 = {"precisions": ["fp32"]}
ENGINE_KEY = "1113194c5f6a19990b0480f5459eb2844810ca78d9ac39eff80696c8e9506053"


def spec(task, **changes):
    return parse({"task": task, **{name.replace("__", "."): value for name, value in changes.items()}})


def outputs(*dims):
    return [{"name": "y", "dtype": "float32", "dims": list(dims)}]


def test_a_task_is_read_with_its_default_drop():
    top1, recall = spec(TOP1).task, spec({**RECALL, "max_drop": 0}).task
    assert (top1.metric, top1.output, top1.pairs, top1.max_drop) == ("top1", "y", None, 0.01)
    assert (recall.pairs, recall.max_drop) == ("pairs.jsonl", 0)
    again = ReleaseSpec.from_dict(spec(RECALL).to_dict())
    assert again == spec(RECALL)
    assert parse().task is None
    assert spec(None).task is None


@pytest.mark.parametrize("drop", [float("nan"), float("inf")])
def test_a_drop_that_is_no_finite_number_is_refused(drop):
    """NaN is neither below 0 nor above 1; from JSON, since YAML's is a text here."""
    with pytest.raises(SpecError) as caught:
        ReleaseSpec.from_dict(whole({"task": {**TOP1, "max_drop": drop}}))
    assert [problem.path for problem in caught.value.problems] == ["task.max_drop"]


@pytest.mark.parametrize(
    ("task", "dims", "says"),
    [
        pytest.param(TOP1, ("batch",), "2 or more classes", id="no-classes"),
        pytest.param(TOP1, ("batch", 1), "2 or more classes", id="one-class"),
        pytest.param(TOP1, (3, 2), "so batch first", id="no-row-for-each-sample"),
        pytest.param(RECALL, ("batch", 1), "one vector of a fixed length", id="vectors-of-one-number"),
        pytest.param(RECALL, ("batch",), "one vector of a fixed length", id="no-vectors"),
        pytest.param(RECALL, ("batch", 3, 8), "one vector of a fixed length", id="several-vectors"),
        pytest.param(RECALL, ("batch", "batch"), "one vector of a fixed length", id="vectors-of-any-length"),
        pytest.param(RECALL, (3, 2), "so batch first", id="no-vector-for-each-sample"),
    ],
)
def test_an_output_at_which_every_engine_is_right_is_refused(task, dims, says):
    with pytest.raises(SpecError) as caught:
        spec(task, model__outputs=outputs(*dims))
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("task.output", "y")
    assert says in problem.message


def test_the_place_of_an_answer_in_a_text_is_a_task_of_top1():
    """A last dimension of a size that varies: its least is the text's, not the spec's, to say."""
    axes = {name: {"min": 1, "opt": 2, "max": 8, "buckets": [8]} for name in ("batch", "rows")}
    inputs = [{"name": "x", "dtype": "float32", "dims": ["batch", "rows"]}]
    changes = {"model__outputs": outputs("batch", "rows"), "model__inputs": inputs, "model__axes": axes}
    assert spec(TOP1, **changes).task.metric == "top1"


def test_a_class_for_each_position_is_a_task_of_top1():
    assert spec(TOP1, model__outputs=outputs("batch", 7, 2)).task.metric == "top1"


def test_other_wrong_fields_do_not_hide_it_nor_break_it():
    """Names that are no texts, and dims that are no lists, belong to other checks."""
    with pytest.raises(SpecError) as caught:
        spec({**RECALL, "pairs": None}, model__outputs=[{"name": ["y"], "dtype": "float32", "dims": "batch"}])
    paths = {problem.path for problem in caught.value.problems}
    assert {"task.pairs", "task.output", "model.outputs.0.name"} <= paths


def test_without_a_task_the_engine_s_key_is_what_it_was_before_there_were_tasks():
    for changes in (FP32, {**FP32, "task": None}):
        assert Release(parse(changes), SHA).keys.engine("cpu-avx2") == ENGINE_KEY


def test_a_release_of_before_there_were_tasks_is_read_and_keeps_its_digest():
    release = Release(parse(), SHA)
    document = Release.from_json(release.to_json()).to_json().replace('"task": null,', "")
    assert '"task"' not in document
    assert Release.from_json(document) == release
