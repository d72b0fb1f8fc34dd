"""The real MiniLM becomes four real engines, each built by a pod on the node that carries its GPU's label."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from artifacts.store import Store, tree_sha256
from build_images.exporter.export import export_release
from calibration.candidates import calibrate_release
from local.demo.checkpoint import make_checkpoint
from serving.runtime.engine import open_engine
from sluice.manifest import EngineManifest, ManifestMismatchError
from sluice.plan import HEAD_BYTES, read_header
from sluice.release import Release
from sluice.spec import parse_spec
from tests.local.cluster.kube import REPO, Emulator, Kube

ARCHS = ("sm_80", "sm_86", "sm_89", "sm_120")
# FP16 and INT8 in turn, so that both are built for real and the whole stays short.
PRECISION = {"sm_80": "fp16", "sm_86": "int8", "sm_89": "fp16", "sm_120": "int8"}


def spec_of(precision):
    raw = yaml.safe_load((REPO / "dags" / "models" / "minilm.yaml").read_text())
    archs = [arch for arch in ARCHS if PRECISION[arch] == precision]
    raw["model"]["source"] = "/nowhere"
    raw["model"]["axes"]["batch"]["buckets"] = [16]  # one profile: pods share two cores here
    raw |= {"precisions": [precision], "numerics": {"samples": 8}}
    raw["calibration"] = {"samples": 8, "methods": ["percentile"]}
    raw["accuracy"] = {"fp16": {"cosine": 0.999}, "int8": {"cosine": 0.9}}
    raw["targets"] = [
        {
            "arch": arch,
            "backend": "tensorrt_rtx",
            "selector": {"sluice.dev/arch": arch},
            "image": "sluice/engine-builder:dev",
            "share": 1 / len(archs),
            "resources": {"cpu": "100m", "memory": "4Gi"},
            "build": {"optimization_level": 0},
        }
        for arch in archs
    ]
    return parse_spec(yaml.safe_dump(raw), {"SLUICE_IMAGE_TAG": "dev"})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """{arch: (what the operator said, the engine's artifact)}."""
    folder = tmp_path_factory.mktemp("minilm")
    store, checkpoint = Store(folder / "store"), make_checkpoint(folder / "ckpt", texts=16)
    releases = {name: Release(spec_of(name), tree_sha256(checkpoint)) for name in ("fp16", "int8")}
    store.publish_tree("checkpoint", tree_sha256(checkpoint), checkpoint, {"source": "x"})
    for release in releases.values():
        with store.staged("release", release.document_sha256) as draft:
            (draft.path / "release.json").write_text(release.to_json())
            draft.publish({})
    export_release(store, releases["fp16"])
    assert releases["fp16"].keys.onnx == releases["int8"].keys.onnx
    calibrate_release(store, releases["int8"])
    nodes = [
        {"name": f"node-{arch.replace('_', '-')}", "labels": {"sluice.dev/arch": arch}} for arch in ARCHS
    ]
    (folder / "nodes.json").write_text(json.dumps(nodes))
    path = os.pathsep.join([str(REPO), *filter(None, sys.path)])
    image = {"path": [str(Path(sys.executable).parent)], "cwd": str(REPO), "env": {"PYTHONPATH": path}}
    with (
        Emulator(
            folder, "--nodes", str(folder / "nodes.json"), images={"sluice/engine-builder:*": image}
        ) as cluster,
        Kube(cluster.kubeconfig, "engines") as kube,
    ):
        told = {arch: _start(kube, store, releases[PRECISION[arch]], arch, folder) for arch in ARCHS}
        said = {arch: _result(process) for arch, process in told.items()}
    keys = {arch: releases[PRECISION[arch]].keys.engine(arch) for arch in ARCHS}
    return said, {arch: store.get("engine", key) for arch, key in keys.items() if store.has("engine", key)}


def _start(kube, store, release, arch, folder):
    where = [str(kube.kubeconfig), kube.namespace, str(store.root), release.document_sha256, arch]
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(folder / arch),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    argv = [sys.executable, "-m", "tests.build_images.operator_build", *where]
    return subprocess.Popen(
        argv, cwd=REPO, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _result(process):
    output, _ = process.communicate(timeout=240)
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    assert lines, output[-3000:]
    return json.loads(lines[0][7:])


@pytest.mark.parametrize("arch", ARCHS)
def test_a_pod_on_the_node_of_its_gpu_builds_the_engine_that_only_that_gpu_accepts(built, arch):
    said, engines = built
    assert said[arch]["result"] == "success", said[arch]
    assert said[arch]["node"] == f"node-{arch.replace('_', '-')}"
    folder = engines[arch].path
    assert read_header((folder / "engine.plan").read_bytes()[:HEAD_BYTES]).archs == {arch}
    manifest = EngineManifest.from_json((folder / "manifest.json").read_text())
    assert manifest.precision == PRECISION[arch], engines[arch].facts["reason"]
    for other in ARCHS:
        if other != arch:
            with pytest.raises(ManifestMismatchError, match=f"arch is {arch}, this machine needs {other}"):
                open_engine(folder, arch=other)
