"""A TensorRT plan is opened only where it was built for, and only if its first bytes are its manifest's words."""

import hashlib
import json
import struct
import subprocess
from pathlib import Path

import pytest

from serving.runtime.device import machine_arch
from serving.runtime.engine import open_engine
from sluice.errors import FatalError
from sluice.manifest import ManifestMismatchError
from sluice.plan import ARCH_BITS, PlanHeaderError, PlanMismatchError
from tests.serving.runtime.server import ROOT, command
from tests.sluice.test_manifest import WHOLE

ARCHS = ("sm_80", "sm_86", "sm_89", "sm_120")


def plan(arch: str, version: tuple[int, ...] = (1, 7, 1, 116)) -> bytes:
    bit = next(bit for bit, name in ARCH_BITS.items() if name == arch)
    return b"vtrt" + bytes(20) + bytes(version) + b"vtrt" + struct.pack("<Q", bit) + bytes(24)


def folder(path: Path, arch: str, file: bytes, **changes: object) -> Path:
    """An engine's folder whose digest fits its file; `changes` replace fields of the manifest."""
    path.mkdir()
    (path / "engine.plan").write_bytes(file)
    document = WHOLE | {
        "arch": arch,
        "backend": "tensorrt_rtx",
        "backend_version": "1.7.1.116",
        "engine_sha256": hashlib.sha256(file).hexdigest(),
        **changes,
    }
    (path / "manifest.json").write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("built", ARCHS)
@pytest.mark.parametrize("here", [*ARCHS, "sm_90", "cpu-avx2"])
def test_a_runtime_on_another_architecture_refuses_and_says_what_to_build(tmp_path, built, here):
    engine = folder(tmp_path / "e", built, plan(built))
    with pytest.raises(FatalError) as caught:
        open_engine(engine, arch=here)
    assert caught.value.exit_code == 3
    if here == built:  # then it is only the library that is not there
        assert "backend is 'tensorrt_rtx', this server has onnxruntime" in str(caught.value)
    else:
        assert isinstance(caught.value, ManifestMismatchError)
        assert f"arch is {built}, this machine needs {here}; build an engine for this target" in str(
            caught.value
        )


def test_the_server_itself_ends_with_3_and_one_line(tmp_path):
    engine = folder(tmp_path / "e", "sm_80", plan("sm_80"))
    done = subprocess.run(command(engine), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 3
    assert line.startswith(f"error: engine manifest: arch is sm_80, this machine needs {machine_arch()}")
    assert "build an engine for this target" in line


@pytest.mark.parametrize(
    ("file", "error", "words"),
    [
        pytest.param(plan("sm_86"), PlanMismatchError, "arch is sm_86, its manifest says sm_80", id="arch"),
        pytest.param(
            plan("sm_80", (1, 7, 1, 115)),
            PlanMismatchError,
            "build backend_version 1.7.1.116 again",
            id="version",
        ),
        pytest.param(plan("sm_80")[:20], PlanHeaderError, "length is 20 bytes", id="cut-short"),
        pytest.param(b"ftrt" + plan("sm_80")[4:], PlanMismatchError, "backend is tensorrt,", id="family"),
    ],
)
def test_a_file_that_is_not_its_manifest_s_is_refused_before_its_digest_is_looked_at(
    tmp_path, file, error, words
):
    engine = folder(tmp_path / "e", "sm_80", file, engine_sha256="0" * 64)
    with pytest.raises(error) as caught:
        open_engine(engine, arch="sm_80")
    assert words in str(caught.value)


def test_a_plan_that_calls_itself_onnx_never_reaches_onnx_runtime(tmp_path):
    engine = folder(tmp_path / "e", machine_arch(), plan("sm_80"), backend="onnxruntime")
    with pytest.raises(PlanMismatchError, match="backend is tensorrt_rtx, its manifest says onnxruntime"):
        open_engine(engine)
