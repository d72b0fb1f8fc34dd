"""PyTorch against ONNX Runtime: drift, NaN, missing rows and missing outputs all stop the run."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from build_images.exporter import table as numbers
from build_images.exporter.errors import NumericsError
from build_images.exporter.export import write_onnx
from build_images.exporter.judge import judge
from build_images.exporter.validate import validate_release
from sluice.model_inputs import TooFewSamplesError
from sluice.spec import Numerics
from tests.build_images.support import MLP, publish_onnx, released, write_checkpoint

LIMITS = Numerics()
NAN = float("nan")


def row(**changes):
    values = ("y", "batch=1", "fp32", True, True, "", 8, 1e-6, 1e-4, 1.0)
    good = dict(zip(numbers.COLUMNS, values, strict=True))
    return {**good, **changes}


def verdict(table, tmp_path, shapes=("batch=1",), outputs=("y",)):
    return judge(table, LIMITS, outputs=outputs, shapes=shapes, docs=tmp_path / "docs")


@pytest.mark.parametrize(
    ("table", "failing"),
    [
        pytest.param([], "row_count", id="empty-table"),
        pytest.param([row(max_abs=NAN)], "not_be_null(max_abs)", id="nan"),
        pytest.param([row(cosine=None)], "not_be_null(cosine)", id="missing-number"),
        pytest.param([row(max_abs=2e-4)], "between(max_abs)", id="drift-abs"),
        pytest.param([row(max_rel=0.02)], "between(max_rel)", id="drift-rel"),
        pytest.param([row(cosine=0.9998)], "between(cosine)", id="drift-cosine"),
        pytest.param([row(names_equal=False)], "in_set(names_equal)", id="another-output-set"),
        pytest.param([row(shapes_equal=False)], "in_set(shapes_equal)", id="another-shape"),
        pytest.param([row(values=0)], "between(values)", id="nothing-compared"),
        pytest.param([row(shape="batch=2")], "distinct_values_to_equal_set(shape)", id="corner-left-out"),
        pytest.param([row(output="z")], "distinct_values_to_equal_set(output)", id="output-left-out"),
    ],
)
def test_a_table_with_one_fault_fails_by_name(tmp_path, table, failing):
    passed, why = verdict(table, tmp_path)
    assert not passed
    assert failing in why


def test_a_good_table_passes_and_leaves_its_page(tmp_path):
    assert verdict([row()], tmp_path) == (True, "")
    assert (tmp_path / "docs" / "index.html").exists()


@pytest.mark.parametrize(
    ("a", "b", "passes"),
    [
        pytest.param([1.0, 2.0], [1.0, NAN], False, id="nan"),
        pytest.param([1.0, np.inf], [1.0, np.inf], False, id="equal-infinities"),
        pytest.param([[1.0], [2.0]], [1.0, 2.0], False, id="a-shape-that-broadcasts"),
        pytest.param([], [], False, id="nothing"),
        pytest.param([[0.0, 1.0]], [[5e-5, 1.0]], True, id="near-zero-is-judged-by-max-abs"),
        pytest.param([1.0, 2.0], [1.0, 2.00005], True, id="close"),
        pytest.param([1.0, 2.0], [1.0, 2.001], False, id="too-far"),
    ],
)
def test_compare(a, b, passes):
    assert numbers.compare(np.array(a, np.float32), np.array(b, np.float32), LIMITS).passes(LIMITS) is passes


def test_cosine_is_the_worst_rows_not_the_means():
    a, b = np.eye(3), np.eye(3)
    b[2] = [1.0, 0.0, 0.0]
    assert numbers.compare(a, b, LIMITS).cosine == 0.0
    assert numbers.compare(np.array([1e-9, 1.0]), np.array([-1e-9, 1.0]), LIMITS).cosine == pytest.approx(1.0)


def test_rows_fail_when_the_onnx_lacks_an_output():
    y = np.ones((1, 8), np.float32)
    (got,) = numbers.rows({"y": y}, {"other": y}, {"y": (1, 8)}, "batch=1", LIMITS)
    assert numbers.ratio(got, LIMITS) == numbers.FAR
    assert numbers.worst_row([row(), got], LIMITS) is got


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        pytest.param(lambda w: w + 1e-3, r"worst is output y at .* max_abs", id="drift"),
        pytest.param(lambda w: w * NAN, "not comparable", id="nan"),
    ],
)
def test_a_model_that_drifts_stops_with_the_worst_row_now_and_again(tmp_path, damage, text):
    """The failed table is kept with its page, and a second run over it fails the same way."""
    checkpoint = write_checkpoint(tmp_path / "ckpt", MLP)
    store, release = released(tmp_path / "store", checkpoint)
    write_onnx(checkpoint, release.spec, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    weight = model.graph.initializer[0]
    damaged = damage(numpy_helper.to_array(weight)).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(damaged, weight.name))
    onnx.save(model, tmp_path / "model.onnx")
    publish_onnx(store, release, tmp_path / "model.onnx")
    with pytest.raises(NumericsError, match=text):
        validate_release(store, release)
    artifact = store.get("numerics", release.keys.numerics)
    assert artifact.facts["passed"] is False
    assert (artifact.path / "docs" / "index.html").exists()
    table = json.loads((artifact.path / "table.json").read_text())
    assert len(table["rows"]) == 3 * 3 + 1  # the corners of two axes, and the real samples


LOOP = """
import torch

class Halve(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.abs().max() > 1.0):
            x = x * 0.5
        return x

def load(folder):
    return torch.jit.script(Halve())
"""


def test_an_output_of_another_shape_than_the_specs_fails_with_the_output_wanted_and_got(tmp_path):
    """Shape inference knows nothing of what a loop gives: the file then says what the spec says, true or not."""
    checkpoint = write_checkpoint(tmp_path / "ckpt", LOOP)
    outputs = [{"name": "y", "dtype": "float32", "dims": ["batch", "rows", 7]}]
    store, release = released(tmp_path / "store", checkpoint, model={"outputs": outputs})
    write_onnx(checkpoint, release.spec, tmp_path / "model.onnx")
    publish_onnx(store, release, tmp_path / "model.onnx")
    with pytest.raises(NumericsError) as caught:
        validate_release(store, release)
    says = "the spec wants [1, 2, 7], PyTorch gives [1, 2, 8], ONNX Runtime gives [1, 2, 8]"
    assert f"output y at batch=1 rows=2 has another shape: {says}; correct the dims" in str(caught.value)
    table = json.loads((store.get("numerics", release.keys.numerics).path / "table.json").read_text())["rows"]
    assert [one["shapes_equal"] for one in table] == [False] * 10
    assert table[-1]["shapes"].startswith("the spec wants [3, ")  # the real samples, in batches of three


def test_fewer_samples_than_asked_for_is_an_error_with_the_numbers(tmp_path):
    """A comparison on eleven sentences must not pass for one on twelve, let alone on 256."""
    checkpoint = write_checkpoint(tmp_path / "ckpt", MLP, samples=11)
    store, release = released(tmp_path / "store", checkpoint)
    write_onnx(checkpoint, release.spec, tmp_path / "model.onnx")
    publish_onnx(store, release, tmp_path / "model.onnx")
    with pytest.raises(TooFewSamplesError) as caught:
        validate_release(store, release)
    assert "numerics.samples asks for 12 samples, the file of model.samples has 11; write 1 more" in str(
        caught.value
    )
    assert not store.has("numerics", release.keys.numerics)
