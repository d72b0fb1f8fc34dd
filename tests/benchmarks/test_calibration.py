"""Calibration's benchmark: its `holds` follow from its figures, its recall tells a broken model, and it really runs."""

import copy
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import benchmarks.calibration.__main__ as cli
from benchmarks.calibration.job import MODELOPT, ORT_ENTROPY, ORT_MINMAX, ORT_STRIDED, OURS, taken
from benchmarks.calibration.measure import NO_MODELOPT, split_file
from benchmarks.calibration.page import page
from benchmarks.calibration.recall import figures, recall
from benchmarks.calibration.result import TARGET, acceptance, result
from benchmarks.calibration.texts import LONGEST, split
from tests.benchmarks.engines_result import HARDWARE

MIXED = "minmax-mixed"
MIB = 2**20


def answered(lost, recall_of_fp32=0.35):
    return {
        "n": 1000,
        "recall": recall_of_fp32 - lost,
        "lost": lost,
        "agreement": 0.9,
        "cosine_min": 0.98,
        "cosine_mean": 0.99,
    }


def tool(name, lost, mib, **models):
    made = {name: answered(lost), **{other: answered(more) for other, more in models.items()}}
    told = {"seconds": 40.0, "cpu_seconds": 30.0, "peak_bytes": mib * MIB, "taken": name}
    return {**told, "models": made}


def whole():
    """Four splits in which everything that was promised holds."""
    tools = {
        OURS: tool(MIXED, 0.005, 600, minmax=0.015, entropy=0.07),
        MODELOPT: {**tool(MODELOPT, 0.06, 1200), "version": "0.47.0"},
        ORT_ENTROPY: tool(ORT_ENTROPY, 0.3, 10_000),
    }
    one = {"texts": 1000, "held_out": 1000, "fp32": {"recall": 0.35}, "tools": tools}
    splits = [{"seed": seed, **copy.deepcopy(one)} for seed in range(4)]
    splits[0]["tools"][ORT_MINMAX] = tool(ORT_MINMAX, 0.08, 700)
    return splits


def lose(split, name, lost):
    one = split["tools"][name]
    one["models"][one["taken"]] = answered(lost)


def test_a_whole_run_in_which_everything_is_kept_holds():
    line = acceptance(whole())
    assert (line["id"], line["target"], line["holds"]) == ("calibration.1", TARGET, True)
    assert "reason" not in line
    assert {row["holds"] for row in line["value"]} == {True}


def each_loses(name, *lost):
    def change(splits):
        for one, value in zip(splits, lost, strict=True):
            lose(one, name, value)

    return change


def peak(name, mib):
    def change(splits):
        splits[2]["tools"][name]["peak_bytes"] = mib * MIB

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (each_loses(OURS, 0.01, 0.01, 0.01, 0.01), "recall@1 that ours loses to FP32"),
        (each_loses(OURS, 0.0, 0.0, 0.0, 0.05), "recall@1 that ours loses to FP32"),
        (each_loses(MODELOPT, 0.004, 0.005, 0.005, 0.005), f"how much more ours loses than {MODELOPT}"),
        (each_loses(ORT_ENTROPY, 0.0, 0.0, 0.0, 0.01), f"how much more ours loses than {ORT_ENTROPY}"),
        (peak(OURS, 5_001), f"peak memory of ours by that of {ORT_ENTROPY}"),
        (peak(ORT_ENTROPY, 1_199), f"peak memory of ours by that of {ORT_ENTROPY}"),
    ],
)
def test_one_bar_that_is_missed_breaks_the_line_and_is_named(change, what):
    splits = whole()
    change(splits)
    line = acceptance(splits)
    assert line["holds"] is False
    assert [row["what"] for row in line["value"] if row["holds"] is False] == [what]
    assert what in line["reason"]


def test_a_bar_that_is_just_reached_holds():
    splits = whole()
    each_loses(MODELOPT, 0.005, 0.005, 0.005, 0.005)(splits)
    peak(OURS, 5_000)(splits)
    assert acceptance(splits)["holds"] is True


def without(*path):
    def change(splits):
        where = splits[1]
        for step in path[:-1]:
            where = where[step]
        del where[path[-1]]

    return change


def setting(value, *path):
    def change(splits):
        where = splits[1]
        for step in path[:-1]:
            where = where[step]
        where[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (list.clear, "0 of 4 were run"),
        (list.pop, "3 of 4 were run"),
        (setting(0, "seed"), "3 of 4 were run"),
        (setting(999, "texts"), "texts: 999, wanted 1000"),
        (setting(999, "held_out"), "held_out: 999, wanted 1000"),
        (setting({"error": NO_MODELOPT}, "tools", MODELOPT), NO_MODELOPT),
        (setting({"error": "killed"}, "tools", ORT_ENTROPY), "split 1: killed"),
        (setting({"error": "killed"}, "tools", OURS), "split 1: killed"),
        (
            setting({"error": "not finite"}, "tools", MODELOPT, "models", MODELOPT),
            "split 1: not finite",
        ),
        (without("tools", ORT_ENTROPY), "split 1: not run"),
        (without("tools", OURS, "models", MIXED), "split 1"),
        (without("tools", OURS, "peak_bytes"), "split 1: no peak_bytes"),
        (without("tools", MODELOPT, "seconds"), "split 1: no seconds"),
        (without("tools", MODELOPT, "models", MODELOPT, "agreement"), "split 1: no agreement"),
        (setting(float("nan"), "tools", OURS, "models", MIXED, "lost"), "a figure is missing"),
        (setting(float("nan"), "tools", OURS, "models", MIXED, "cosine_min"), "split 1: no cosine_min"),
        (setting(True, "tools", ORT_ENTROPY, "peak_bytes"), "split 1: no peak_bytes"),
    ],
)
def test_what_is_missing_is_null_with_the_reason_and_never_true(change, reason):
    splits = whole()
    change(splits)
    line = acceptance(splits)
    assert line["holds"] is None
    assert reason in line["reason"]


