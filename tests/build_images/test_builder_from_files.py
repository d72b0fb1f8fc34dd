"""One entry point: from files on a workstation it makes what it makes from a run's artifacts."""

import json

import pytest
import yaml

from build_images.engine_builder.__main__ import main
from build_images.engine_builder.build import build_release
from build_images.exporter.export import export_release
from calibration.candidates import calibrate_release
from sluice.errors import EXIT_FATAL, EXIT_USAGE
from tests.build_images.support import ARCH, MLP, released, spec_dict, write_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A release with its engine in the store, and the same inputs as files: (store, release, arguments)."""
    folder = tmp_path_factory.mktemp("files")
    checkpoint = write_checkpoint(folder / "ckpt", MLP)
    store, release = released(folder / "store", checkpoint)
    export_release(store, release)
    calibrate_release(store, release)
    build_release(store, release, ARCH)
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec_dict()))
    return (
        store,
        release,
        {
            "onnx": store.path("onnx", release.keys.onnx) / "model.onnx",
            "spec": folder / "spec.yaml",
            "samples": checkpoint / "samples.jsonl",
            "calibration": store.path("calibration", release.keys.calibration),
        },
    )


def argv(files, out, target=ARCH):
    flags = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    return [*flags, "--target", target, "--out", str(out)]


def test_the_folder_holds_what_the_artifact_of_a_run_holds(made, tmp_path, capsys):
    store, release, files = made
    assert main(argv(files, tmp_path / "out")) == 0
    assert f"for {ARCH}: " in capsys.readouterr().out.splitlines()[-1]
    artifact = store.get("engine", release.keys.engine(ARCH))
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(artifact.receipt.files)
    mine, theirs = (
        json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "out", artifact.path)
    )
    for same in ("arch", "backend", "backend_version", "onnx_sha256", "inputs", "axes"):
        assert mine[same] == theirs[same]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["candidates"]) == {"fp32", "int8-minmax", "int8-percentile"}


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        pytest.param({"calibration": None}, EXIT_FATAL, "--calibration is missing", id="no-calibration"),
        pytest.param({"samples": "empty"}, EXIT_FATAL, "the file holds no sample", id="no-samples"),
        pytest.param({"onnx": None}, EXIT_USAGE, "--onnx --spec --samples --out", id="half-of-the-flags"),
        pytest.param({"spec": "empty"}, EXIT_FATAL, "the document must be a mapping", id="no-spec"),
    ],
)
def test_what_is_missing_is_named_with_the_next_step(made, tmp_path, capsys, change, code, says):
    (tmp_path / "empty").write_text("")
    files = {**made[2], **{name: tmp_path / "empty" if text else None for name, text in change.items()}}
    assert main(argv({n: p for n, p in files.items() if p}, tmp_path / "out")) == code
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_with_something_in_it_is_left_as_it_is(made, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert main(argv(made[2], tmp_path / "out")) == EXIT_FATAL
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("flag", "path", "says"),
    [
        pytest.param("onnx", "nowhere", "--onnx {path} is not there", id="no-model"),
        pytest.param("spec", "folder", "--spec {path} is no file", id="spec-is-a-folder"),
        pytest.param("samples", "nowhere", "--samples {path} is not there", id="no-samples"),
        pytest.param("calibration", "file", "--calibration {path} is no folder", id="calibration-is-a-file"),
        pytest.param("caches", "file", "--caches {path} is no folder", id="caches-is-a-file"),
        pytest.param("out", "file", "--out {path} is no folder", id="out-is-a-file"),
        pytest.param("spec", "file", "{path} is no UTF-8 text", id="spec-is-no-text"),
        pytest.param("samples", "file", "{path} is no UTF-8 text", id="samples-are-no-text"),
        pytest.param("onnx", "file", "does not load file", id="no-onnx"),
    ],
)
def test_a_path_that_cannot_be_used_is_named_with_its_flag_before_anything_is_built(
    made, tmp_path, capsys, flag, path, says
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"\xff\xfe\x00")
    files = {**made[2], "out": tmp_path / "out", flag: tmp_path / path}
    out = files.pop("out")
    assert main(argv(files, out)) == EXIT_FATAL
    assert says.format(path=tmp_path / path) in capsys.readouterr().err.splitlines()[-1]


def test_a_flag_that_would_be_read_by_nobody_is_refused(made, tmp_path, capsys):
    store, release, _ = made
    of_store = ["--store", str(store.root), "--release", release.document_sha256, "--target", ARCH]
    for flag in ("--caches", "--calibration"):
        assert main([*of_store, flag, str(tmp_path)]) == EXIT_USAGE
    assert "either --store --release, or --onnx" in capsys.readouterr().err
    assert main(of_store) == 0
