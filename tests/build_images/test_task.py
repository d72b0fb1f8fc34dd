"""An engine is judged by what the model is for: never by an answer that cannot be judged, never against chance."""

import dataclasses

import numpy as np
import pytest
import yaml

from build_images.engine_builder.choose import Measured, choose, passes
from build_images.engine_builder.task import (
    TaskBench,
    TaskResult,
    blind_top1,
    greatest,
    recall_hits,
    top1_hits,
)
from sluice.pairs import Pairs
from sluice.spec import parse_spec
from tests.build_images.support import spec_dict

RECALL = {"metric": "recall_at_1", "output": "y", "pairs": "pairs.jsonl", "max_drop": 0.01}
TOP1 = {"metric": "top1", "output": "y"}
RNG = np.random.default_rng(4)


def spec(task, precisions=("fp32", "int8"), **model):
    model = {"outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", 32]}], **model}
    return parse_spec(yaml.safe_dump(spec_dict(task=task, model=model, precisions=list(precisions))), {})


def rows_of(n, size=3, seed=1):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(size, 8)).astype(np.float32)} for _ in range(n)]


def near(samples, by, seed=2):
    rng = np.random.default_rng(seed)
    return [{"x": one["x"] + rng.normal(size=one["x"].shape).astype(np.float32) * by} for one in samples]


WEIGHT = RNG.normal(size=(8, 32)).astype(np.float32)


def exact(feed):
    return {"y": (feed["x"] @ WEIGHT).sum(axis=1)}


def bench(task=RECALL, *, samples=None, reference=exact, noise=0.05):
    queries = rows_of(60)
    pairs = Pairs(queries=tuple(queries), answers=tuple(near(queries, noise)), own=tuple(range(60)))
    return TaskBench(spec(task), samples or rows_of(30), pairs, reference)


def constant(feed):
    return {"y": np.ones((len(feed["x"]), 32), np.float32)}


def with_nan(feed):
    answer = exact(feed)
    answer["y"][0, 0] = np.nan
    return answer


@pytest.mark.parametrize("task", [RECALL, TOP1], ids=["recall", "top1"])
def test_the_reference_itself_drops_nothing(task):
    result = bench(task).result(exact)
    assert (result.drop, result.why) == (0.0, None)
    assert result.value == result.reference > 0.9
    assert result.passes(0.0)


@pytest.mark.parametrize("task", [RECALL, TOP1], ids=["recall", "top1"])
@pytest.mark.parametrize(
    ("run", "says"),
    [
        pytest.param(with_nan, "not finite", id="nan"),
        pytest.param(lambda feed: {"z": exact(feed)["y"]}, "no output y", id="another-name"),
        pytest.param(lambda feed: {"y": exact(feed)["y"][:, :4]}, "has the shape", id="another-shape"),
        pytest.param(lambda feed: {"y": exact(feed)["y"][:0]}, "has the shape", id="no-rows"),
    ],
)
def test_an_answer_that_cannot_be_judged_never_passes_and_says_why(task, run, says):
    result = bench(task).result(run)
    assert says in result.why
    assert not result.passes(1.0)
    assert says in result.why_not(1.0)


def one_class(feed):
    return {"y": np.tile(np.eye(32, dtype=np.float32)[3], (len(feed["x"]), 1))}


@pytest.mark.parametrize("task", [RECALL, TOP1], ids=["recall", "top1"])
@pytest.mark.parametrize("run", [constant, one_class], ids=["all-equal", "one-class"])
def test_one_answer_for_everything_never_passes_whatever_the_limit(task, run):
    result = bench(task).result(run)
    assert "do not depend on the input" in result.why
    assert not result.passes(1.0)


def mostly_class_3(feed):
    """19 of 20 samples are of class 3, as the first value of x says: an answer for all would lose 0.05."""
    classes = np.where(feed["x"][:, 0, 0] > 0, 3, 5)
    return {"y": np.eye(32, dtype=np.float32)[classes]}


def test_one_class_does_not_pass_where_most_samples_are_of_it():
    samples = rows_of(20)
    for number, sample in enumerate(samples):
        sample["x"][0, 0] = 1.0 if number else -1.0
    one = bench({**TOP1, "max_drop": 0.1}, samples=samples, reference=mostly_class_3)
    assert one.result(mostly_class_3).passes(0.0)
    blind = one.result(one_class)
    assert (blind.value, blind.drop) == (0.95, 0.05)
    assert not blind.passes(0.1)


