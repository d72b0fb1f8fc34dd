"""What is served and how samples are collected: `holds` follows from the figures, and both are measured for real."""

import ast
import copy
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import benchmarks.calibration.__main__ as cli
from benchmarks.calibration.invariance import SIZES, TESTS, invariance_line, passed, same, threads_pay, ways
from benchmarks.calibration.page import page
from benchmarks.calibration.recall import figures
from benchmarks.calibration.result import result
from benchmarks.calibration.serve import Block, in_order, sent, server
from benchmarks.calibration.speed import TARGET, ratio, speed_line, summary
from calibration.ranges import Histogram
from local.load.client import body_of
from tests.benchmarks.engines_result import HARDWARE
from tests.benchmarks.test_calibration import embeddings, whole, write_model
from tests.serving.runtime.engines import NAN_TOKEN, embedding_engine, expected

REPO = Path(__file__).parents[2]
FLAGS = frozenset({"avx2", "avx512_vnni"})


def blocks(ms, *, requests=40, pairs=6):
    """Each of `pairs` a percent slower than the one before."""
    times = [np.full(requests, ms * 1.01**number) for number in range(pairs)]
    rows = np.random.default_rng(1).normal(size=(requests, 4)).astype(np.float32)
    return [Block(one.sum() / 1000, one, rows, 0) for one in times]


def served(**changes):
    accuracy = dict.fromkeys(("fp32", "int8"), figures(embeddings(), embeddings()))
    made = summary({"fp32": blocks(20.0), "int8": blocks(10.0)}, accuracy, FLAGS)
    return {**made, "chosen": {"fp32": "fp32", "int8": "int8-minmax"}, **changes}


def test_figures_that_are_all_there_hold_whatever_they_say():
    line = speed_line(served())
    assert (line["id"], line["target"], line["holds"], "reason" in line) == (
        "calibration.2",
        TARGET,
        True,
        False,
    )
    assert line["value"]["speed_up"]["value"] == pytest.approx(2.0)
    assert line["value"]["engines"]["int8"]["n"] == 240
    assert (line["value"]["vnni"], line["value"]["vnni_flags"]) == (True, ["avx512_vnni"])
    slower = served(speed_up=ratio([1.0] * 5, [2.0] * 5))
    assert speed_line(slower)["holds"] is True


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("engines", "int8", "p99_ms"), math.nan, "no p99_ms of int8"),
        (("engines", "fp32", "requests_per_s"), None, "no requests_per_s of fp32"),
        (("engines", "fp32", "failed"), 3, "3 requests to fp32 failed"),
        (("engines", "int8", "accuracy"), {"error": "answers that are not finite"}, "no recall of int8: answers that"),
        (("speed_up", "low"), None, "no speed_up with its interval"),
        (("vnni",), None, "not said whether the CPU has VNNI"),
        (("pairs",), 4, "4 pairs of blocks, wanted 5"),
        (("engines",), {}, "no p50_ms of int8"),
    ],
)  # fmt: skip
def test_a_figure_that_is_missing_leaves_the_line_undecided_with_the_reason(path, value, reason):
    found = copy.deepcopy(served())
    here = found
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    line = speed_line(found)
    assert line["holds"] is None
    assert reason in line["reason"]


def test_what_was_not_run_or_has_no_int8_engine_is_not_held():
    assert speed_line(None)["reason"] == "not run"
    assert speed_line({"error": "the builder chose fp32: .."})["holds"] is None
    assert invariance_line(None)["holds"] is None


def test_the_ratio_is_of_the_pairs_and_its_interval_is_student_s():
    found = ratio([2.0, 4.0, 8.0], [1.0, 1.0, 1.0])
    assert found["value"] == pytest.approx(4.0)
    reach = 4.302652729911275 * math.log(2) / math.sqrt(3)  # t of 2 degrees of freedom at 97.5 %
    assert found["low"] == pytest.approx(4.0 / math.exp(reach))
    assert found["high"] == pytest.approx(4.0 * math.exp(reach))
    drifting = ratio([2.0 * 1.5**n for n in range(6)], [1.5**n for n in range(6)])  # both slow down together
    assert (drifting["low"], drifting["high"]) == (pytest.approx(2.0), pytest.approx(2.0))
    for above in ([1.0], [1.0, 0.0], [1.0, math.inf]):
        assert ratio(above, [1.0] * len(above))["value"] is None


def test_the_interval_covers_the_ratio_as_often_as_it_says():
    """2 000 seeded runs of 10 pairs; 95 % give 1 900, and 1 850 are six standard deviations of luck below."""
    rng = np.random.default_rng(9)
    logs = math.log(1.7) + 0.3 * rng.normal(size=(2000, 10))
    found = [ratio(np.exp(row), np.ones(10)) for row in logs]
    inside = sum(one["low"] <= 1.7 <= one["high"] for one in found)
    assert 1850 <= inside <= 1950


def test_the_load_gets_the_server_s_own_answers_in_the_order_of_the_texts(tmp_path):
    engine = embedding_engine(tmp_path / "engine")
    texts = [[number, number + 1, number + 2, 60] for number in range(10, 40)]
    bodies = [body_of({"input_ids": ids, "attention_mask": [1] * 4})[0] for ids in texts]
    with server(engine) as port:
        order = np.random.default_rng(3).permutation(len(texts))
        halves = [sent(port, [bodies[place] for place in part]) for part in np.array_split(order, 2)]
        poisoned = body_of({"input_ids": [NAN_TOKEN] * 4, "attention_mask": [1] * 4})[0]
        bad = sent(port, [bodies[0], poisoned, bodies[1]])
    assert [half.failed for half in halves] == [0, 0]
    np.testing.assert_allclose(in_order(halves, order), np.stack([expected(ids) for ids in texts]), rtol=1e-5)
    for half in halves:
        assert (half.ms > 0).all()
        assert half.seconds * 1000 >= half.ms.max()
    assert bad.failed == 1
    assert np.isnan(bad.answers[1]).all()
    gone = sent(port, bodies[:3])
    assert gone.failed == 3


