"""`holds` follows from the figures: each bar broken once must say so, and what is missing never holds."""

import json
import math

import pytest

from benchmarks.engines.bars import MODELS
from benchmarks.engines.ratios import COSINE, MEMORY, P99, RECALL_DROP, THROUGHPUT, ratios_of
from benchmarks.engines.result import MergeError, merged, result
from benchmarks.engines.sides import EAGER
from benchmarks.engines.timing import summary, timed
from tests.benchmarks.engines_result import HARDWARE, MOST, ONE, everything, measured


def lines(figures, hardware=HARDWARE, why=None):
    return {line["id"]: line for line in result(hardware, figures, why)["acceptance"]}


def bar(figures, model, what, hardware=HARDWARE):
    rows = lines(figures, hardware)["engines.1"]["value"]
    return next(row for row in rows if (row["model"], row["what"]) == (model, what))


def put(figures, model, path, value):
    """Replace one figure deep in what was measured."""
    found = figures[model]["steps"]
    for key in path[:-1]:
        found = found[key]
    if value is None:
        del found[path[-1]]
    else:
        found[path[-1]] = value
    return figures


FP16 = ("cold_build", "report", "candidates", "fp16")


def test_a_result_that_keeps_every_promise_holds_and_what_is_proven_elsewhere_is_null():
    found = {name: line["holds"] for name, line in lines(everything()).items()}
    assert found == {
        "engines.1": True,
        "engines.2": True,
        "engines.3": None,
        "engines.4": True,
        "engines.5": None,
        "engines.6": None,
    }


@pytest.mark.parametrize(
    ("what", "path", "value", "missed_by"),
    [
        (P99, ("torch", EAGER, ONE, "p99_ms"), 3.9, "0.1 x"),
        (THROUGHPUT, ("torch", EAGER, MOST, "rows_per_s"), 2400.0, "0.15 x"),
        (MEMORY, ("peak", EAGER, "driver_bytes"), 800 * 2**20, "0.15 of eager's"),
        (COSINE, ("engine_against_pytorch", "cosine_min"), 0.9994, "0.0001"),
        (
            RECALL_DROP,
            (*FP16[:-1], "int8-minmax", "task"),
            {"metric": "recall_at_1", "pairs": 9, "reference": 0.9, "value": 0.88, "drop": 0.02},
            "0.01 of the pairs",
        ),
    ],
)
def test_each_bar_that_is_missed_says_by_how_much_and_why(what, path, value, missed_by):
    figures = put(everything(), "minilm", path, value)
    row = bar(figures, "minilm", what)
    assert (row["holds"], row["missed_by"]) == (False, missed_by)
    assert row["why"]
    line = lines(figures)["engines.1"]
    assert line["holds"] is False
    assert "minilm" in line["reason"]
    assert missed_by in line["reason"]


@pytest.mark.parametrize(
    ("what", "path"),
    [
        (P99, ("torch", EAGER, ONE)),
        (P99, (*FP16, "timings", ONE)),
        (THROUGHPUT, (*FP16, "timings", MOST)),
        (MEMORY, ("peak", EAGER)),
        (MEMORY, (*FP16, "peak_memory_bytes")),
        (COSINE, ("pytorch_against_onnx",)),
        (RECALL_DROP, (*FP16[:-1], "int8-minmax", "task")),
    ],
)
def test_a_figure_that_is_missing_never_holds(what, path):
    figures = put(everything(), "minilm", path, None)
    if what == COSINE:
        put(figures, "minilm", ("engine_against_pytorch",), {"error": "no answers"})
    row = bar(figures, "minilm", what)
    assert (row["got"], row["holds"]) == (None, None)
    assert row["why"]
    found = lines(figures)
    assert found["engines.1"]["holds"] is None
    assert found["engines.4"]["holds"] is None
    assert what in found["engines.4"]["reason"]


def test_the_error_of_a_side_stands_where_its_figure_would():
    figures = put(everything(), "gpt", ("torch", EAGER, ONE), {"error": "out of memory"})
    assert bar(figures, "gpt", P99)["why"] == "out of memory"


@pytest.mark.parametrize("value", [math.nan, math.inf, "fast", True])
def test_a_figure_that_is_no_finite_number_never_holds(value):
    assert bar(put(everything(), "gpt", ("torch", EAGER, ONE, "p99_ms"), value), "gpt", P99)["holds"] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "fp32"}, "fp32"),
        ({"backend": "onnxruntime"}, "onnxruntime"),
        ({"effort": {"warm": 2, "runs": 400, "peak_runs": 20}}, "2 warm-up"),
        ({"effort": {"warm": 50, "runs": 400, "peak_runs": 2}}, "memory of 2 runs"),
    ],
)
def test_what_was_measured_otherwise_than_promised_is_not_judged(change, said):
    figures = everything()
    if "precision" in change:
        figures["gpt"]["steps"]["cold_build"]["report"]["candidates"]["fp32"] = figures["gpt"]["steps"][
            "cold_build"
        ]["report"]["candidates"]["fp16"]
    figures["gpt"] |= change
    row = bar(figures, "gpt", P99)
    assert row["holds"] is None
    assert said in row["why"]


def test_fewer_runs_of_eager_than_promised_are_not_judged():
    row = bar(put(everything(), "gpt", ("torch", EAGER, ONE, "n"), 399), "gpt", P99)
    assert row["holds"] is None
    assert "399 runs" in row["why"]


def test_fewer_runs_of_the_engine_than_of_eager_are_not_judged():
    path = ("cold_build", "report", "candidates", "fp16", "timings", ONE, "n")
    row = bar(put(everything(), "gpt", path, 20), "gpt", P99)
    assert row["holds"] is None
    assert "engine: 20 runs, promised 400" in row["why"]