@pytest.mark.parametrize("name", [MODELOPT, ORT_ENTROPY])
def test_a_tool_without_a_figure_in_one_split_is_not_judged_by_the_others(name):
    splits = whole()
    splits[1]["tools"][name] = {"error": "killed"}
    rows = {row["what"]: row for row in acceptance(splits)["value"]}
    found = rows[f"how much more ours loses than {name}"]
    assert (found["got"], found["holds"], found["why"]) == (None, None, "split 1: killed")


def test_a_missing_tool_does_not_hide_that_another_bar_is_missed():
    splits = whole()
    for one in splits:
        one["tools"][MODELOPT] = {"error": NO_MODELOPT}
        lose(one, OURS, 0.02)
    line = acceptance(splits)
    assert line["holds"] is False
    assert NO_MODELOPT in line["reason"]


def test_standard_errors_are_of_the_paired_differences():
    splits = whole()
    for one, (mine, other) in zip(
        splits, [(0.01, 0.02), (0.02, 0.03), (0.03, 0.04), (0.04, 0.05)], strict=True
    ):
        lose(one, OURS, mine)
        lose(one, MODELOPT, other)
    found = result(HARDWARE, splits)["figures"]
    ours = found["candidates"][0]
    assert (ours["tool"], ours["lost"], ours["splits"]) == (OURS, 0.025, 4)
    assert ours["lost_standard_error"] == pytest.approx(0.0129099 / 2, rel=1e-4)
    against = found["differences"][MODELOPT]
    assert (against["mean"], against["splits"]) == (-0.01, 4)
    assert against["standard_error"] == pytest.approx(0, abs=1e-12)
    once = found["differences"][ORT_MINMAX]
    assert (once["mean"], once["standard_error"], once["splits"]) == (-0.07, None, 1)


def test_the_mixed_candidate_is_handed_on_where_there_is_one_else_the_best():
    methods = {"minmax": {"cosine": 0.97}, "percentile": {"cosine": 0.98}}
    assert taken(methods) == "percentile"
    assert taken({**methods, MIXED: {"cosine": 0.975}}) == MIXED


def embeddings():
    """40 pairs that find each other."""
    rows = np.random.default_rng(4).normal(size=(40, 16))
    return np.concatenate([rows, rows + 0.01]).astype(np.float32)


def test_recall_tells_a_model_from_its_broken_twin():
    good = embeddings()
    broken = np.concatenate([good[:40], np.roll(good[40:], 1, axis=0)])
    constant = np.ones_like(good)
    half = good.copy()
    half[40:60] = -half[40:60]
    assert [recall(one) for one in (good, broken, constant, half)] == [1.0, 0.0, 0.0, 0.5]
    assert figures(good, good) == {
        "n": 40,
        "recall": 1.0,
        "lost": 0.0,
        "agreement": 1.0,
        "cosine_min": pytest.approx(1.0),
        "cosine_mean": pytest.approx(1.0),
    }
    worse = figures(good, half)
    assert (worse["lost"], worse["agreement"], worse["cosine_min"]) == (0.5, 0.5, pytest.approx(-1.0))
    assert worse["cosine_mean"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "broken", [np.full((80, 16), np.nan), np.zeros((80, 16)), np.ones((78, 16)), np.ones((0, 16))]
)
def test_answers_that_say_nothing_are_refused(broken):
    with pytest.raises(ValueError):
        figures(embeddings() if len(broken) else broken, broken.astype(np.float32))


@pytest.mark.parametrize(
    "wanted",
    [
        "A CPU, 16 cores, 128.0 GiB",
        "ModelOpt 0.47.0",
        (
            "Ours loses 0.50 points of recall@1 to FP32, ONNX Runtime's entropy 30.00, ModelOpt's 6.00; calibrating "
            "takes ours 600 MiB and ONNX Runtime's entropy 10000 MiB."
        ),
        "| **ours**, as it is handed on | 4 | 0.3450 | 0.50 (0.00) | 90.0 % | 0.9800 | 0.9900 |",
        "| ours, minmax | 4 | 0.3350 | 1.50 (0.00) | 90.0 % | 0.9800 | 0.9900 |",
        "| ONNX Runtime minmax | 1 | 0.2700 | 8.00 (-) | 90.0 % | 0.9800 | 0.9900 |",
        "By entropy alone, ours loses 7.00 points, ModelOpt's 6.00, ONNX Runtime's without padding -:",
        "| ModelOpt entropy | 4 | -5.50 (0.00) |",
        "| ONNX Runtime entropy | 4 | 40 | 30 | 10000 | - |",
        f"| calibration.1 | {TARGET} | holds |",
    ],
)
def test_each_figure_is_on_the_page(wanted):
    assert wanted in page(result(HARDWARE, whole()))