def test_answers_that_depend_on_the_place_alone_are_as_blind_as_one_answer():
    """Row r is of class r in 9 of 10 samples: each class is rare, and yet nothing needs to be read."""
    place = np.eye(8, dtype=np.float32)[:4]
    tops = [greatest(np.roll(place, 1, axis=0) if number == 0 else place) for number in range(10)]
    assert blind_top1(tops) == top1_hits(tops, [place] * 10).mean() == 0.9


def test_a_query_hub_does_not_pass_where_most_queries_share_an_answer():
    """Every query finds the one answer that 9 of 10 share: no better than to name it unasked."""
    rng = np.random.default_rng(8)
    answers = rows_of(2, seed=8)
    own = (0,) * 9 + (1,)
    queries = tuple({"x": answers[i]["x"] + rng.normal(size=(3, 8)).astype(np.float32) * 0.01} for i in own)
    one = TaskBench(
        spec(RECALL), [], Pairs(queries=queries, answers=tuple(answers), own=own), reference=exact
    )
    assert one.result(exact).value == 1.0
    held = {one["x"].tobytes() for one in answers}

    def hub(feed):  # answers as they are, each query as the first answer
        known = [x if x.tobytes() in held else answers[0]["x"] for x in feed["x"]]
        return exact({"x": np.stack(known)})

    result = one.result(hub)
    assert (result.value, result.reference) == (0.9, 1.0)
    assert not result.passes(0.5)


@pytest.mark.parametrize("task", [RECALL, TOP1], ids=["recall", "top1"])
@pytest.mark.parametrize(
    ("reference", "says"),
    [
        pytest.param(constant, "do not depend on the input", id="all-equal"),
        pytest.param(one_class, "do not depend on the input", id="one-class"),
        pytest.param(with_nan, "not finite", id="nan"),
    ],
)
def test_a_reference_that_tells_nothing_apart_lets_nothing_pass_and_has_no_numbers(task, reference, says):
    one = bench(task, reference=reference)
    for run in (exact, reference):
        result = one.result(run)
        assert result.why.startswith("the fp32 onnx itself: ")
        assert says in result.why
        assert not result.passes(1.0)
        assert (result.reference, result.value, result.drop) == (None, None, None)


@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        pytest.param(RECALL, {"pairs": None}, "there are no pairs", id="no-pairs"),
        pytest.param(TOP1, {"samples": ()}, "there are no samples", id="no-samples"),
    ],
)
def test_nothing_to_judge_on_never_passes(task, changes, says):
    result = dataclasses.replace(bench(task), **changes).result(exact)
    assert says in result.why
    assert not result.passes(1.0)


def test_a_vector_without_length_has_no_nearest_answer():
    result = bench().result(lambda feed: {"y": np.zeros((len(feed["x"]), 32), np.float32)})
    assert "without length" in result.why
    assert not result.passes(1.0)
    assert (result.reference > 0.9, result.value, result.drop) == (True, None, None)


def test_noise_costs_recall_and_the_limit_decides():
    def noisy(feed):
        rng = np.random.default_rng(int(abs(feed["x"].sum()) * 1000))
        return {"y": exact(feed)["y"] + rng.normal(size=(len(feed["x"]), 32)).astype(np.float32) * 8}

    result = bench(noise=0.3).result(noisy)
    assert 0 < result.drop < 1
    assert result.passes(result.drop)
    assert not result.passes(result.drop - 0.001)


@pytest.mark.parametrize("task", [RECALL, TOP1], ids=["recall", "top1"])
@pytest.mark.parametrize(
    "reference", [exact, constant, with_nan], ids=["good", "no-better-than-chance", "not-judged"]
)
def test_the_reference_is_run_once_for_all_candidates(task, reference):
    calls = []

    def counted(feed):
        calls.append(1)
        return reference(feed)

    one = bench(task, reference=counted)
    results = [one.result(exact)]
    first = len(calls)
    results += [one.result(run) for run in (exact, constant, exact)]
    assert len(calls) == first > 0
    assert {result.passes(0.0) for result in results} == ({True, False} if reference is exact else {False})


def test_two_that_are_equally_near_are_no_hit():
    queries = [np.array([1.0, 0.0])]
    assert not recall_hits(queries, [np.array([1.0, 0.0]), np.array([2.0, 0.0])], [0]).any()
    assert recall_hits(queries, [np.array([1.0, 0.0]), np.array([0.0, 1.0])], [0]).all()


