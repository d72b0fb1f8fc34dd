"""TensorRT on the target's own GPU, by a process of its own: what comes of each thing that process can say or do.

The process is a stand-in here (no GPU); its answers have the form of a real one's, recorded on an H100.
"""

import json
import stat
import sys
from pathlib import Path

import pytest

from artifacts.store import ArtifactCorruptError
from artifacts.timing_caches import TimingCaches
from build_images.engine_builder.build import build_release
from build_images.engine_builder.errors import (
    BuildTimeError,
    DeviceBusyError,
    DeviceMemoryError,
    NoLibraryError,
    NoPlanError,
    NotOfferedError,
    ReplayMissError,
    TimingCacheError,
    UnsupportedNodeError,
    WorkerDiedError,
    WrongDeviceError,
)
from build_images.engine_builder.tensorrt_process import TensorRtProcess
from build_images.exporter.export import export_release
from calibration.candidates import calibrate_release
from sluice.manifest import OF_ENGINE, EngineManifest, ManifestMismatchError
from sluice.plan import HEAD_BYTES
from tests.build_images.support import MLP, released, spec_dict, write_checkpoint

IMAGE = f"nvcr.io/nvidia/tensorrt:23.09-py3@sha256:{'ab' * 32}"
STAND_IN = Path(__file__).with_name("tensorrt_stand_in.py")
RECORDED = Path(__file__).with_name("tensorrt_answers.json")
SINCE = {"said"}  # what the worker tells since the recording
GIB = 2**30


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An executable that is started as TensorRT's Python would be."""
    path = tmp_path_factory.mktemp("python") / "trtpython"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("mlp") / "ckpt", MLP)


@pytest.fixture
def build(tmp_path, checkpoint, python, monkeypatch):
    """`build(**misbehaviour, options={...})`: (the store, the release) with the engine of sm_90 in it."""
    monkeypatch.setenv("SLUICE_TENSORRT_PYTHON", str(python))

    def make(options=None, precisions=("fp16", "int8"), **told):
        monkeypatch.setenv("TENSORRT_STAND_IN", json.dumps(told))
        base = spec_dict()["targets"][0]
        target = {**base, "arch": "sm_90", "backend": "tensorrt", "image": IMAGE, "build": options or {}}
        store, release = released(
            tmp_path / "store",
            checkpoint,
            targets=[target],
            precisions=list(precisions),
            accuracy={"int8": {"cosine": 0.9}},
        )
        if not store.has("onnx", release.keys.onnx):
            export_release(store, release)
            calibrate_release(store, release)
        build_release(store, release, "sm_90")
        return store, release

    return make


def engine_of(store, release):
    folder = store.get("engine", release.keys.engine("sm_90")).path
    report = json.loads((folder / "report.json").read_text())
    return report, EngineManifest.from_json((folder / "manifest.json").read_text()), folder


def test_the_engine_is_judged_itself_timed_at_every_bucket_and_knows_its_card(build):
    report, manifest, folder = engine_of(*build())
    assert report["chosen"] == "fp16"
    assert report["accuracy_of"] == OF_ENGINE
    assert set(report["candidates"]["fp16"]["timings"]) == {
        *("batch=3 rows=4", "batch=1 rows=4"),  # ranks, and a lone row of it
        *("batch=1 rows=6", "batch=5 rows=6"),  # the buckets
    }
    timing = report["candidates"]["fp16"]["timings"]["batch=3 rows=4"]
    assert (timing["n"], timing["p50_ms"], timing["device_p50_ms"]) == (4, 0.5, 0.2)
    assert timing["gpu_utilisation"] == pytest.approx(0.9 / 2.25)
    assert report["includes"] == {"transfers": True, "cuda_graph": True, "spin": True}
    assert report["layers"][0]["name"] == "/up/MatMul"
    assert json.loads((folder / "layers.json").read_text()) == {"Layers": []}
    assert manifest.backend_version == "8.6.0.12"  # the plan's, with the build number that the bindings lack
    assert manifest.builder_image == IMAGE
    assert len(manifest.profiles) == 2
    manifest.check_head((folder / "engine.plan").read_bytes()[:HEAD_BYTES])
    manifest.check_gpu(name="NVIDIA H100 80GB HBM3", sm_count=132)
    with pytest.raises(ManifestMismatchError, match="114 SMs"):
        manifest.check_gpu(name="NVIDIA H100 PCIe", sm_count=114)