def test_the_page_says_what_was_not_measured_and_what_was_missed():
    splits = whole()
    for one in splits:
        one["tools"][MODELOPT] = {"error": "no Python | named"}
        lose(one, OURS, 0.02)
    text = page(result(HARDWARE, splits))
    assert "Not measured: ModelOpt entropy: split 0: no Python | named." in text
    assert (
        "| recall@1 that ours loses to FP32 | below 0.01 | 0.02 | **missed** | it is not below 0.01 |" in text
    )
    assert "no Python \\| named" in text


def test_a_result_made_before_is_read_and_a_miss_is_the_exit_code(tmp_path, capsys):
    splits = whole()
    (tmp_path / "good.json").write_text(json.dumps(result(HARDWARE, splits)))
    assert cli.main(["--from", str(tmp_path / "good.json"), "--page", str(tmp_path / "page.md")]) == 0
    lose(splits[0], OURS, 0.9)
    (tmp_path / "bad.json").write_text(json.dumps(result(HARDWARE, splits)))
    assert cli.main(["--from", str(tmp_path / "bad.json"), "--json"]) == 1
    assert (tmp_path / "page.md").read_text() == page(result(HARDWARE, whole()))
    assert capsys.readouterr().out.splitlines()[-1] == (tmp_path / "bad.json").read_text()


def test_no_text_that_calibrates_is_held_out_and_a_seed_is_one_split():
    first, again, other = (split(seed, texts=400, held_out=300) for seed in (7, 7, 8))
    assert first == again
    assert set(first.pairs) != set(other.pairs)
    assert set(first.calibration) != set(other.calibration)
    for one in (first, other):
        assert (len(set(one.calibration)), len(set(one.pairs))) == (400, 300)
        assert not set(one.calibration) & {half for pair in one.pairs for half in pair}
        assert max(map(len, one.calibration)) <= LONGEST
    with pytest.raises(ValueError, match="99999 texts of at most 24 tokens"):
        split(7, texts=99_999, held_out=1)


def write_model(path):
    """A table of words, one MatMul, and the mean over the words that the mask keeps."""
    rng = np.random.default_rng(3)
    constants = {"table": rng.normal(size=(30_522, 8)), "weight": rng.normal(size=(8, 8))}
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["words"], "gather"),
        node("MatMul", ["words", "weight"], ["turned"], "matmul"),
        node("Cast", ["attention_mask"], ["kept"], "cast", to=TensorProto.FLOAT),
        node("Unsqueeze", ["kept", "last"], ["column"], "unsqueeze"),
        node("Mul", ["turned", "column"], ["masked"], "mul"),
        node("ReduceSum", ["masked", "words_axis"], ["embedding"], "sum", keepdims=0),
    ]
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    out = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 8])]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    tensors += [
        numpy_helper.from_array(np.array([at]), name) for name, at in (("last", 2), ("words_axis", 1))
    ]
    graph = helper.make_graph(nodes, "g", ids, out, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_the_whole_way_runs_on_a_small_model_and_is_not_done_twice(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "ONCE", (ORT_STRIDED,))
    model = write_model(tmp_path / "model.onnx")
    # 40 texts: calibration judges its own candidates on 32 of them.
    argv = [
        "--json",
        "--only",
        "splits",
        "--onnx",
        str(model),
        "--seeds",
        "3",
        "--texts",
        "40",
        "--held-out",
        "50",
    ]
    argv += ["--out", str(tmp_path / "out"), "--threads", "1"]
    assert cli.main(argv) == 0, "a small run decides nothing, so it misses nothing"
    made = json.loads(capsys.readouterr().out)
    tools = made["figures"]["splits"][0]["tools"]
    assert tools[MODELOPT] == {"error": NO_MODELOPT}
    for name in (OURS, ORT_ENTROPY, ORT_STRIDED):
        one = tools[name]
        assert one.get("error") is None
        assert one["peak_bytes"] > 50 * MIB
        assert one["seconds"] > 0
        assert one["models"][one["taken"]]["n"] == 50
        assert one["models"][one["taken"]]["cosine_mean"] > 0.9
    assert tools[OURS]["operators"]["percentile"] == 1
    assert set(tools[OURS]["models"]) >= {"percentile", "minmax", "entropy"}
    assert tools[OURS]["models"]["minmax"]["cosine_min"] > 0.99
    assert made["acceptance"][0]["holds"] is None
    kept = split_file(tmp_path / "out", 3)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    cli.main([*argv, "--resume"])
    assert json.loads(capsys.readouterr().out)["figures"] == made["figures"]
