"""An engine is judged by what the model is for: never by an answer that cannot be judged, never against chance."""

import json

import numpy as np
import pytest
import yaml

from build_images.engine_builder.build import build_release
from build_images.engine_builder.choose import Measured, choose, passes
from build_images.engine_builder.task import TaskBench, TaskResult, recall_hits, top1_hits
from build_images.exporter.export import export_release
from calibration.candidates import calibrate_release
from sluice.errors import FatalError
from sluice.pairs import PairError, Pairs
from sluice.spec import parse_spec
from tests.build_images.support import ARCH, released, spec_dict, write_checkpoint

EMBEDDER = """
import torch

class Embedder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.up = torch.nn.Linear(8, 32, bias=False)

    def forward(self, x):
        return self.up(x).sum(dim=1)

def load(folder):
    return Embedder()
"""
RECALL = {"metric": "recall_at_1", "output": "y", "pairs": "pairs.jsonl", "max_drop": 0.01}
TOP1 = {"metric": "top1", "output": "y"}
RNG = np.random.default_rng(4)


def spec(task, **model):
    model = {"outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", 32]}], **model}
    return parse_spec(yaml.safe_dump(spec_dict(task=task, model=model)), {})


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


@pytest.mark.parametrize("task", [RECALL, TOP1], ids=["recall", "top1"])
def test_one_answer_for_everything_never_passes(task):
    result = bench(task).result(constant)
    assert result.value < 0.1
    assert not result.passes(0.01)


def test_a_vector_without_length_has_no_nearest_answer():
    result = bench().result(lambda feed: {"y": np.zeros((len(feed["x"]), 32), np.float32)})
    assert "without length" in result.why
    assert not result.passes(1.0)


def test_a_reference_no_better_than_chance_lets_nothing_pass():
    result = bench(reference=constant).result(exact)
    assert "the fp32 onnx itself has" in result.why
    assert not result.passes(1.0)


def test_noise_costs_recall_and_the_limit_decides():
    def noisy(feed):
        rng = np.random.default_rng(int(abs(feed["x"].sum()) * 1000))
        return {"y": exact(feed)["y"] + rng.normal(size=(len(feed["x"]), 32)).astype(np.float32) * 8}

    result = bench(noise=0.3).result(noisy)
    assert 0 < result.drop < 1
    assert result.passes(result.drop)
    assert not result.passes(result.drop - 0.001)


def test_the_reference_is_run_once_for_all_candidates():
    calls = []

    def counted(feed):
        calls.append(1)
        return exact(feed)

    one = bench(reference=counted)
    one.result(exact)
    first = len(calls)
    assert one.result(exact).passes(0.0)
    assert len(calls) == first > 0


def test_two_that_are_equally_near_are_no_hit():
    queries = [np.array([1.0, 0.0])]
    assert not recall_hits(queries, [np.array([1.0, 0.0]), np.array([2.0, 0.0])], [0]).any()
    assert recall_hits(queries, [np.array([1.0, 0.0]), np.array([0.0, 1.0])], [0]).all()


def test_top1_counts_every_position_of_every_sample():
    wanted = [np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0.3, 0.7]])]
    got = [np.array([[0.2, 0.8], [0.1, 0.9]]), np.array([[0.4, 0.6]])]
    assert top1_hits(wanted, got).tolist() == [True, False, True]


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


def pair_lines(n, *, seed=9):
    queries = rows_of(n, seed=seed)
    halves = zip(queries, near(queries, 0.05), strict=True)
    return [json.dumps({"query": _plain(q), "answer": _plain(a)}) for q, a in halves]


def _plain(sample):
    return {"x": sample["x"].round(4).tolist()}


def made(tmp_path, lines, *, task=RECALL, **changes):
    checkpoint = write_checkpoint(tmp_path / "ckpt", EMBEDDER)
    if lines is not None:
        (checkpoint / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    model = {"outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", 32]}]}
    store, release = released(tmp_path / "store", checkpoint, task=task, model=model, **changes)
    export_release(store, release)
    calibrate_release(store, release)
    build_release(store, release, ARCH)
    folder = store.get("engine", release.keys.engine(ARCH)).path
    return json.loads((folder / "report.json").read_text())


def test_every_candidate_of_a_real_build_has_its_task_in_the_report(tmp_path):
    report = made(tmp_path, pair_lines(40))
    assert {"fp32", "int8-minmax"} <= set(report["candidates"])
    for name, candidate in report["candidates"].items():
        task = candidate["task"]
        assert (task["metric"], task["samples"]) == ("recall_at_1", 40), name
        assert 0.9 < task["value"] <= 1.0
    assert report["candidates"]["fp32"]["task"]["drop"] == 0.0


@pytest.mark.parametrize(
    ("lines", "error", "says"),
    [
        pytest.param(None, FatalError, "there is no such file", id="no-file"),
        pytest.param(pair_lines(1), PairError, "1 different answers, 2 or more", id="one-answer"),
        pytest.param([*pair_lines(3), "{"], PairError, "pairs, line 4: no JSON", id="no-json"),
        pytest.param([*pair_lines(2), '{"query": {}}'], PairError, 'line 3: no object of "query"', id="half"),
    ],
)
def test_pairs_that_cannot_be_used_are_an_error_with_the_line(tmp_path, lines, error, says):
    with pytest.raises(error, match=says):
        made(tmp_path, lines)


def test_a_pair_that_calibrates_is_refused(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "other", EMBEDDER)
    first = json.loads((checkpoint / "samples.jsonl").read_text().splitlines()[0])
    stolen = json.dumps({"query": first, "answer": _plain(rows_of(1)[0])})
    with pytest.raises(PairError, match="query is sample 1, which calibrates"):
        made(tmp_path, [*pair_lines(2), stolen])


def close_lines(n, *, seed=11):
    """Pairs with an answer beside each that INT8 cannot tell from it, since one step of it is far wider."""
    rng = np.random.default_rng(seed)
    lines = []
    for base in rows_of(n // 2, seed=seed):
        for _ in range(2):
            answer = base["x"] + rng.normal(size=base["x"].shape) * 1e-3
            query = answer + rng.normal(size=answer.shape) * 1e-5
            halves = {"query": query, "answer": answer}
            lines.append(json.dumps({side: {"x": half.round(7).tolist()} for side, half in halves.items()}))
    return lines


def test_int8_of_a_high_cosine_that_fails_the_task_gives_fp32_which_nobody_asked_for(tmp_path):
    report = made(tmp_path, close_lines(40), precisions=["int8"])
    assert report["chosen"] == "fp32"
    assert report["candidates"]["fp32"]["task"]["value"] == 1.0
    int8 = {name: one for name, one in report["candidates"].items() if name != "fp32"}
    assert set(int8) >= {"int8-minmax", "int8-percentile"}
    for name, one in int8.items():
        value, drop = one["task"]["value"], one["task"]["drop"]
        assert one["accuracy"]["y"]["cosine_min"] > 0.98, name
        assert drop > 0.1, name
        says = f"recall_at_1 {value:.3g}, {drop:.3g} below fp32's 1 (limit 0.01)"
        assert report["rejected"][name] == says