def test_timings_are_kept_for_the_card_and_the_next_build_begins_with_them(build):
    store, release = build()
    first = engine_of(store, release)[0]
    assert first["timing_cache"]["began_with"] is None
    kept = first["timing_cache"]["sha256"]
    caches = TimingCaches(store)
    assert caches.newest("NVIDIA H100 80GB HBM3", 132, "8.6.0") == kept
    assert caches.newest("NVIDIA H100 PCIe", 114, "8.6.0") is None
    assert caches.newest("NVIDIA H100 80GB HBM3", 132, "10.9.0") is None
    second = engine_of(*build(options={"optimization_level": 2}))[0]
    assert second["timing_cache"] == {"began_with": kept, "sha256": kept}
    assert second["candidates"]["fp16"]["build"]["cache_bytes"] == [len(caches.read(kept))] * 2


def test_a_replay_uses_the_named_cache_and_fails_on_a_timing_that_it_lacks(build):
    store, release = build(precisions=["fp16"])
    kept = engine_of(store, release)[0]["timing_cache"]["sha256"]
    report, manifest, _ = engine_of(*build(precisions=["fp16"], options={"timing_cache": kept}))
    assert manifest.timing_cache_sha256 == report["timing_cache"]["began_with"] == kept
    with pytest.raises(ReplayMissError, match="the cache grew"):
        build(precisions=["int8"], options={"timing_cache": kept})


def test_kept_timings_that_are_no_use_cost_time_and_no_build(build):
    store, release = build(precisions=["fp16"])
    kept = engine_of(store, release)[0]["timing_cache"]["sha256"]
    report = engine_of(*build(precisions=["fp16"], options={"workspace_mib": 1}, refuse_cache=True))[0]
    assert report["candidates"]["fp16"]["build"]["cache_refused"] == "is of another device or version"
    with pytest.raises(TimingCacheError, match="is of another device or version"):
        build(precisions=["fp16"], options={"timing_cache": kept}, refuse_cache=True)
    (store.path("timing_cache", kept) / "cache.bin").write_bytes(b"other")
    report = engine_of(*build(precisions=["fp16"], options={"workspace_mib": 2}))[0]
    assert report["timing_cache"]["began_with"] is None
    with pytest.raises(ArtifactCorruptError):
        build(precisions=["fp16"], options={"timing_cache": kept, "workspace_mib": 3})


def test_a_build_may_go_without_a_cache(build):
    store, release = build(options={"timing_cache": "off"})
    assert engine_of(store, release)[0]["timing_cache"] is None
    assert not (store.root / "timing_cache").exists()


def test_a_precision_that_the_library_does_not_build_leaves_the_others_and_says_why(build):
    error = {"kind": "no_plan", "reason": "weights.type() != DataType::kINT8"}
    report, manifest, _ = engine_of(*build(errors={"int8": error}))
    assert manifest.precision == "fp16"
    assert "weights.type() != DataType::kINT8" in report["rejected"]["int8-minmax"]
    assert "int8-minmax" not in report["candidates"]


def test_fp32_is_served_when_nothing_asked_for_is_built_and_its_failure_is_the_error(build):
    error = {"kind": "no_plan", "reason": "no implementation"}
    report, manifest, _ = engine_of(*build(errors={"int8": error, "fp16": error}))
    assert manifest.precision == "fp32"
    assert "no asked-for precision can be built, so fp32" in report["reason"]
    with pytest.raises(NoPlanError, match="no implementation"):
        build(errors=dict.fromkeys(("fp32", "fp16", "int8"), error), options={"workspace_mib": 1})


def test_an_unsupported_node_is_named_by_the_place_that_the_library_tells(build):
    error = {"kind": "unsupported_node", "index": 0, "reason": "no importer"}
    with pytest.raises(UnsupportedNodeError, match=r"operator MatMul \(node /up/MatMul\)"):
        build(errors=dict.fromkeys(("fp32", "fp16", "int8"), error))


