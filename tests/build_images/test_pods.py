"""The pods' command lines: exit codes, the last line, and nothing built twice."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.build_images.support import ARCH, MLP, released, write_checkpoint
from tests.local.cluster.kube import REPO, Emulator


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pods")
    store, release = released(folder / "store", write_checkpoint(folder / "ckpt", MLP))
    return store, release


def command(monkeypatch, capsys, module, *arguments):
    """(exit code, stdout, last line of stderr) of `python -m module arguments`."""
    monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    captured = capsys.readouterr()
    return done.value.code, captured.out, (captured.err.strip().splitlines() or [""])[-1]


def test_the_four_steps_build_once_and_then_say_unchanged(town, monkeypatch, capsys):
    store, release = town
    where = ("--store", store.root, "--release", release.document_sha256)
    keys = release.keys
    steps = (
        ("build_images.exporter", ("export",), (), "onnx", keys.onnx),
        ("build_images.exporter", ("validate",), (), "numerics", keys.numerics),
        ("calibration", (), (), "calibration", keys.calibration),
        ("build_images.engine_builder", (), ("--target", ARCH), "engine", keys.engine(ARCH)),
    )
    for module, before, behind, kind, key in steps:
        code, out, _ = command(monkeypatch, capsys, module, *before, *where, *behind)
        assert (code, store.has(kind, key)) == (0, True)
        assert f"built: {kind} {key[:12]}" in out
    for module, before, behind, kind, key in steps:
        receipt = store.path(kind, key) / "receipt.json"
        written = receipt.stat().st_mtime_ns
        code, out, _ = command(monkeypatch, capsys, module, *before, *where, *behind)
        assert (code, out) == (0, f"unchanged: {kind} {key[:12]}\n")
        assert receipt.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("module", "before", "behind"),
    [
        ("build_images.exporter", ("export",), ()),
        ("build_images.exporter", ("validate",), ()),
        ("calibration", (), ()),
        ("build_images.engine_builder", (), ("--target", ARCH)),
    ],
)
def test_a_missing_release_is_fatal_and_the_last_line_says_what_to_do(
    tmp_path, monkeypatch, capsys, module, before, behind
):
    where = ("--store", tmp_path, "--release", "0" * 64)
    code, _, last = command(monkeypatch, capsys, module, *before, *where, *behind)
    assert code == 3
    assert last.startswith("error: no release 000000000000 in the artifact store")


def test_a_target_that_the_spec_does_not_have_is_fatal(town, monkeypatch, capsys):
    store, release = town
    where = ("--store", store.root, "--release", release.document_sha256, "--target", "sm_80")
    code, _, last = command(monkeypatch, capsys, "build_images.engine_builder", *where)
    assert code == 3
    assert "sm_80" in last
    assert last.startswith("error: ")


def test_a_machine_that_is_not_the_target_s_has_an_exit_code_of_its_own(tmp_path, monkeypatch, capsys):
    """The node's label is at fault, so Airflow must neither try again nor blame the model."""
    other = "cpu-avx2" if ARCH != "cpu-avx2" else "cpu-avx512"
    target = {"arch": other, "backend": "onnxruntime", "selector": {"sluice.dev/arch": other}, "image": "x"}
    store, release = released(tmp_path / "store", write_checkpoint(tmp_path / "ckpt", MLP), targets=[target])
    where = ("--store", store.root, "--release", release.document_sha256, "--target", other)
    code, _, last = command(monkeypatch, capsys, "build_images.engine_builder", *where)
    assert code == 5
    assert f"target {other} landed on {ARCH}" in last
    assert "correct the node's label sluice.dev/arch" in last


def test_a_wrong_command_line_is_usage(monkeypatch, capsys):
    assert command(monkeypatch, capsys, "build_images.exporter", "exprot")[0] == 2


@pytest.mark.parametrize("optional", [False, True])
def test_airflow_hears_that_the_node_is_not_what_its_label_says(tmp_path, optional):
    """A pod lands on the mislabelled node: its last line is the task's error, and another try is not made.

    The target is skipped instead where the release can go on without it.
    """
    other = "cpu-avx2" if ARCH != "cpu-avx2" else "cpu-avx512"
    target = {"arch": other, "backend": "onnxruntime", "selector": {"sluice.dev/arch": other}, "image": "b:1"}
    spare = {**target, "arch": ARCH, "share": 0.5}  # at least one target must be needed
    targets = [{**target, "share": 0.5, "optional": optional}, spare]
    store, release = released(tmp_path / "store", write_checkpoint(tmp_path / "ckpt", MLP), targets=targets)
    (tmp_path / "nodes.json").write_text(json.dumps([{"name": "liar", "labels": {"sluice.dev/arch": other}}]))
    path = os.pathsep.join([str(REPO), *filter(None, sys.path)])
    image = {"path": [str(Path(sys.executable).parent)], "cwd": str(REPO), "env": {"PYTHONPATH": path}}
    with Emulator(tmp_path, "--nodes", str(tmp_path / "nodes.json"), images={"b:*": image}) as cluster:
        where = (str(cluster.kubeconfig), str(store.root), release.document_sha256, other)
        told = build_by_operator(*where, home=tmp_path / "airflow")
    assert told["node"] == "liar"
    if optional:
        assert told["error"] == "AirflowSkipException"
        assert "returned exit code 5" in told["text"]
    else:
        assert told["error"] == "AirflowException"
        assert f"error: target {other} landed on {ARCH}" in told["text"]
    assert told["decision"] == "fail"
    assert f"node liar (sluice.dev/arch={other}) is not what its label says" in told["why"]
    assert f"target {other} landed on {ARCH}" in told["why"]


def build_by_operator(*where, home):
    """What `operator_build` says; in a process of its own, because Airflow reads its home while it is imported."""
    argv = [sys.executable, "-m", "tests.build_images.operator_build", *where]
    ran = subprocess.run(
        argv,
        env={**os.environ, "AIRFLOW_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, (ran.stdout + ran.stderr)[-3000:]
    return json.loads(lines[0][7:])
