"""What ONNX Runtime's failures mean: a full disk and a killed process are nobody's fault, a bad model is one's."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from build_images.engine_builder import onnxruntime_backend
from build_images.engine_builder.backend import Candidate
from build_images.engine_builder.errors import LargestShapeError, NoRoomError, PeakMemoryError
from build_images.engine_builder.onnxruntime_backend import OnnxRuntimeBackend
from build_images.engine_builder.settings import BuildSettings
from sluice.errors import FatalError

ONE_THREAD = BuildSettings(
    threads=1, profiles=(), workspace_bytes=2**30, optimization_level=3, time_limit_s=60.0
)
FEED = {"x": np.zeros((2, 256), np.float32)}


@pytest.fixture
def source(tmp_path):
    """A model with weights enough to be written beside the graph."""
    weight = np.random.default_rng(1).normal(size=(256, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "model.onnx",
    )
    return tmp_path / "model.onnx"


@pytest.fixture
def engine(tmp_path):
    (tmp_path / "engine").mkdir()
    return tmp_path / "engine" / "engine.onnx"


@pytest.mark.parametrize("part", ["engine.onnx", "engine.onnx.data"])
def test_a_full_disk_is_retryable_and_names_the_folder(source, engine, part):
    """ONNX Runtime does not say why it could not write, and so the model was blamed."""
    (engine.parent / part).symlink_to("/dev/full")
    with pytest.raises(NoRoomError) as caught:
        OnnxRuntimeBackend().build(candidate(source), engine, arch="cpu-avx2", settings=ONE_THREAD)
    assert caught.value.exit_code == 4
    assert str(engine.parent) in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert "make room there" in str(caught.value)


def candidate(source):
    return Candidate(name="fp32", precision="fp32", source=source)


def test_a_file_that_is_no_model_is_fatal_while_there_is_room(tmp_path, engine):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(FatalError, match=r"does not load model\.onnx"):
        OnnxRuntimeBackend().build(
            candidate(tmp_path / "model.onnx"), engine, arch="cpu-avx2", settings=ONE_THREAD
        )


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let this code stand for the program that measures memory."""
    path = tmp_path / "program.py"
    path.write_text(code)
    monkeypatch.setattr(onnxruntime_backend, "PEAK", path)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        pytest.param("import os; os.kill(os.getpid(), 9)", "Killed", id="out-of-memory"),
        pytest.param("import time; time.sleep(60)", "no answer within 0.5 s", id="too-slow"),
    ],
)
def test_a_measurement_that_is_killed_or_too_slow_is_retryable(tmp_path, monkeypatch, engine, code, says):
    program(tmp_path, monkeypatch, code)
    monkeypatch.setattr(onnxruntime_backend, "PEAK_TIMEOUT_S", 0.5)
    with pytest.raises(PeakMemoryError, match=says) as caught:
        OnnxRuntimeBackend().peak_memory_bytes(engine, FEED, threads=1)
    assert caught.value.exit_code == 4


def test_an_engine_that_fails_at_its_largest_shape_is_fatal_with_its_own_words(source, engine):
    backend = OnnxRuntimeBackend()
    backend.build(candidate(source), engine, arch="cpu-avx2", settings=ONE_THREAD)
    assert backend.peak_memory_bytes(engine, FEED, threads=1) > 10_000_000
    wrong = {"x": np.zeros((2, 255), np.float32)}
    with pytest.raises(LargestShapeError) as caught:
        backend.peak_memory_bytes(engine, wrong, threads=1)
    assert caught.value.exit_code == 3
    assert "x [2, 255]" in str(caught.value)
    assert "Got: 255 Expected: 256" in str(caught.value)
