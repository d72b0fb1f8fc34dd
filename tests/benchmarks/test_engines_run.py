"""The engines' benchmark from end to end on this machine: a small model, the real export, builder and processes."""

import json

import pytest

from benchmarks.engines.__main__ import main
from benchmarks.engines.clock import Clock
from benchmarks.engines.hardware import hardware
from benchmarks.engines.measure import Effort, Measuring
from benchmarks.engines.models import subjects
from benchmarks.engines.product import Place, StepError, compared
from benchmarks.engines.ratios import P99
from benchmarks.engines.sides import EAGER, ONNXRUNTIME
from build_images.engine_builder.device import device_facts

TINY = ["--backend", "onnxruntime", "--tiny", "--models", "gpt", "--threads", "1", "--json"]
ONE, MOST = "batch=1 sequence=16", "batch=2 sequence=16"
TWICE = Effort(warm=1, runs=2, peak_runs=1, compiled=())
HERE = Place(arch=device_facts()["arch"], backend="onnxruntime", threads=1, price=None)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(exit code, folder) of one run, its object in `whole.json`."""
    out = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch, (out / "whole.json").open("w") as told:
        patch.setattr("sys.stdout", told)
        code = main(
            [*TINY, "--out", str(out), "--page", str(out / "page.md"), "--price-per-hour", "2", "--keep"]
        )
    return code, out


@pytest.fixture(scope="module")
def whole(ran):
    return json.loads((ran[1] / "whole.json").read_text())


def test_the_whole_way_leaves_every_figure_of_the_model(ran, whole):
    code, _ = ran
    steps = whole["figures"]["gpt"]["measured"]["steps"]
    failed = {name: step for name, step in steps.items() if "error" in step}
    assert failed == {}
    assert code == 0, "nothing that was promised is judged on this machine, so nothing is missed"
    assert {line["holds"] for line in whole["acceptance"]} == {None}
    for side, timings in (*steps["torch"].items(), *steps["onnxruntime"].items()):
        assert side in (EAGER, ONNXRUNTIME)
        assert {shape: timings[shape]["n"] for shape in (ONE, MOST)} == {ONE: 10, MOST: 10}
    assert steps["peak"][EAGER]["driver_bytes"] > steps["peak"][EAGER]["context_bytes"] > 0
    assert steps["pytorch_against_onnx"]["cosine_min"] > 0.9999999
    assert steps["engine_against_pytorch"]["samples"] == 4
    assert steps["engine_against_pytorch"]["cosine_min"] > 0.98
    assert steps["cold_build"]["report"]["candidates"]["fp32"]["timings"][ONE]["n"] >= 10
    assert (steps["unchanged"]["built_nothing"], steps["unchanged"]["said"][:17]) == (
        True,
        "unchanged: engine",
    )


def test_the_ratios_are_those_of_the_figures_beside_them(whole):
    one = whole["figures"]["gpt"]
    eager = one["measured"]["steps"]["torch"][EAGER][ONE]["p99_ms"]
    engine = one["measured"]["steps"]["cold_build"]["report"]["candidates"]["fp32"]["timings"][ONE]["p99_ms"]
    assert one["ratios"]["judged"][P99] == pytest.approx(eager / engine)
    assert one["ratios"]["cost_per_million_rows"]["engine"] > 0


def test_the_hardware_is_named_and_the_host_is_not(whole):
    assert whole["hardware"]["cores"] >= 1
    assert set(whole["hardware"]) == set(hardware())
    assert "host" not in json.dumps(whole["hardware"])


def test_resuming_a_finished_run_measures_nothing_anew(ran, whole, capsys):
    main([*TINY, "--out", str(ran[1]), "--price-per-hour", "2", "--keep", "--resume", "--budget-s", "0"])
    assert json.loads(capsys.readouterr().out)["figures"] == whole["figures"]


def test_the_models_file_and_the_object_merge_to_the_same(ran, whole, capsys):
    main(["--merge", str(ran[1] / "gpt.json"), "--json"])
    assert json.loads(capsys.readouterr().out) == whole


def test_steps_in_two_runs_add_up(tmp_path, capsys):
    main([*TINY, "--out", str(tmp_path), "--steps", "prepare"])
    main([*TINY, "--out", str(tmp_path), "--steps", "onnxruntime", "--resume"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]["gpt"]["measured"]["steps"]
    assert set(last) == {"prepare", "onnxruntime"}
    assert last["prepare"]["export_seconds"] > 0
    assert last["onnxruntime"][ONNXRUNTIME][MOST]["n"] == 10


def test_a_spent_budget_begins_nothing_and_says_so_in_every_place(tmp_path, capsys):
    assert main([*TINY, "--out", str(tmp_path), "--budget-s", "0"]) == 0
    steps = json.loads(capsys.readouterr().out)["figures"]["gpt"]["measured"]["steps"]
    assert {step["error"] for step in steps.values()} == {"not run: the budget of 0 s was spent"}


def measuring(tmp_path, machine=None):
    return Measuring(subjects(tiny=True, minilm=None)["gpt"], HERE, tmp_path, machine or {"gpu": None}, TWICE)


def test_a_side_whose_process_fails_leaves_the_reason_at_each_shape(tmp_path):
    found = measuring(tmp_path)._timed(Clock(), "no such job", (EAGER,))
    assert found == {EAGER: {shape: {"error": found[EAGER][shape]["error"]} for shape in (ONE, MOST)}}
    assert "ended with 1" in found[EAGER][ONE]["error"]


def test_a_process_over_the_budget_is_stopped_and_said_to_be(tmp_path):
    clock = Clock(budget_s=0.2)
    one = measuring(tmp_path)
    assert one.product.store.has("checkpoint", one.product.release.keys.checkpoint)
    late = Clock(budget_s=clock.elapsed_s + 0.2, began=clock.began)
    found = one._timed(late, "time", (EAGER,))
    assert "the budget of" in found[EAGER][ONE]["error"]


def test_what_was_measured_on_other_hardware_is_not_resumed(tmp_path):
    measuring(tmp_path)._write()
    with pytest.raises(StepError, match="other hardware"):
        measuring(tmp_path, {"gpu": "NVIDIA L4"}).resume()


def test_answers_that_cannot_be_compared_are_no_agreement():
    import numpy as np

    good = np.ones((2, 3), dtype=np.float32)
    assert compared(good, good)["cosine_min"] == pytest.approx(1.0)
    for bad in (np.ones((2, 4)), np.full((2, 3), np.nan)):
        with pytest.raises(StepError):
            compared(bad, good)