def test_a_server_that_ends_before_it_is_ready_is_an_error(tmp_path):
    engine = embedding_engine(tmp_path / "engine", arch="cpu-of-another-kind")
    with pytest.raises(RuntimeError, match="before it was ready"), server(engine):
        pass


def collected(**changes):
    rows = [
        {"chunk": size, "order": order, "threads": n, "same": True}
        for size in SIZES
        for order in ("as in the file", "shuffled")
        for n in (1, 2)
    ]
    tests = {what: {"tests": list(ids), "passed": True, "said": "1 passed"} for what, ids in TESTS.items()}
    threads = {"one_s": 2.0, "two_s": 1.2, "speed_up": ratio([2.0, 2.1], [1.2, 1.2])}
    made = {"samples": 130, "tensors": 24, "methods": ["minmax"], "ways": rows, "tests": tests}
    return {**made, "threads": threads, **changes}


def test_ways_that_agree_and_tests_that_pass_hold():
    line = invariance_line(collected())
    assert (line["id"], line["holds"], line["value"]["same"]) == ("calibration.3", True, 12)


@pytest.mark.parametrize(
    ("change", "holds", "reason"),
    [
        (lambda one: one["ways"][5].update(same=False), False, "chunks of 7, as in the file, 2 threads"),
        (lambda one: one["tests"]["a NaN"].update(passed=False, said="1 failed"), False, "a NaN: 1 failed"),
        (lambda one: one["tests"]["a NaN"].update(passed=None), None, "a NaN: not run"),
        (lambda one: one["tests"].pop("an all-zero tensor"), None, "an all-zero tensor: not run"),
        (lambda one: one["ways"].__delitem__(slice(8, None)), None, "4 ways to collect"),
        (lambda one: one.update(samples=64), None, "64 samples fill no chunk but one"),
    ],
)  # fmt: skip
def test_one_way_that_differs_breaks_the_line_and_what_was_not_run_leaves_it_open(change, holds, reason):
    found = collected()
    change(found)
    line = invariance_line(found)
    assert line["holds"] is holds
    assert reason in line["reason"]


def test_every_test_that_is_named_is_there():
    for test in [test for ids in TESTS.values() for test in ids]:
        file, _, name = test.partition("::")
        names = {one.name for one in ast.walk(ast.parse((REPO / file).read_text())) if hasattr(one, "name")}
        assert name in names, test


def test_a_test_that_is_not_there_or_fails_has_not_passed(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    found = [passed([f"{tmp_path}/test_it.py::test_{name}"])["passed"] for name in ("good", "bad", "gone")]
    assert found == [True, False, False]


def test_collecting_is_compared_to_the_bit_on_a_small_model(tmp_path):
    model = onnx.load(write_model(tmp_path / "model.onnx"))
    rng = np.random.default_rng(4)
    lengths = rng.integers(4, 20, size=70)
    samples = [
        {"input_ids": rng.integers(0, 30_522, size=n), "attention_mask": np.ones(n, np.int64)}
        for n in lengths
    ]
    rows = ways(model, ("words",), samples)
    assert len(rows) == 12
    assert all(row["same"] for row in rows)
    speed = threads_pay(model, ("words",), samples, turns=2)
    assert speed["speed_up"]["pairs"] == 2
    counts = np.arange(2048)
    one = {"t": Histogram(low=-1.0, high=1.0, counts=counts)}
    assert same(one, one)
    assert not same(one, {"t": Histogram(low=-1.0, high=1.0, counts=np.append(counts[:-1], 0))})
    assert not same(one, {"t": Histogram(low=-1.0, high=1.1, counts=counts)})
    assert not same(one, {})


def test_parts_alone_are_kept_and_make_one_page_with_the_rest(tmp_path, capsys):
    (tmp_path / "server.json").write_text(json.dumps(served()))
    (tmp_path / "invariance.json").write_text(json.dumps(collected()))
    argv = ["--json", "--resume", "--out", str(tmp_path), "--only", "server", "invariance"]
    assert cli.main(argv) == 0
    made = json.loads(capsys.readouterr().out)
    assert [line["holds"] for line in made["acceptance"]] == [None, True, True]
    text = page(result(HARDWARE, whole(), served(), collected()))
    for wanted in (
        "INT8 answers 2.00 (95 %: 2.00 to 2.00) times as many requests a second as FP32",
        "The CPU has VNNI (`avx512_vnni`).",
        "| INT8 | 240 | 10.25 | 10.51 | 97.5 | 1.0000 | 100.0 % | 1.0000 |",
        "130 texts were collected in 12 ways: chunks of 1, 7, 64,",
        "| a NaN | `tests/calibration/test_degenerate.py::",
        f"| calibration.2 | {TARGET} | holds |",
    ):
        assert wanted in text, wanted
    assert "has no VNNI" in page(result(HARDWARE, whole(), served(vnni=False, vnni_flags=[])))
    assert "Not measured: no engine." in page(result(HARDWARE, whole(), {"error": "no engine"}))
    assert "gained where it is served" not in page(result(HARDWARE, whole()))
