"""Pairs that could not tell a good engine from a bad one are refused, by line."""

import json
import pickle

import numpy as np
import pytest

from sluice.model_inputs import SampleError, parse_samples
from sluice.pairs import PairError, identity, parse_pairs
from sluice.signature import TensorSpec
from sluice.spec_types import Axis

INPUTS = (TensorSpec("ids", "int64", ("batch", "n")), TensorSpec("mask", "int64", ("batch", "n")))
AXES = {
    "batch": Axis(min=1, opt=2, max=4, buckets=(4,)),
    "n": Axis(min=1, opt=2, max=3, buckets=(3,)),
}


def half(*ids):
    return {"ids": list(ids), "mask": [1] * len(ids)}


def line(query, answer):
    return json.dumps({"query": query, "answer": answer})


GOOD = [line(half(1), half(2, 3)), line(half(4, 5), half(6))]


def parse(lines, **more):
    return parse_pairs("\n".join(lines), INPUTS, AXES, **more)


def test_pairs_are_read_in_order_each_answer_once():
    pairs = parse([*GOOD, "", line(half(7), half(2, 3))])
    assert [query["ids"].tolist() for query in pairs.queries] == [[1], [4, 5], [7]]
    assert [answer["ids"].tolist() for answer in pairs.answers] == [[2, 3], [6]]
    assert pairs.own == (0, 1, 0)
    assert pairs.queries[0]["ids"].dtype == np.int64


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        pytest.param("{", "no JSON", id="no-json"),
        pytest.param("[" * 100_000, "no JSON", id="nested-without-end"),
        pytest.param("[]", 'no object of "query" and "answer"', id="a-list"),
        pytest.param("null", 'no object of "query" and "answer"', id="null"),
        pytest.param(json.dumps({"query": half(1)}), 'no object of "query"', id="no-answer"),
        pytest.param(json.dumps({"answer": half(1)}), 'no object of "query"', id="no-query"),
        pytest.param(line([1], half(2)), "query no JSON object", id="query-is-a-list"),
        pytest.param(line(half(9), None), "answer no JSON object", id="answer-is-null"),
        pytest.param(line({"ids": [1]}, half(2)), "query lacks ['mask']", id="an-input-is-missing"),
        pytest.param(line(half(9), half(1, 2, 3, 4)), "answer ids has n=4, wanted 1 to 3", id="too-long"),
        pytest.param(line(half(9), half()), "answer ids has n=0", id="empty"),
        pytest.param(line({"ids": [1, 2], "mask": [1]}, half(2)), "query mask has n=1", id="two-lengths"),
        pytest.param(line({"ids": [[1]], "mask": [1]}, half(2)), "has 2 dimensions", id="batched"),
        pytest.param(line({"ids": ["a"], "mask": [1]}, half(2)), "ids is no int64 array", id="a-text"),
        pytest.param(line({"ids": ["1"], "mask": [1]}, half(2)), "ids is no int64 array", id="a-digit"),
        pytest.param(line(half(1.5), half(2)), "query ids is no int64 array", id="a-fraction"),
        pytest.param(line(half(9), half(None)), "answer ids is no int64 array", id="a-null"),
        pytest.param(line(half(1), half(9)), "the query stands in line 1 already", id="a-query-twice"),
        pytest.param(line(half(8), half(8)), "the query is its own answer", id="its-own-answer"),
    ],
)
def test_a_bad_line_is_named_by_its_number(bad, says):
    with pytest.raises(PairError) as caught:
        parse([GOOD[0], "", " ", bad, GOOD[1]])
    assert caught.value.line == 4  # as an editor counts
    assert str(caught.value).startswith("pairs, line 4: ")
    assert says in str(caught.value)
    assert "correct task.pairs" in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="nothing"),
        pytest.param(["", " "], id="blank"),
        pytest.param(GOOD[:1], id="one-pair"),
        pytest.param([line(half(1), half(3)), line(half(2), half(3))], id="one-answer-for-all"),
    ],
)
def test_fewer_than_two_answers_are_refused_since_every_engine_finds_the_only_one(lines):
    with pytest.raises(PairError, match="2 or more are wanted") as caught:
        parse(lines)
    assert caught.value.line == 0


@pytest.mark.parametrize(("side", "sample"), [("query", half(4, 5)), ("answer", half(6))])
def test_a_half_that_calibrates_is_refused_with_both_places(side, sample):
    held = [{name: np.array(values) for name, values in one.items()} for one in (half(9), sample)]
    with pytest.raises(PairError, match=f"pairs, line 2: {side} is sample 2, which calibrates"):
        parse(GOOD, calibrated=held)
    parse(GOOD, calibrated=held[:1])


def test_samples_of_other_values_or_shapes_are_not_the_same():
    one = {"ids": np.array([1, 2])}
    assert identity(one) == identity({"ids": np.array([1, 2])})
    for other in ([2, 1], [[1, 2]], [1, 2, 0]):
        assert identity(one) != identity({"ids": np.array(other)})


def test_a_zero_below_zero_is_zero():
    assert identity({"x": np.array([0.0, 1.0])}) == identity({"x": np.array([-0.0, 1.0])})


def test_lines_of_samples_are_counted_as_an_editor_does_too():
    lines = [json.dumps(half(1)), "", json.dumps(half(1.5))]
    with pytest.raises(SampleError, match="samples, line 3: ids is no int64 array"):
        parse_samples("\n".join(lines), INPUTS, AXES)
    assert len(parse_samples("\n".join(lines), INPUTS, AXES, limit=1)) == 1


def test_a_whole_number_is_a_float_and_a_truth_value_either():
    inputs = (INPUTS[0], TensorSpec("mask", "float32", ("batch", "n")))
    (sample,) = parse_samples(json.dumps({"ids": [True], "mask": [1]}), inputs, AXES)
    assert (sample["ids"].dtype, sample["mask"].dtype) == (np.int64, np.float32)


def test_the_error_is_a_sample_s_error_and_survives_pickle():
    again = pickle.loads(pickle.dumps(PairError(3, "x")))  # noqa: S301 - our own bytes
    assert (again.line, str(again)) == (3, str(PairError(3, "x")))
    assert isinstance(again, SampleError)
