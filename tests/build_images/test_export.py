"""PyTorch to ONNX: what is written is what the spec asks for, and what cannot be written is named."""

import onnx
import onnxruntime
import pytest
import torch

from build_images.exporter import onnx_file
from build_images.exporter.errors import (
    CheckpointCodeError,
    FrozenControlFlowError,
    OutputError,
    SegmentError,
    UnsupportedOperatorsError,
    WrittenFileError,
)
from build_images.exporter.export import export_release, write_onnx
from build_images.exporter.model import load_model
from build_images.exporter.validate import validate_release
from tests.build_images.support import MLP, released, write_checkpoint

LOOP = """
import torch

class Halve(torch.nn.Module):
    def forward(self, x):
        steps = 0
        while bool(x.abs().max() > 1.0) and steps < 20:
            x = x * 0.5
            steps += 1
        return x

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.first, self.loop, self.last = torch.nn.Linear(8, 8), HALVE, torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.last(self.loop(self.first(x)))

def load(folder):
    return Model()
"""

CUSTOM = """
import torch

if not hasattr(torch.ops.sluicetest, "soft_clip"):
    @torch.library.custom_op("sluicetest::soft_clip", mutates_args=())
    def soft_clip(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * 2.0

    @soft_clip.register_fake
    def _(x):
        return torch.empty_like(x)

class Block(torch.nn.Module):
    def forward(self, x):
        return torch.ops.sluicetest.soft_clip(x)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.blocks = torch.nn.Sequential(torch.nn.Linear(8, 8), Block(), Block())

    def forward(self, x):
        return torch.special.erfcx(self.blocks(x)) if ERFCX else self.blocks(x)

def load(folder):
    return Model()
"""

SYMBOLICS = """
import torch

def register(opset):
    def soft_clip(g, x):
        return g.op("Mul", g.op("Tanh", x), g.op("Constant", value_t=torch.tensor(2.0)))
    torch.onnx.register_custom_op_symbolic("sluicetest::soft_clip", soft_clip, opset)
"""


@pytest.fixture
def clean_symbolics():
    """Symbolics are global to the process: what one test registers, the next must not find."""
    yield
    torch.onnx.unregister_custom_op_symbolic("sluicetest::soft_clip", 17)


def test_the_written_file_has_the_opset_names_types_and_dimensions_of_the_spec(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt", MLP)
    store, release = released(tmp_path / "store", checkpoint)
    export_release(store, release)
    artifact = store.get("onnx", release.keys.onnx)
    model = onnx.load(artifact.path / "model.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    shape = [dim.dim_param or dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    assert shape == ["batch", "rows", 8]
    assert artifact.facts["opset"] == 17
    assert artifact.facts["onnx_sha256"] == artifact.receipt.files["model.onnx"].sha256
    assert store.get("checkpoint", release.keys.checkpoint)  # running its code left nothing in it


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"opset": 16}, "opset_import", id="another-opset"),
        pytest.param(
            {"inputs": [{"name": "z", "dtype": "float32", "dims": ["batch", "rows", 8]}]}, "names", id="name"
        ),
        pytest.param(
            {"outputs": [{"name": "y", "dtype": "float64", "dims": ["batch", "rows", 8]}]}, "type", id="type"
        ),
        pytest.param(
            {"outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", "rows", 9]}]}, "dims", id="size"
        ),
        pytest.param(
            {"inputs": [{"name": "x", "dtype": "float32", "dims": ["batch", 4, 8]}]}, "dims", id="frozen-axis"
        ),
    ],
)
def test_a_file_that_differs_from_the_spec_is_refused(tmp_path, change, field):
    _, release = released(tmp_path / "store", checkpoint := write_checkpoint(tmp_path / "ckpt", MLP))
    write_onnx(checkpoint, release.spec, tmp_path / "model.onnx")
    raw = release.spec.model.model_dump()
    wanted = type(release.spec.model).model_validate({**raw, **change})
    with pytest.raises(WrittenFileError) as error:
        onnx_file.check(onnx.load(tmp_path / "model.onnx"), wanted)
    assert field in error.value.field


def test_large_weights_go_to_external_data_and_the_model_still_runs(tmp_path):
    _, release = released(tmp_path / "store", checkpoint := write_checkpoint(tmp_path / "ckpt", MLP))
    path = tmp_path / "model.onnx"
    write_onnx(checkpoint, release.spec, path)
    inside = path.stat().st_size
    onnx_file.finish(path, release.spec.model, external_above_bytes=100)
    assert (tmp_path / "model.onnx.data").exists()
    assert path.stat().st_size < inside
    assert onnxruntime.InferenceSession(str(path)).get_outputs()[0].name == "y"


