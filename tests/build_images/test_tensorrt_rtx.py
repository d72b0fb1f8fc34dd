"""Real TensorRT-RTX engines, built with no GPU: what they are for, what was judged, and how a build fails."""

import json

import onnx
import pytest
from onnx import TensorProto, helper

from build_images.engine_builder.backend import Candidate, backend_of
from build_images.engine_builder.build import build_release
from build_images.engine_builder.errors import BuildTimeError, NoPlanError, UnsupportedNodeError
from build_images.engine_builder.settings import BuildSettings, ShapeRange, profiles_of
from build_images.exporter.export import export_release
from calibration.candidates import calibrate_release
from serving.runtime.engine import open_engine
from sluice.manifest import OF_ONNX, EngineManifest, ManifestMismatchError
from sluice.plan import HEAD_BYTES, read_header
from sluice.spec_types import Axis
from tests.build_images.support import MLP, released, spec_dict, write_checkpoint

ARCHS = ("sm_80", "sm_86", "sm_89", "sm_120")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The small model for four architectures, every precision asked for."""
    folder = tmp_path_factory.mktemp("rtx")
    base = spec_dict()["targets"][0]
    targets = [{**base, "arch": arch, "backend": "tensorrt_rtx", "share": 0.25} for arch in ARCHS]
    store, release = released(
        folder / "store",
        write_checkpoint(folder / "ckpt", MLP),
        targets=targets,
        precisions=["fp32", "fp16", "int8"],
        accuracy={"int8": {"cosine": 0.9}},
    )
    export_release(store, release)
    calibrate_release(store, release)
    for arch in ARCHS:
        build_release(store, release, arch)
    return store, release


@pytest.mark.parametrize("arch", ARCHS)
def test_each_engine_is_for_its_architecture_alone_and_every_other_refuses_it(built, arch):
    store, release = built
    artifact = store.get("engine", release.keys.engine(arch))
    header = read_header((artifact.path / "engine.plan").read_bytes()[:HEAD_BYTES])
    assert (header.family, header.archs) == ("tensorrt_rtx", frozenset({arch}))
    manifest = EngineManifest.from_json((artifact.path / "manifest.json").read_text())
    assert (
        manifest.backend_version == ".".join(map(str, header.version)) == backend_of("tensorrt_rtx").version()
    )
    for other in (*ARCHS, "cpu-avx2"):
        if other != arch:
            with pytest.raises(ManifestMismatchError, match=f"arch is {arch}, this machine needs {other}"):
                open_engine(artifact.path, arch=other)


def test_what_cannot_run_here_is_not_timed_and_says_what_was_judged_instead(built):
    store, release = built
    artifact = store.get("engine", release.keys.engine("sm_80"))
    manifest = EngineManifest.from_json((artifact.path / "manifest.json").read_text())
    report = json.loads((artifact.path / "report.json").read_text())
    assert (manifest.precision, manifest.accuracy_of) == ("int8", OF_ONNX)
    assert manifest.performance["measured"] is False
    assert "sm_80" in manifest.performance["why"]
    assert (report["measured"], report["accuracy_of"]) == (False, OF_ONNX)
    assert set(report["candidates"]) == {"fp32", "fp16", "int8-percentile", "int8-minmax"}
    for name, one in report["candidates"].items():
        assert (one["timings"], one["peak_memory_bytes"]) == ({}, None)
        least = one["accuracy"]["y"]["cosine_min"]
        assert least > 0.9
        assert name == "fp32" or least < 0.99999999, f"{name} was judged on the FP32 ONNX"
    assert "not timed" in artifact.facts["reason"]


SHAPES = {"x": ShapeRange(least=(1, 3, 3), best=(2, 3, 3), most=(4, 3, 3))}


def settings(**changes):
    base = {"threads": 1, "profiles": (SHAPES,), "workspace_bytes": 2**28, "optimization_level": 3}
    return BuildSettings(**{**base, "time_limit_s": 60.0, **changes})


def graph(path, operator="Relu", shape=("batch", 3, 3)):
    made = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["h"], "fine"),
            helper.make_node(operator, ["h"], ["y"], "the_node"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def build(source, folder, *, arch="sm_80", **changes):
    candidate = Candidate(name="fp32", precision="fp32", source=source)
    backend_of("tensorrt_rtx").build(candidate, folder / "e.plan", arch=arch, settings=settings(**changes))


def test_an_operator_that_is_not_taken_is_named_with_its_node_and_the_way_out(tmp_path):
    with pytest.raises(UnsupportedNodeError, match=r"operator Det \(node the_node\).*model\.symbolics"):
        build(graph(tmp_path / "a.onnx", "Det"), tmp_path)
    assert not (tmp_path / "e.plan").exists()


def test_a_build_over_its_time_limit_ends_with_where_it_was_and_leaves_no_engine(tmp_path, capfd):
    with pytest.raises(BuildTimeError, match=r"longer than 0 s.*time_limit_s"):
        build(graph(tmp_path / "a.onnx"), tmp_path, time_limit_s=0.0)
    assert "building sm_80 a: " in capfd.readouterr().out
    assert not (tmp_path / "e.plan").exists()


def test_no_engine_carries_the_library_s_own_reason(tmp_path):
    """A profile that contradicts the graph: the library answers None and says why in its log alone."""
    wrong = {"x": ShapeRange(least=(1, 4, 3), best=(2, 4, 3), most=(4, 4, 3))}
    with pytest.raises(NoPlanError) as caught:
        build(graph(tmp_path / "a.onnx"), tmp_path, profiles=(wrong,))
    assert caught.value.reason != "the library gave no reason"


def test_an_architecture_that_the_library_lacks_is_refused(tmp_path):
    with pytest.raises(NoPlanError, match="no such compute capability"):
        build(graph(tmp_path / "a.onnx"), tmp_path, arch="sm_90")


def test_the_profiles_hold_every_batch_size_once_and_every_other_size_each():
    axes = {
        "batch": Axis(min=1, opt=4, max=20, buckets=(1, 4, 16)),
        "rows": Axis(min=2, opt=4, max=6, buckets=(6,)),
    }
    from sluice.signature import TensorSpec

    x = TensorSpec(name="x", dtype="float32", dims=("batch", "rows", 8))
    profiles = [profile["x"] for profile in profiles_of([x], axes)]
    sizes = [range(one.least[0], one.most[0] + 1) for one in profiles]
    assert sorted(size for part in sizes for size in part) == list(range(1, 21))
    assert [one.best for one in profiles] == [(1, 4, 8), (4, 4, 8), (16, 4, 8)]
    assert {(one.least[1:], one.most[1:]) for one in profiles} == {((2, 8), (6, 8))}
