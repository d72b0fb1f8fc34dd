"""The real MiniLM becomes engines for four GPUs in real runs of its promotion, one of which cannot be built.

Real: the DAG of `dags/promote__minilm.py` with Airflow's own mapping, trigger rules and KubernetesPodOperator; the
controller; MLflow; every pod's program. The cluster is the local one, with nodes labelled as GPU feature discovery
labels them; TensorRT-RTX builds without a GPU. The build for sm_89 is given a millisecond.
"""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml

from artifacts.pods import load_release
from artifacts.store import Store
from build_images.engine_builder.build import build_release
from local.demo.checkpoint import make_checkpoint
from local.stack import programs
from local.stack.processes import Processes
from local.stack.programs import Layout
from local.stack.stack import answers
from serving.runtime.engine import open_engine
from sluice.manifest import EngineManifest, ManifestMismatchError
from sluice.plan import HEAD_BYTES, read_header
from sluice.release import Release
from sluice.spec import ReleaseSpec
from tests.build_images.dag_run import RESULT
from tests.end_to_end.town import until
from tests.local.cluster.kube import REPO, Emulator

# Architecture: product, family, MiB, as NVIDIA's GPU feature discovery writes them.
GPUS = {
    "sm_80": ("NVIDIA-A100-SXM4-80GB", "ampere", 81920),
    "sm_86": ("NVIDIA-A10", "ampere", 23028),
    "sm_89": ("NVIDIA-L4", "ada-lovelace", 23034),
    "sm_120": ("NVIDIA-GeForce-RTX-5090", "blackwell", 32607),
}
ARCHS = tuple(GPUS)
SICK = "sm_89"
WELL = tuple(arch for arch in ARCHS if arch != SICK)
SAMPLES, BARS = 8, {"fp16": 0.999, "int8": 0.9}


def node(arch):
    product, family, memory = GPUS[arch]
    major, minor = arch[3:-1], arch[-1]
    labels = {
        "sluice.dev/arch": arch,
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.count": "1",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.family": family,
        "nvidia.com/gpu.memory": str(memory),
        "nvidia.com/gpu.compute.major": major,
        "nvidia.com/gpu.compute.minor": minor,
    }
    return {
        "name": f"node-{arch.replace('_', '-')}",
        "labels": labels,
        "allocatable": {"nvidia.com/gpu": "1"},
        "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
    }


def write_spec(file, *, optional):
    """The shipped spec with four GPU targets, and as little to do as shows what is claimed."""
    raw = yaml.safe_load((REPO / "dags" / "models" / "minilm.yaml").read_text())
    raw["model"]["axes"]["batch"]["buckets"] = [16]  # one profile
    raw["model"]["axes"]["sequence"]["buckets"] = [128]
    raw |= {"precisions": ["fp16", "int8"], "numerics": {"samples": SAMPLES}, "review": {"before": []}}
    raw["calibration"] = {"samples": 8, "methods": ["percentile"]}
    raw["accuracy"] = {name: {"cosine": bar} for name, bar in BARS.items()}
    raw["targets"] = [
        {
            "arch": arch,
            "backend": "tensorrt_rtx",
            "selector": {"nvidia.com/gpu.product": GPUS[arch][0]},
            "image": "sluice/engine-builder:${SLUICE_IMAGE_TAG}",
            "share": 1 / len(ARCHS),
            "optional": optional and arch == SICK,
            "resources": {"cpu": "2", "memory": "4Gi"},
            "build": {"optimization_level": 0, "time_limit_s": 0.001 if arch == SICK else 600},
        }
        for arch in ARCHS
    ]
    file.write_text(yaml.safe_dump(raw))
    return file


class Promotion:
    """Both runs: what Airflow made of them, and what they left in the parts, which end with the fixture."""

    def __init__(self, layout, output, cluster):
        parts = output.split(RESULT)
        assert len(parts) == 3, output[-4000:]
        self.broken, self.passed = (json.loads(part.splitlines()[0]) for part in parts[1:])
        self.broken["log"], self.passed["log"] = parts[:2]
        self.store, self.mlflow = Store(layout.store), layout.root / "mlflow" / "artifacts"
        self.releases = [load_release(self.store, one.name) for one in (layout.store / "release").iterdir()]
        self.rollouts = [ask(layout, f"/v1/rollouts/minilm-{number}") for number in (1, 2)]
        self.decisions = ask(layout, "/v1/decisions?service=minilm")
        self.service = ask(layout, "/v1/services/minilm")
        self.deployments = cluster.call("GET", "/apis/apps/v1/namespaces/default/deployments")[1]["items"]
        url = f"{layout.url('mlflow')}/api/2.0/mlflow/model-versions/search"
        self.versions = requests.get(url, timeout=20).json().get("model_versions", [])

    def engine(self, arch):
        return self.store.get("engine", self.releases[0].keys.engine(arch))