def test_another_card_is_not_judged():
    found = lines(everything(), {**HARDWARE, "gpu": "NVIDIA L4"})
    assert [found[name]["holds"] for name in ("engines.1", "engines.2")] == [None, None]
    assert "NVIDIA L4" in found["engines.1"]["reason"]


@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_was_not_run_is_missing(model):
    figures = everything()
    del figures[model]
    found = lines(figures)
    assert [found[name]["holds"] for name in ("engines.1", "engines.2", "engines.4")] == [None, True, None]
    assert model in found["engines.4"]["reason"]


@pytest.mark.parametrize(
    ("path", "value", "holds"),
    [
        (("warm_build", "build_seconds", "fp16"), 13.0, False),
        (("unchanged", "built_nothing"), False, False),
        (("unchanged",), {"error": "not run"}, None),
        (("warm_build",), {"error": "not run"}, None),
        (("warm_build", "build_seconds", "fp16"), math.nan, None),
        (("cold_build", "timing_cache", "began_with"), "c" * 64, None),
        (("warm_build", "timing_cache"), {"began_with": None, "sha256": None}, None),
        (("warm_build", "timing_cache"), None, None),
    ],
)
def test_a_rebuild_that_is_slow_or_compares_nothing_does_not_hold(path, value, holds):
    line = lines(put(everything(), "gpt", path, value))["engines.2"]
    assert line["holds"] is holds
    assert "gpt" in line["reason"]


def test_an_engine_that_was_not_chosen_is_judged_by_the_sum_of_its_two_angles():
    one = measured("gpt")
    one["steps"]["engine_against_pytorch"]["candidate"] = "int8-minmax"
    one["steps"]["pytorch_against_onnx"]["cosine_min"] = math.cos(0.01)
    one["steps"]["cold_build"]["report"]["candidates"]["fp16"]["accuracy"]["y"]["cosine_min"] = math.cos(0.02)
    assert ratios_of(one)["cosine"]["judged"] == pytest.approx(math.cos(0.03), abs=1e-12)


def test_the_int8_candidate_that_is_judged_is_the_one_that_the_builder_would_take():
    one = measured("minilm")
    candidates = one["steps"]["cold_build"]["report"]["candidates"]
    better = json.loads(json.dumps(candidates["int8-minmax"]))
    better["accuracy"]["y"]["cosine_min"], better["task"]["drop"] = 0.999, 0.001
    candidates["int8-percentile"] = better
    assert ratios_of(one)["judged"][RECALL_DROP] == 0.001
    one["steps"]["cold_build"]["report"]["chosen"] = "int8-minmax"
    assert ratios_of(one)["judged"][RECALL_DROP] == 0.005


def test_cost_is_the_price_by_the_rows_and_nothing_without_a_price():
    assert ratios_of(measured("gpt"))["cost_per_million_rows"]["engine"] == pytest.approx(1000 / 3000)
    assert "onnxruntime_cpu" not in ratios_of(measured("gpt"))["cost_per_million_rows"]
    assert ratios_of({**measured("gpt"), "price_per_hour": None})["cost_per_million_rows"] == {}


def test_a_persons_reason_stands_before_the_computed_one():
    figures = put(everything(), "gpt", ("torch", EAGER, ONE, "p99_ms"), 2.0)
    rows = lines(figures, why={f"gpt.{P99}": "Large matrices."})["engines.1"]["value"]
    row = next(row for row in rows if row["model"] == "gpt" and row["what"] == P99)
    assert row["why"].startswith("Large matrices. (at batch=1")


def document(model, **hardware):
    return {"hardware": {**HARDWARE, **hardware}, "model": model, "measured": measured(model)}


def test_parts_of_one_machine_merge_and_a_whole_result_is_a_part_too():
    whole = result(*merged([document("minilm"), document("gpt")]))
    hardware, figures = merged([whole, document("bert_base")])
    assert (hardware, set(figures)) == (HARDWARE, set(MODELS))
    assert lines(figures)["engines.1"]["holds"] is True


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([document("minilm"), document("gpt", cores=8)], "hardware.cores is 8"),
        ([document("minilm"), document("gpt", extra=1)], "hardware.extra"),
        ([document("minilm"), document("minilm")], "minilm is in two results"),
        ([], "no result"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(documents, said):
    with pytest.raises(MergeError, match=said):
        merged(documents)


def test_a_summary_has_its_n_and_is_of_nothing_but_runs():
    found = summary([1.0, 2.0, 3.0, 4.0], rows=8)
    assert (found["n"], found["mean_ms"], found["p50_ms"], found["rows_per_s"]) == (4, 2.5, 2.5, 3200.0)
    with pytest.raises(ValueError, match="no run"):
        summary([], rows=1)


def test_a_slow_side_is_run_less_often_but_five_times_at_least():
    calls = []
    found = timed(calls.append, {"x": [[1.0]]}, warm=7, runs=50, budget_s=0.0)
    assert found["n"] == 5
    assert len(calls) == 10
    calls.clear()
    assert timed(calls.append, {"x": [[1.0]]}, warm=7, runs=50, budget_s=60.0)["n"] == 50
    assert len(calls) == 57


def test_when_no_model_was_built_twice_nothing_is_said_of_rebuilds():
    figures = everything()
    for one in figures.values():
        del one["steps"]["warm_build"]
    line = lines(figures)["engines.2"]
    assert (line["holds"], line["reason"]) == (None, "no model was built twice")
