"""One engine for this machine: measured, compared, chosen with a reason, refused elsewhere."""

import json
import math
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from build_images.engine_builder.accuracy import accuracy, least_cosine, mixed
from build_images.engine_builder.backend import backend_of
from build_images.engine_builder.bench import threads_of
from build_images.engine_builder.build import build_release
from build_images.engine_builder.device import device_facts, require_arch
from build_images.engine_builder.errors import (
    NoEngineError,
    UnknownBackendError,
    WrongDeviceError,
)
from build_images.engine_builder.measure import ROUNDS_MIN, measure, timing
from build_images.engine_builder.request import held_out
from build_images.exporter.export import export_release, write_onnx
from calibration.candidates import calibrate_release
from sluice.manifest import EngineManifest
from sluice.model_inputs import TooFewSamplesError
from sluice.signature import TensorSpec
from sluice.spec import Target
from tests.build_images.support import ARCH, MLP, publish_onnx, released, spec_dict, write_checkpoint


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The whole chain once, over the small model."""
    folder = tmp_path_factory.mktemp("built")
    store, release = released(folder / "store", write_checkpoint(folder / "ckpt", MLP, samples=40))
    export_release(store, release)
    calibrate_release(store, release)
    return store, release, build_release(store, release, ARCH)


def test_the_engine_answers_as_the_model_does_and_its_manifest_fits(built):
    store, release, choice = built
    artifact = store.get("engine", release.keys.engine(ARCH))
    manifest = EngineManifest.from_json((artifact.path / "manifest.json").read_text())
    engine_sha256 = artifact.receipt.files[manifest.engine_file].sha256
    manifest.check(arch=ARCH, backend="onnxruntime", engine_sha256=engine_sha256)
    onnx_artifact = store.get("onnx", release.keys.onnx)
    assert manifest.onnx_sha256 == onnx_artifact.facts["onnx_sha256"]
    assert manifest.backend_version == onnxruntime.__version__
    assert manifest.signature == release.spec.signature
    assert artifact.facts == {"precision": manifest.precision, "reason": choice.reason, "built": True}
    x = np.random.default_rng(5).normal(size=(2, 5, 8)).astype(np.float32)
    want = onnxruntime.InferenceSession(str(onnx_artifact.path / "model.onnx")).run(None, {"x": x})[0]
    got = onnxruntime.InferenceSession(str(artifact.path / manifest.engine_file)).run(None, {"x": x})[0]
    assert abs(want - got).max() < 0.05 * abs(want).max()


def test_the_report_has_every_candidate_with_speed_memory_and_accuracy(built):
    store, release, choice = built
    report = json.loads((store.get("engine", release.keys.engine(ARCH)).path / "report.json").read_text())
    assert set(report["candidates"]) == {"fp32", "int8-percentile", "int8-minmax"}
    assert report["chosen"] == choice.name
    assert report["accuracy_samples"] == 12  # numerics.samples, behind the 20 that calibrate
    for candidate in report["candidates"].values():
        assert candidate["peak_memory_bytes"] > 10_000_000
        assert candidate["accuracy"]["y"]["samples"] == 12
        for one in candidate["timings"].values():
            assert one["n"] >= ROUNDS_MIN
            assert 0 < one["p50_ms"] <= one["p99_ms"]


def test_int8_that_is_not_accurate_enough_gives_fp32_and_says_why(tmp_path):
    store, release = released(
        tmp_path / "store",
        write_checkpoint(tmp_path / "ckpt", MLP),
        precisions=["int8"],
        accuracy={"int8": {"cosine": 1.0}},
    )
    export_release(store, release)
    calibrate_release(store, release)
    choice = build_release(store, release, ARCH)
    facts = store.get("engine", release.keys.engine(ARCH)).facts
    assert facts["precision"] == "fp32"
    assert "not int8-minmax: cosine" in choice.reason


def with_one_int8_changed(tmp_path, built, change):
    """A store in which `change` was done to the model of `int8-minmax`, all else as the small model's."""
    release = built[1]
    store, _ = released(tmp_path / "store", write_checkpoint(tmp_path / "ckpt", MLP, samples=40))
    export_release(store, release)
    whole = built[0].get("calibration", release.keys.calibration)
    with store.staged("calibration", release.keys.calibration) as draft:
        for name in whole.receipt.files:
            (draft.path / name).write_bytes((whole.path / name).read_bytes())
        model = onnx.load(draft.path / "int8_minmax.onnx")
        change(model.graph)
        onnx.save(model, draft.path / "int8_minmax.onnx")
        draft.publish(whole.facts)
    return store


