"""The task where it is easily got wrong: padding, ties, the last batch, what cannot be judged."""

import json
import math

import numpy as np
import pytest

from build_images.engine_builder.task import (
    QUERIES_AT_ONCE,
    TaskBench,
    TaskResult,
    UnusableError,
    greatest,
    recall_hits,
    top1_hits,
)
from sluice.pairs import Pairs
from sluice.spec import ReleaseSpec
from tests.build_images.support import spec_dict

WIDTH = 4
RECALL = {"metric": "recall_at_1", "output": "y", "pairs": "pairs.jsonl"}
TOP1 = {"metric": "top1", "output": "y"}
BATCH, ROWS = (
    {"min": 1, "opt": 2, "max": 4, "buckets": [4]},
    {"min": 1, "opt": 2, "max": 3, "buckets": [3]},
)


def flat_spec(task, *, batch="batch", least=1):
    """x [batch, 4] -> y [batch, 4]. least: of a batch whose size is free."""
    axis = {"min": least, "opt": 6, "max": 8, "buckets": [8]}
    tensors = {
        "inputs": [{"name": "x", "dtype": "float32", "dims": [batch, WIDTH]}],
        "outputs": [{"name": "y", "dtype": "float32", "dims": [batch, WIDTH]}],
        "axes": {"batch": axis} if batch == "batch" else {},
    }
    return ReleaseSpec.from_dict(spec_dict(model=tensors, task=task))


def rows_spec(least_batch):
    """x [batch, rows, 4] -> y [batch, rows, 4]: a class for each row."""
    tensors = {
        "inputs": [{"name": "x", "dtype": "float32", "dims": ["batch", "rows", WIDTH]}],
        "outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", "rows", WIDTH]}],
        "axes": {"batch": {**BATCH, "min": least_batch}, "rows": ROWS},
    }
    return ReleaseSpec.from_dict(spec_dict(model=tensors, task=TOP1))


def samples_of(array):
    return tuple({"x": row} for row in np.asarray(array, dtype=np.float32))


def pairs_of(queries, answers, own=None):
    queries, answers = samples_of(queries), samples_of(answers)
    return Pairs(queries=queries, answers=answers, own=tuple(range(len(queries)) if own is None else own))


def same(feed):
    return {"y": feed["x"]}


def noisy(size, seed=5):
    rng = np.random.default_rng(seed)

    def run(feed):
        return {"y": feed["x"] + rng.normal(size=feed["x"].shape).astype(np.float32) * size}

    return run


def words(count, seed=1):
    """Queries, and answers that are near them: all of them found by FP32."""
    queries = np.random.default_rng(seed).normal(size=(count, WIDTH))
    return queries, queries * 3 + np.random.default_rng(seed + 1).normal(size=queries.shape) * 0.001


def recall(run, count=12, reference=same, **changes):
    pairs = changes.get("pairs") or pairs_of(*words(count))
    return TaskBench(flat_spec(RECALL), (), pairs, reference).result(run)


def top1(run, samples=None, spec=None, reference=same):
    samples = samples_of(words(12)[0]) if samples is None else samples
    return TaskBench(spec or flat_spec(TOP1), samples, None, reference).result(run)


def broken(change):
    """The right answer with one thing wrong in it."""

    def run(feed):
        return change(feed["x"].copy())

    return run


def first_row(value):
    def change(x):
        x[0] = value
        return {"y": x}

    return change


USELESS = [
    pytest.param(lambda x: {}, "no output y", id="no-output"),
    pytest.param(lambda x: {"z": x}, "no output y", id="another-name"),
    pytest.param(lambda x: {"y": x[:, :3]}, "has the shape [1, 3], wanted [1, 4]", id="another-width"),
    pytest.param(lambda x: {"y": x[:0]}, "has the shape [0, 4]", id="no-rows"),
    pytest.param(lambda x: {"y": x[0]}, "has the shape [4]", id="no-batch"),
    pytest.param(first_row(np.nan), "not finite", id="nan"),
    pytest.param(first_row(np.inf), "not finite", id="infinity"),
]


@pytest.mark.parametrize("judge", [top1, recall])
@pytest.mark.parametrize(("change", "why"), USELESS)
def test_an_answer_that_cannot_be_judged_is_worth_nothing_and_says_why(judge, change, why):
    result = judge(broken(change))
    assert (result.value, result.drop, result.reference) == (None, None, 1.0)
    assert why in result.why
    assert not result.passes(0.999)
    assert why in result.why_not(0.999)
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("judge", [top1, recall])
@pytest.mark.parametrize(("change", "why"), USELESS)
def test_a_reference_that_cannot_be_judged_lets_not_even_itself_pass(judge, change, why):
    """np.argmax finds the same NaN in both."""
    for run in (broken(change), same):
        result = judge(run, reference=broken(change))
        assert result.why.startswith("the fp32 onnx itself: ")
        assert why in result.why
        assert not result.passes(0.999)


@pytest.mark.parametrize("judge", [top1, recall])
def test_the_reference_itself_loses_nothing_and_a_little_noise_a_little(judge):
    kept, noised, ruined = judge(same), judge(noisy(0.7)), judge(noisy(100.0))
    assert (kept.value, kept.drop, kept.samples, kept.why) == (1.0, 0.0, 12, None)
    assert kept.passes(0.0)
    assert 1.0 > noised.value > ruined.value
    assert noised.passes(0.9)
    assert not noised.passes(0.01)