def test_the_exporters_own_weight_files_of_a_large_model_do_not_stay_beside_it(tmp_path):
    """From 2 GB on the exporter writes each weight into a file of its own; here they are made on purpose."""
    _, release = released(tmp_path / "store", checkpoint := write_checkpoint(tmp_path / "ckpt", MLP))
    path = tmp_path / "onnx" / "model.onnx"
    path.parent.mkdir()
    write_onnx(checkpoint, release.spec, path)
    onnx.save_model(
        onnx.load(str(path)),
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    assert len(list(path.parent.iterdir())) > 4
    onnx_file.finish(path, release.spec.model, external_above_bytes=100)
    assert {file.name for file in path.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert onnxruntime.InferenceSession(str(path)).get_outputs()[0].name == "y"


def test_a_loop_over_values_first_fails_with_its_place_and_the_way_out(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt", LOOP.replace("HALVE", "Halve()"))
    _, release = released(tmp_path / "store", checkpoint)
    with pytest.raises(FrozenControlFlowError) as error:
        write_onnx(checkpoint, release.spec, tmp_path / "model.onnx")
    assert {place.module for place in error.value.places} == {"loop"}
    assert "model.py:7" in str(error.value)
    assert "torch.jit.script" in str(error.value)
    assert "model.segments" in str(error.value)


@pytest.mark.parametrize(
    ("halve", "segments", "how"),
    [
        pytest.param("torch.jit.script(Halve())", [], [], id="scripted-in-load"),
        pytest.param("Halve()", ["first", "loop", "last"], ["traced", "scripted", "traced"], id="segments"),
    ],
)
def test_a_loop_over_values_is_exported_by_following_the_message(tmp_path, halve, segments, how):
    """Both ways out keep the loop: the ONNX agrees on inputs that need no, some and many rounds."""
    checkpoint = write_checkpoint(tmp_path / "ckpt", LOOP.replace("HALVE", halve))
    store, release = released(tmp_path / "store", checkpoint, model={"segments": segments})
    export_release(store, release)
    artifact = store.get("onnx", release.keys.onnx)
    assert [segment["how"] for segment in artifact.facts["segments"]] == how
    assert all(segment["max_abs"] <= 1e-4 for segment in artifact.facts["segments"])
    model = load_model(checkpoint, "model.py:load")
    session = onnxruntime.InferenceSession(str(artifact.path / "model.onnx"))
    for scale in (0.01, 3.0, 1000.0):
        x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)) * scale
        (got,) = session.run(None, {"x": x.numpy()})
        assert abs(model(x).detach().numpy() - got).max() < 1e-5
    validate_release(store, release)


@pytest.mark.parametrize(
    ("segments", "text"),
    [
        pytest.param(["loop", "last"], "neither an input of the model", id="a-part-is-left-out-before"),
        pytest.param(["first", "loop"], "computed after it", id="a-part-is-left-out-behind"),
        pytest.param(["first", "nothing", "last"], "no such submodule", id="unknown-name"),
    ],
)
def test_segments_that_do_not_chain_are_refused(tmp_path, segments, text):
    checkpoint = write_checkpoint(tmp_path / "ckpt", LOOP.replace("HALVE", "Halve()"))
    _, release = released(tmp_path / "store", checkpoint, model={"segments": segments})
    with pytest.raises(SegmentError, match=text):
        write_onnx(checkpoint, release.spec, tmp_path / "model.onnx")


def test_every_unsupported_operator_is_named_with_the_modules_that_use_it(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt", CUSTOM.replace("ERFCX", "True"))
    _, release = released(tmp_path / "store", checkpoint)
    with pytest.raises(UnsupportedOperatorsError) as error:
        write_onnx(checkpoint, release.spec, tmp_path / "model.onnx")
    found = {op: [place.module for place in places] for op, places in error.value.found.items()}
    assert found == {"sluicetest::soft_clip": ["blocks.1", "blocks.2"], "aten::special_erfcx": [""]}
    assert "model.symbolics" in str(error.value)


@pytest.mark.usefixtures("clean_symbolics")
def test_a_custom_operator_is_exported_by_following_the_message(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt", CUSTOM.replace("ERFCX", "False"), symbolics=SYMBOLICS)
    store, release = released(tmp_path / "store", checkpoint, model={"symbolics": "symbolics.py"})
    export_release(store, release)
    validate_release(store, release)
    assert store.get("numerics", release.keys.numerics).facts["passed"] is True


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        pytest.param(
            "def load(folder):\n    return {}[1]\n", CheckpointCodeError, "model.py:2", id="load-raises"
        ),
        pytest.param("def load(folder):\n    return 3\n", CheckpointCodeError, "int", id="no-module"),
        pytest.param("x = 1\n", CheckpointCodeError, "no function", id="no-entry-point"),
        pytest.param("import nothing_here\n", CheckpointCodeError, "nothing_here", id="import-fails"),
        pytest.param(
            MLP.replace("(torch.relu(self.up(x)))", "(torch.relu(self.up(x))), x"),
            OutputError,
            "2 tensors",
            id="outputs",
        ),
    ],
)
def test_the_checkpoints_own_faults_come_back_with_their_place(tmp_path, code, error, text):
    checkpoint = write_checkpoint(tmp_path / "ckpt", code)
    _, release = released(tmp_path / "store", checkpoint)
    with pytest.raises(error, match=text):
        write_onnx(checkpoint, release.spec, tmp_path / "model.onnx")