def test_a_candidate_that_the_library_does_not_take_leaves_the_others(tmp_path, built):
    def change(graph):
        graph.node[-1].op_type = "NoSuchOperator"

    choice = build_release(with_one_int8_changed(tmp_path, built, change), built[1], ARCH)
    assert "NoSuchOperator" in choice.rejected["int8-minmax"]
    assert "int8-percentile" in {*choice.rejected, choice.name}


def test_an_engine_that_is_wrong_in_the_largest_batch_alone_is_not_accurate(tmp_path, built):
    """Samples are judged one by one; another batch size is another kernel."""

    def change(graph):
        graph.node[-1].output[0] = "right"
        for name, value in {
            "first": 0,
            "largest": 5,
            "wrong": np.float32("nan"),
            "one": np.float32(1),
        }.items():
            graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        graph.node.extend(
            [
                helper.make_node("Shape", ["right"], ["shape"]),
                helper.make_node("Gather", ["shape", "first"], ["batch_size"]),
                helper.make_node("Equal", ["batch_size", "largest"], ["is_largest"]),
                helper.make_node("Where", ["is_largest", "wrong", "one"], ["factor"]),
                helper.make_node("Mul", ["right", "factor"], ["y"]),
            ]
        )

    store = with_one_int8_changed(tmp_path, built, change)
    choice = build_release(store, built[1], ARCH)
    assert choice.rejected["int8-minmax"].startswith("cosine -1.0000")
    report = json.loads((store.path("engine", built[1].keys.engine(ARCH)) / "report.json").read_text())
    judged = report["candidates"]["int8-minmax"]["accuracy"]["y"]
    assert (judged["samples"], judged["cosine_min"], judged["max_abs"]) == (12, -1.0, None)


def test_a_candidate_that_fails_at_the_largest_shape_leaves_the_others(tmp_path, built):
    def change(graph):
        graph.node[-1].output[0] = "whole"
        for name, value in {"first": 0, "offset": -4, "least": 0, "ones": np.ones(1, np.float32)}.items():
            graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        graph.node.extend(
            [
                helper.make_node("Shape", ["whole"], ["shape"]),
                helper.make_node("Gather", ["shape", "first"], ["batch_size"]),
                helper.make_node("Add", ["batch_size", "offset"], ["above"]),
                helper.make_node(
                    "Max", ["above", "least"], ["place"]
                ),  # 1, of a list of one, where the batch is 5
                helper.make_node("Gather", ["ones", "place"], ["factor"]),
                helper.make_node("Mul", ["whole", "factor"], ["y"]),
            ]
        )

    choice = build_release(with_one_int8_changed(tmp_path, built, change), built[1], ARCH)
    assert "fails at its largest shape, x [5, 6, 8]" in choice.rejected["int8-minmax"]
    assert choice.name != "int8-minmax"


def test_options_of_plans_mean_nothing_to_a_backend_that_has_none(tmp_path):
    options = {"strip_weights": True, "timing_cache": "ab" * 32, "hardware_compatibility": "ampere_plus"}
    store, release = released(
        tmp_path / "store",
        write_checkpoint(tmp_path / "ckpt", MLP),
        precisions=["fp32"],
        targets=[{**spec_dict()["targets"][0], "build": options}],
    )
    export_release(store, release)
    build_release(store, release, ARCH)
    manifest = json.loads((store.path("engine", release.keys.engine(ARCH)) / "manifest.json").read_text())
    assert (manifest["weights_sha256"], manifest["timing_cache_sha256"]) == (None, None)
    assert not (store.root / "weights").exists()