def test_answers_in_one_place_or_another_of_the_batch_are_equally_near():
    """The same text stands twice under another mask, say: what rounding makes of their order is no finding."""
    rng = np.random.default_rng(2)
    answers = [row.astype(np.float32) for row in rng.normal(size=(50, 384))]
    twins = [*answers, *(row * np.float32(3) for row in answers)]
    assert recall_hits(answers, answers, range(50)).all()
    assert not recall_hits(answers, twins, range(50)).any()


def test_top1_counts_every_position_of_every_sample():
    wanted = [np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0.3, 0.7]])]
    got = [np.array([[0.2, 0.8], [0.1, 0.9]]), np.array([[0.4, 0.6]])]
    assert top1_hits([greatest(one) for one in wanted], got).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("wanted", "got", "hit"),
    [
        pytest.param([0.1, 0.9, 0.2], [0.5, 0.5, 0.1], False, id="undecided-is-no-hit"),
        pytest.param([0.9, 0.1, 0.2], [0.5, 0.5, 0.1], False, id="nor-where-argmax-takes-the-right-one"),
        pytest.param([0.5, 0.5, 0.1], [0.1, 0.9, 0.2], True, id="either-of-two-that-the-reference-has"),
        pytest.param([0.5, 0.5, 0.1], [0.1, 0.2, 0.9], False, id="neither-of-them"),
    ],
)
def test_top1_of_values_that_are_equal(wanted, got, hit):
    assert top1_hits([greatest(np.array(wanted))], [np.array(got)]).tolist() == [hit]


def by_rows(feed):
    """y [batch, rows, 8]: each position's class is its greatest x; what padding adds answers at random."""
    lengths = (feed["x"] != 0).any(axis=2).sum(axis=1)
    answer = feed["x"].copy()
    rng = np.random.default_rng(len(feed["x"]) + int(feed["x"].shape[1]))
    for row, length in zip(answer, lengths, strict=True):
        row[length:] = rng.normal(size=row[length:].shape)
    return {"y": answer}


def wrong_in_padding(feed):
    answer = by_rows(feed)["y"]
    answer[(feed["x"] == 0).all(axis=2)] = 0
    return {"y": answer}


def test_padding_is_nobody_s_answer_and_a_batch_that_was_filled_up_counts_once():
    """Batches of 4 over 10 samples of 2 to 6 rows: each is padded to its longest, the last with the first sample."""
    axes = {"batch": {"min": 4, "opt": 4, "max": 5, "buckets": [5]}}
    axes["rows"] = spec_dict()["model"]["axes"]["rows"]
    dims = {"outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", "rows", 8]}], "axes": axes}
    samples = [one for size in (2, 6, 3, 4, 5) for one in rows_of(2, size=size, seed=size)]
    one = TaskBench(spec(TOP1, **dims), samples, None, by_rows)
    result = one.result(wrong_in_padding)
    assert (result.samples, result.value, result.why) == (2 * (2 + 6 + 3 + 4 + 5), 1.0, None)

    def wrong_in_the_last_row(feed):
        answer = by_rows(feed)["y"]
        answer[:, -1] *= -1
        return {"y": answer}

    assert one.result(wrong_in_the_last_row).value < 1.0


def test_a_drop_of_exactly_the_limit_passes():
    assert TaskResult.of("top1", 100, 0.90, 0.89).passes(0.01)
    assert not TaskResult.of("top1", 1000, 0.90, 0.889).passes(0.01)
    assert not TaskResult.of("top1", 0, 1.0, 1.0).passes(0.01)
    assert not TaskResult.of("top1", 10, 1.0, float("nan")).passes(0.01)


def test_a_candidate_that_drops_too_far_is_turned_down_with_its_numbers():
    def measured(name, value):
        task = TaskResult.of("recall_at_1", 256, 0.894, value)
        return Measured(
            name=name, precision=name, cosine=0.999, p50_ms={"int8": 1.0, "fp32": 2.0}[name], task=task
        )

    bars = {"fp32": 0.99, "int8": 0.98}
    choice = choose([measured("fp32", 0.894), measured("int8", 0.871)], bars, ["fp32", "int8"], {}, 0.01)
    assert choice.name == "fp32"
    assert choice.rejected["int8"] == "recall_at_1 0.871, 0.023 below fp32's 0.894 (limit 0.01)"
    untold = Measured(name="int8", precision="int8", cosine=1.0, p50_ms=1.0)
    assert not passes(untold, bars, 0.01)
    assert passes(untold, bars, None)