@pytest.mark.parametrize(
    ("free", "expected", "says"),
    [
        pytest.param(79 * GIB, DeviceMemoryError, "79.0 of 80.0 GiB were free", id="alone"),
        pytest.param(20 * GIB, DeviceBusyError, "others left 20.0 of 80.0 GiB", id="somebody-else"),
    ],
)
def test_out_of_memory_is_worth_a_retry_only_when_somebody_else_was_on_the_gpu(build, free, expected, says):
    memory = {"kind": "out_of_memory", "reason": "cudaMalloc", "free_bytes": free, "total_bytes": 80 * GIB}
    with pytest.raises(expected, match=says):
        build(errors=dict.fromkeys(("fp32", "fp16", "int8"), memory))


def test_an_engine_that_fails_at_its_largest_shape_leaves_the_others(build):
    report, manifest, _ = engine_of(*build(fault=["peak", "fp16"]))
    assert manifest.precision == "int8"
    assert "fails at its largest shape, x [5, 6, 8]" in report["rejected"]["fp16"]
    assert "an illegal memory access" in report["rejected"]["fp16"]


@pytest.mark.parametrize("command", ["build", "open"])
def test_a_comparison_with_one_profile_that_fails_loses_no_engine(build, command):
    told = {"fault": [command, "one profile"], "options": {"compare_one_profile": True}}
    report, manifest, _ = engine_of(*build(**told))
    assert (report["one_profile"], manifest.precision) == (None, report["chosen"].partition("-")[0])


def test_a_pod_on_another_card_is_refused_before_anything_is_built(build, tmp_path):
    with pytest.raises(WrongDeviceError, match="sm_90 landed on sm_80"):
        build(arch="sm_80")
    assert not (tmp_path / "store" / "engine").exists()


def test_a_killed_process_is_worth_a_retry_and_says_where_it_was(build):
    with pytest.raises(WorkerDiedError, match="was ended by SIGKILL"):
        build(die_in="build")


def test_a_build_over_its_time_is_killed_and_leaves_nothing(build, tmp_path):
    with pytest.raises(BuildTimeError, match=r"took longer than 0\.5 s"):
        build(hang_in="build", options={"time_limit_s": 0.5})
    assert not (tmp_path / "store" / "engine").exists()


def test_an_option_that_this_version_lacks_is_refused_by_name(build):
    with pytest.raises(NotOfferedError, match="strip_weights: true cannot be had"):
        build(options={"strip_weights": True})


def test_one_profile_is_compared_where_the_spec_asks(build):
    assert engine_of(*build())[0]["one_profile"] is None
    found = engine_of(*build(options={"compare_one_profile": True}))[0]["one_profile"]
    assert found["batch=5 rows=6"] == {"p50_ms": 0.5, "one_profile_p50_ms": 0.5, "ratio": 1.0}


def test_a_python_without_tensorrt_is_named_with_what_it_lacks():
    with (
        TensorRtProcess(sys.executable) as process,
        pytest.raises(NoLibraryError, match="No module named 'tensorrt'"),
    ):
        process.ask("facts", what="TensorRT")


def test_the_stand_in_answers_in_the_form_of_the_real_one(build, python, monkeypatch, tmp_path):
    """Recorded on an H100 with TensorRT 8.6: the same names, the same kinds of values."""
    recorded = json.loads(RECORDED.read_text())
    store, release = build()
    onnx = store.get("onnx", release.keys.onnx).path / "model.onnx"
    requests = {
        one["command"]: {k: v for k, v in one.items() if k != "command"} for one in recorded["requests"]
    }
    here = {"source": str(onnx), "engine": str(tmp_path / "e.plan"), "cache_out": str(tmp_path / "c")}
    import numpy as np

    np.savez(tmp_path / "in.npz", x=np.zeros((1, 4, 8), np.float32))
    here |= {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npz")}
    with TensorRtProcess(str(python)) as process:
        for command, request in requests.items():
            answer = process.ask(command, **{k: here.get(k, v) for k, v in request.items()})
            answer = {name: one for name, one in answer.items() if name not in SINCE}
            assert form(answer) == form(recorded["answers"][command]), command


def form(value):
    """Names and kinds, without the values: a list is that of its first item; `offers` may hold any names."""
    if isinstance(value, dict):
        return {name: form(item) for name, item in value.items() if name != "offers"}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )
