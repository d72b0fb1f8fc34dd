"""Pairs that cannot tell a good engine from a bad one are refused, by line."""

import json

import numpy as np
import pytest

from sluice.model_inputs import SampleError, parse_samples
from sluice.pairs import PairError, identity, parse_pairs
from sluice.signature import TensorSpec
from sluice.spec_types import Axis

INPUTS = (
    TensorSpec(name="ids", dtype="int64", dims=("batch", "sequence")),
    TensorSpec(name="mask", dtype="float32", dims=("batch", "sequence")),
)
AXES = {name: Axis(min=1, opt=2, max=top, buckets=(top,)) for name, top in (("batch", 8), ("sequence", 4))}


def text(*ids):
    return {"ids": list(ids), "mask": [1] * len(ids)}


def pair(query, answer):
    return json.dumps({"query": query, "answer": answer})


def parsed(*lines, calibrated=()):
    return parse_pairs("\n".join(lines), INPUTS, AXES, calibrated=calibrated)


GOOD = (pair(text(1), text(2)), pair(text(3), text(4, 5)))


def test_answers_stand_once_and_queries_in_order_know_their_own():
    pairs = parsed(*GOOD, pair(text(6), text(2)), pair(text(7), text(8)))
    assert [one["ids"].tolist() for one in pairs.queries] == [[1], [3], [6], [7]]
    assert [one["ids"].tolist() for one in pairs.answers] == [[2], [4, 5], [8]]
    assert pairs.own == (0, 1, 0, 2)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        pytest.param("{", "no JSON", id="no-json"),
        pytest.param("[" * 100_000, "no JSON", id="too-deep"),
        pytest.param("[1, 2]", 'no object of "query" and "answer"', id="a-list"),
        pytest.param(json.dumps({"query": text(9)}), 'no object of "query" and "answer"', id="half"),
        pytest.param(pair(text(9), {"ids": [9]}), "answer lacks ['mask']", id="lacks-an-input"),
        pytest.param(pair([9], text(9)), "query no JSON object", id="no-sample"),
        pytest.param(pair(text(9, 9, 9, 9, 9), text(8)), "query ids has sequence=5", id="too-long"),
        pytest.param(pair(text(1.5), text(8)), "query ids is no int64 array", id="no-token"),
        pytest.param(
            pair(text(9), {**text(8), "mask": [float("nan")]}), "answer mask holds a value that", id="nan"
        ),
        pytest.param(pair(text(9), text(9)), "the query is its own answer", id="its-own-answer"),
        pytest.param(pair(text(3), text(8)), "the query stands in line 2 already", id="twice"),
    ],
)
def test_a_bad_line_is_named_as_an_editor_counts_it_and_says_what_to_write(line, says):
    """Empty lines count: they stand in the file."""
    with pytest.raises(PairError) as caught:
        parsed(*GOOD, "", "   ", line, *GOOD)
    assert caught.value.line == 5
    assert caught.value.message.startswith(f"pairs, line 5: {says}")
    assert caught.value.next_step.startswith("correct task.pairs: one {")


@pytest.mark.parametrize(
    ("lines", "there"),
    [
        pytest.param((), 0, id="empty"),
        pytest.param(("", " "), 0, id="empty-lines"),
        pytest.param(GOOD[:1], 1, id="one-pair"),
        pytest.param([pair(text(n), text(9)) for n in range(5)], 1, id="one-answer-for-all"),
    ],
)
def test_fewer_than_two_answers_tell_nothing_apart(lines, there):
    with pytest.raises(PairError, match=f"pairs: the file holds {there} different answers, 2 or more"):
        parsed(*lines)


@pytest.mark.parametrize("side", ["query", "answer"])
def test_neither_half_may_have_calibrated(side):
    calibrated = parse_samples("\n".join(map(json.dumps, (text(50), text(60)))), INPUTS, AXES)
    halves = {"query": text(7), "answer": text(8), side: text(60)}
    assert len(parsed(*GOOD, json.dumps(halves)).queries) == 3
    with pytest.raises(PairError, match=f"line 3: {side} is sample 2, which calibrates: leave one of them"):
        parsed(*GOOD, json.dumps(halves), calibrated=calibrated)


def test_samples_are_equal_by_name_shape_and_value():
    one = {"a": np.array([1, 0], np.float32), "b": np.array([[1, 0]], np.float32)}
    assert identity(one) == identity({"b": one["b"].copy(), "a": np.array([1, -0.0], np.float32)})
    for other in ({**one, "a": one["a"][:1]}, {**one, "b": one["b"].T}, {"a": one["b"], "b": one["a"]}):
        assert identity(other) != identity(one)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        pytest.param({"ids": [1.5], "mask": [1]}, "ids is no int64 array", id="fraction"),
        pytest.param({"ids": ["1"], "mask": [1]}, "ids is no int64 array", id="text"),
        pytest.param({"ids": [1], "mask": ["1"]}, "mask is no float32 array", id="text-for-a-float"),
        pytest.param({"ids": [1], "mask": [None]}, "mask is no float32 array", id="null"),
        pytest.param({"ids": [2**70], "mask": [1]}, "ids is no int64 array", id="too-great"),
        pytest.param({"ids": [[1], [1, 2]], "mask": [1]}, "ids is no int64 array", id="ragged"),
    ],
)
def test_no_value_of_a_sample_changes_its_kind(line, says):
    lines = [json.dumps(text(1)), "", json.dumps(line)]
    with pytest.raises(SampleError, match=f"samples, line 3: {says}"):
        parse_samples("\n".join(lines), INPUTS, AXES)
    assert len(parse_samples("\n".join(lines[:1]), INPUTS, AXES)) == 1


def test_a_whole_number_is_a_float_and_a_truth_value_either():
    (sample,) = parse_samples(json.dumps({"ids": [True], "mask": [1]}), INPUTS, AXES)
    assert (sample["ids"].dtype, sample["mask"].dtype) == (np.int64, np.float32)