@pytest.mark.parametrize("pairs", [None, Pairs(queries=(), answers=(), own=())])
def test_no_pairs_are_no_evidence(pairs):
    result = TaskBench(flat_spec(RECALL), (), pairs, same).result(same)
    assert (result.samples, result.value, result.why) == (0, None, "there are no pairs")
    assert not result.passes(0.999)


def test_no_samples_are_no_evidence():
    assert "no samples" in top1(same, samples=()).why
    assert not TaskResult.of("top1", 0, 1.0, 1.0).passes(0.5)


def test_of_answers_that_are_all_alike_none_is_the_nearest():
    """A twin that took the first of the nearest would find one query's answer, and all of them if it asked for >=."""
    alike = recall(lambda feed: {"y": np.full_like(feed["x"], 0.1)})
    assert alike.value == 0.0
    assert "0 is no better than answers that do not depend on the input, which get 0.0833" in alike.why
    assert not alike.passes(0.999)


def test_cosines_that_differ_by_less_than_they_are_exact_are_ties():
    """Neighbours here are 5e-11 apart: more than the rounding of a sum of doubles, and nothing that an engine tells."""
    rows = [np.array([1.0, 1e-5 * number, 0.0, 0.0]) for number in range(40)]
    assert not recall_hits(rows, rows, range(40)).any()


def test_the_candidate_is_asked_with_its_own_embeddings():
    """A rotation turns every vector and keeps every neighbour; judged against FP32's vectors it would lose all."""
    turned = np.linalg.qr(np.random.default_rng(7).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    assert recall(lambda feed: {"y": feed["x"] @ turned}).value == 1.0


def test_an_engine_that_is_better_than_fp32_passes_at_no_drop():
    queries, answers = words(12)
    worse = recall(same, pairs=pairs_of(queries, answers), reference=noisy(0.5))
    assert worse.drop < 0
    assert worse.passes(0.0)


def test_queries_may_share_an_answer_and_each_finds_it():
    queries, answers = words(4)
    twice = pairs_of(np.concatenate([queries, queries * 2]), answers, (0, 1, 2, 3) * 2)
    result = recall(same, pairs=twice)
    assert (result.samples, result.value) == (8, 1.0)


def test_many_queries_are_counted_piece_by_piece():
    """Twin: the index of the whole used in a piece would point behind it, or at another's answer."""
    count = QUERIES_AT_ONCE + 3
    vectors = list(np.random.default_rng(3).normal(size=(count, 24)))
    assert recall_hits(vectors, vectors, range(count)).shape == (count,)
    assert recall_hits(vectors, vectors, range(count)).all()
    assert not recall_hits(vectors, vectors, [*range(1, count), 0]).any()
    with pytest.raises(UnusableError):
        recall_hits(vectors, vectors, range(count - 1))


def test_an_engine_that_tells_no_classes_apart_is_not_right_where_the_first_one_is():
    """np.argmax of equal values is 0, the commonest class of many models."""
    assert top1_hits([greatest(np.array([2.0, 1.0, 0.0]))], [np.zeros(3)]).tolist() == [False]


def test_what_padding_answers_is_not_counted():
    """Two samples of one and three rows in one batch: four answers, and not six."""
    samples = tuple({"x": np.eye(rows, WIDTH, k=3 - rows, dtype=np.float32)} for rows in (1, 3))

    def wrong_on_padding(feed):
        padding = ~feed["x"].any(axis=-1)
        y = feed["x"].copy()
        y[padding, 2] = 1.0
        return {"y": y}

    result = top1(wrong_on_padding, samples=samples, spec=rows_spec(2))
    assert (result.samples, result.value) == (4, 1.0)


@pytest.mark.parametrize(("batch", "least"), [("batch", 1), ("batch", 5), (5, None)])
def test_every_sample_counts_once_whatever_the_batch(batch, least):
    """12 samples in batches of 5: three that only fill up the last batch are not counted."""
    seen = []

    def run(feed):
        seen.append(len(feed["x"]))
        return same(feed)

    result = top1(run, spec=flat_spec(TOP1, batch=batch, least=least))
    assert result.samples == 12
    assert set(seen) == {least or 5}


def test_the_reference_is_run_once_for_all_candidates():
    asked = []

    def reference(feed):
        asked.append(feed)
        return same(feed)

    for task, bench_samples, pairs in (
        (TOP1, samples_of(words(12)[0]), None),
        (RECALL, (), pairs_of(*words(6))),
    ):
        asked.clear()
        bench = TaskBench(flat_spec(task), bench_samples, pairs, reference)
        assert bench.result(same) == bench.result(same)
        assert len(asked) == 12


def test_a_drop_of_exactly_the_limit_passes_and_the_next_step_does_not():
    """0.9 - 0.89 is 0.010000000000000009."""
    assert TaskResult.of("recall_at_1", 100, 0.9, 0.89).passes(0.01)
    assert not TaskResult.of("recall_at_1", 100, 0.9, 0.88).passes(0.01)
    assert not TaskResult.of("recall_at_1", 10_000, 0.9, 0.8899).passes(0.01)


@pytest.mark.parametrize(("reference", "value"), [(math.nan, 0.9), (0.9, math.nan), (math.nan, math.nan)])
def test_nan_never_passes(reference, value):
    assert not TaskResult.of("recall_at_1", 100, reference, value).passes(0.999)