def test_a_model_of_nan_builds_nothing(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt", MLP)
    store, release = released(tmp_path / "store", checkpoint, precisions=["fp32"])
    write_onnx(checkpoint, release.spec, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            nan = np.full_like(numpy_helper.to_array(weight), np.nan)
            weight.CopyFrom(numpy_helper.from_array(nan, weight.name))
    onnx.save(model, tmp_path / "model.onnx")
    publish_onnx(store, release, tmp_path / "model.onnx")
    with pytest.raises(NoEngineError, match="fp32"):
        build_release(store, release, ARCH)
    assert not store.has("engine", release.keys.engine(ARCH))


def test_accuracy_needs_the_same_outputs_and_shapes():
    feed, answer = {"x": np.ones((1, 2))}, {"y": np.ones((1, 2))}
    expected = [(feed, answer)]
    assert least_cosine(accuracy(lambda _: {"y": np.ones((1, 2))}, expected)) == pytest.approx(1.0)
    for wrong in ({"z": np.ones((1, 2))}, {"y": np.ones((1, 1))}, {"y": np.full((1, 2), np.nan)}):
        assert least_cosine(accuracy(lambda _, got=wrong: got, expected)) == -1.0
    with pytest.raises(ValueError, match="no samples"):
        accuracy(lambda _: answer, [])


X, OUT = (TensorSpec(name=name, dtype="float32", dims=("batch", "rows", 4)) for name in "xy")
MEAN = TensorSpec(name="mean", dtype="float32", dims=("batch", 4))


def masked_mean(feed, *, first=False, padding=False):
    """y: x twice, junk where x is padded; mean: of what is not. first, padding: wrong, for two reasons."""
    x = feed["x"][[0] * len(feed["x"])] if first else feed["x"]
    keep = (x != 0).any(axis=-1, keepdims=True)
    read = np.where(keep, x, np.float32(1)) if padding else x
    return {"y": np.where(keep, 2 * x, -7), "mean": read.sum(axis=1)}


def test_a_batch_has_rows_of_different_lengths_and_padding_is_not_compared():
    random = np.random.default_rng(2)
    samples = [{"x": random.normal(size=(rows, 4)).astype(np.float32)} for rows in (5, 1, 3)]
    alone = [({"x": one["x"][None]}, masked_mean({"x": one["x"][None]})) for one in samples]
    served = [(one, masked_mean(one.feed)) for one in mixed(samples, [X], [OUT, MEAN], [2, 8])]
    assert [one.feed["x"].shape for one, _ in served] == [(2, 5, 4), (8, 5, 4)]

    def junk(feed):
        answer = masked_mean(feed)
        return {**answer, "y": np.where((feed["x"] != 0).any(axis=-1, keepdims=True), answer["y"], np.nan)}

    assert least_cosine(accuracy(junk, alone, served)) == pytest.approx(1.0)
    for wrong in ({"first": True}, {"padding": True}):
        got = accuracy(lambda feed, wrong=wrong: masked_mean(feed, **wrong), alone, served)
        assert got["mean"].cosine_min < 0.99, wrong
        assert least_cosine(accuracy(lambda feed, wrong=wrong: masked_mean(feed, **wrong), alone[:1])) > 0.999
    short = accuracy(lambda feed: {name: one[:1] for name, one in masked_mean(feed).items()}, alone, served)
    assert least_cosine(short) == -1.0
    assert accuracy(lambda feed: {"y": masked_mean(feed)["y"][0]}, alone, served)["mean"].cosine_min == -1.0


def test_the_label_is_a_wish_and_the_device_the_fact(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Old CPU\nflags\t\t: fpu avx2 fma\n\nflags\t\t: fpu avx2 fma\n")
    facts = device_facts(cpuinfo)
    assert (facts["arch"], facts["name"]) == ("cpu-avx2", "Old CPU")
    require_arch("cpu-avx2", facts)
    with pytest.raises(WrongDeviceError, match="cpu-avx512vnni landed on cpu-avx2"):
        require_arch("cpu-avx512vnni", facts)


def test_a_target_of_another_architecture_is_refused_before_anything_is_built(tmp_path):
    targets = spec_dict()["targets"]
    other = [{**targets[0], "arch": "sm_90"}]
    store, release = released(tmp_path / "store", write_checkpoint(tmp_path / "ckpt", MLP), targets=other)
    with pytest.raises(WrongDeviceError):
        build_release(store, release, "sm_90")
    assert not (tmp_path / "store" / "engine").exists()


@pytest.mark.parametrize("lines", [20, 31])
def test_fewer_held_out_samples_than_asked_for_is_an_error_with_the_numbers(tmp_path, lines):
    checkpoint = write_checkpoint(tmp_path / "ckpt", MLP, samples=lines)
    store, release = released(tmp_path / "store", checkpoint)
    with pytest.raises(TooFewSamplesError) as caught:
        build_release(store, release, ARCH)
    says = f"numerics.samples asks for 12 samples behind the 20 that calibrate, the file of model.samples has {lines}"
    assert says in str(caught.value)
    assert f"write {32 - lines} more" in str(caught.value)
    assert not store.has("engine", release.keys.engine(ARCH))


def test_a_spec_without_int8_holds_nothing_back(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt", MLP, samples=12)
    _, release = released(tmp_path / "store", checkpoint, precisions=["fp32"])
    assert len(held_out(checkpoint / "samples.jsonl", release.spec)) == 12


def test_an_unknown_backend_names_those_there_are():
    with pytest.raises(UnknownBackendError, match="carries onnxruntime, tensorrt, tensorrt_rtx"):
        backend_of("openvino")


def test_candidates_take_turns_on_the_same_bytes():
    calls = []
    feed = {"x": np.zeros((4, 1))}
    runs = {name: lambda given, name=name: calls.append((name, id(given))) or {} for name in "abc"}
    timings = measure(runs, feed, budget_s=0.0)
    assert {one.n for one in timings.values()} == {ROUNDS_MIN}
    assert {given for _, given in calls} == {id(feed)}
    rounds = [name for name, _ in calls[-3 * ROUNDS_MIN :]]
    assert all(set(rounds[i : i + 3]) == set("abc") for i in range(0, len(rounds), 3))
    assert {rounds[i] for i in range(0, len(rounds), 3)} == set("abc")


def test_timing_states_its_n_and_rows_per_second():
    one = timing([2.0, 4.0], rows=3)
    assert (one.n, one.mean_ms, one.p50_ms, one.rows_per_s) == (2, 3.0, 3.0, 1000.0)
    with pytest.raises(ValueError, match="no run"):
        timing([], rows=1)
    for host, device, says in (
        ([2.0, math.nan], (), "a run took nan"),
        ([2.0, 0.0], (), r"a run took 0\.0"),
        ([2.0, 4.0], [1.0, math.nan], "kernels took nan"),
    ):
        with pytest.raises(ValueError, match=says):
            timing(host, 3, device)


@pytest.mark.parametrize(("cpu", "threads"), [("1", 1), ("500m", 1), ("1500m", 2), ("2", 2)])
def test_threads_are_the_pods_whole_cores(cpu, threads):
    target = spec_dict()["targets"][0] | {"resources": {"cpu": cpu, "memory": "1Gi"}}
    assert threads_of(Target.model_validate(target)) == threads


def test_the_builder_imports_neither_torch_nor_great_expectations():
    code = (
        "import sys, build_images.engine_builder.build, build_images.engine_builder.onnxruntime_backend\n"
        "print([m for m in ('torch', 'onnx', 'great_expectations', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