def ask(layout, path):
    """What the controller says."""
    headers = {"Authorization": f"Bearer {layout.token}"}
    return requests.get(f"{layout.url('controller')}{path}", headers=headers, timeout=20).json()


@pytest.fixture(scope="module")
def promotion(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    layout = Layout.make(folder, folder / "dags")
    processes = Processes(folder / "processes")
    with pytest.MonkeyPatch.context() as patch, contextlib.closing(processes), cluster_of(layout) as cluster:
        patch.setenv("no_proxy", "*")
        processes.start(programs.mlflow(layout))
        processes.start(programs.controller(layout))
        make_checkpoint(layout.checkpoints / "minilm" / "one", texts=16)
        for part, path in (("controller", "/metrics"), ("mlflow", "/health")):
            until(functools.partial(answers, layout.url(part) + path), f"{part} answers")
        yield Promotion(layout, play(layout, folder), cluster)


def cluster_of(layout):
    """One node for each GPU, and one without for the pods that need none."""
    folder = layout.kubeconfig.parent
    folder.mkdir(parents=True)
    (folder / "nodes.json").write_text(json.dumps([{"name": "plain"}, *map(node, ARCHS)]))
    path = os.pathsep.join([str(REPO), *filter(None, sys.path)])
    image = {"path": [str(Path(sys.executable).parent)], "cwd": str(REPO), "env": {"PYTHONPATH": path}}
    images = {f"sluice/*:{layout.image_tag}": image}
    return Emulator(folder, "--nodes", str(folder / "nodes.json"), images=images)


def play(layout, folder):
    """Both runs, one after the other; the output of all tasks. Behind `register` the second one is cut off."""
    (layout.dags / "models").mkdir(parents=True)
    file = shutil.copy(REPO / "dags" / "promote__minilm.py", layout.dags)
    needed = write_spec(folder / "needed.yaml", optional=False)
    optional = write_spec(folder / "optional.yaml", optional=True)
    env = {
        **os.environ,
        **programs.airflow_env(layout, folder / "airflow"),
        **programs.sluice_env(layout),
        "PYTHONPATH": os.pathsep.join([str(REPO), *filter(None, sys.path)]),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "tests.build_images.dag_run", file, needed, "-", optional, "register"],
        check=False,  # what it printed says more
        cwd=REPO,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return ran.stdout


def builds(run):
    """{arch: what Airflow says of its build}, as the map index is labelled in the grid."""
    return {one["label"]: one for one in run["ended"] if one["task"] == "build"}


def test_a_target_that_cannot_be_built_stops_the_run_before_anything_is_registered(promotion):
    """The first run. Whatever is behind `register` was not reached: no version, no pod, no traffic."""
    run, ended = promotion.broken, builds(promotion.broken)
    assert {arch: one["state"] for arch, one in ended.items()} == {
        arch: "failed" if arch == SICK else "success" for arch in ARCHS
    }
    behind = ("register", "deploy", "open_1", "gate_1", "open_100", "gate_100", "passed")
    assert {name: run["states"][name] for name in behind} == dict.fromkeys(behind, "upstream_failed")
    assert (run["state"], run["states"]["settle"], run["states"]["verdict"]) == (
        "failed",
        "success",
        "failed",
    )
    assert promotion.deployments == []
    rollout = promotion.rollouts[0]
    assert (rollout["run_id"], rollout["state"], rollout["percent"]) == (run["run_id"], "abandoned", 0)
    assert rollout["candidate"] is None
    moves = [(one["rollout"], one["action"]) for one in promotion.decisions]
    assert moves == [("minilm-1", "begin"), ("minilm-1", "abandon"), ("minilm-2", "begin")]
    assert promotion.service["stable"] is None
    # MLflow numbers versions from 1 and gives no number twice: the second run's is the first there ever was.
    assert [one["version"] for one in promotion.versions] == ["1"]


def test_the_failed_build_s_error_names_the_target_the_reason_and_the_next_step(promotion):
    error = builds(promotion.broken)[SICK]["error"]
    (verdict,) = (one["error"] for one in promotion.broken["ended"] if one["task"] == "verdict")
    assert verdict.startswith(f"abandoned: build of {SICK} failed in Airflow")
    assert f"the build for {SICK} took longer than 0.001 s" in error
    assert "raise targets[].build.time_limit_s" in error
    (last,) = (
        one for one in promotion.broken["ended"] if one["task"] == "build" and one["state"] == "failed"
    )
    assert promotion.broken["states"][f"build[{last['map_index']}]"] == "failed"  # and not up_for_retry


def test_the_same_target_as_an_optional_one_is_left_out_and_said(promotion):
    """The second run: the same spec but for `optional: true`."""
    run = promotion.passed
    assert {arch: one["state"] for arch, one in builds(run).items()} == {
        arch: "skipped" if arch == SICK else "success" for arch in ARCHS
    }
    assert run["states"]["register"] == "success"
    (version,) = promotion.versions
    assert f"**Not built** (optional): `{SICK}`" in version["description"]
    tags = {one["key"]: one["value"] for one in version["tags"]}
    assert tags["engines"] == ",".join(f"{arch}=int8" for arch in sorted(WELL))
    assert tags["rollout"] == promotion.rollouts[1]["id"]
    plans = {path.parent.name: path for path in promotion.mlflow.rglob("engine.plan")}
    assert sorted(plans) == sorted(WELL)
    for arch, plan in plans.items():
        assert plan.read_bytes() == (promotion.engine(arch).path / "engine.plan").read_bytes()


def test_what_the_first_run_built_is_not_built_again(promotion):
    """Whether a target may be missing is no part of what an engine is."""
    one, other = promotion.releases
    assert one.document_sha256 != other.document_sha256
    assert (one.digest, one.keys) == (other.digest, other.keys)
    for arch in WELL:
        assert f"building {arch} int8" in promotion.broken["log"]
        assert f"building {arch} " not in promotion.passed["log"]
        assert f"unchanged: engine {one.keys.engine(arch)[:12]}" in promotion.passed["log"]
    assert f"building {SICK} " in promotion.passed["log"]


@pytest.mark.parametrize("arch", WELL)
def test_a_pod_on_the_node_of_its_gpu_builds_the_engine_that_only_that_gpu_accepts(promotion, arch):
    assert builds(promotion.broken)[arch]["node"] == f"node-{arch.replace('_', '-')}"
    folder = promotion.engine(arch).path
    assert read_header((folder / "engine.plan").read_bytes()[:HEAD_BYTES]).archs == {arch}
    for other in ARCHS:
        if other != arch:
            with pytest.raises(ManifestMismatchError, match=f"arch is {arch}, this machine needs {other}"):
                open_engine(folder, arch=other)


@pytest.mark.parametrize("arch", WELL)
def test_fp16_and_int8_are_both_built_and_judged_for_each_gpu(promotion, arch):
    folder = promotion.engine(arch).path
    report = json.loads((folder / "report.json").read_text())
    made = report["candidates"]
    assert {name: one["precision"] for name, one in made.items()} == {
        "fp16": "fp16",
        "int8-percentile": "int8",
    }
    for one in made.values():
        assert one["engine_bytes"] > 10_000_000
        assert one["accuracy"]["embedding"]["samples"] == SAMPLES
        assert one["accuracy"]["embedding"]["cosine_min"] >= BARS[one["precision"]]
    assert report["accuracy_of"] == "explicit onnx on onnxruntime-cpu"
    manifest = EngineManifest.from_json((folder / "manifest.json").read_text())
    assert (manifest.arch, manifest.precision) == (arch, "int8")  # the smallest, since none can be timed here


def test_the_pods_that_need_no_gpu_keep_off_the_nodes_that_have_one(promotion):
    steps = {one["task"]: one["node"] for one in promotion.broken["ended"] if one["node"]}
    assert {steps[name] for name in ("export", "validate_numerics", "calibrate")} == {"plain"}


def test_with_its_limit_lifted_the_fourth_is_built_under_the_same_key(promotion):
    """The time limit makes an engine or none, and no other one."""
    raw = promotion.releases[0].spec.to_dict()
    for target in raw["targets"]:
        target["build"]["time_limit_s"] = 600.0
    patient = Release(ReleaseSpec.from_dict(raw), promotion.releases[0].checkpoint_sha256)
    assert patient.keys == promotion.releases[0].keys
    build_release(promotion.store, patient, SICK)
    plan = promotion.engine(SICK).path / "engine.plan"
    assert read_header(plan.read_bytes()[:HEAD_BYTES]).archs == {SICK}
