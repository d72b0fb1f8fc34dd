"""The drift benchmark's `holds` follow from its figures; a slice of it runs on trained MiniLM and real texts."""

import numpy as np
import pytest

from benchmarks.calibration_drift.__main__ import CODE, LANGUAGES, TRAFFIC, acceptance, minilm, told
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


@pytest.fixture(scope="module")
def slice_(tmp_path_factory):
    """The first layer's four activations: ONNX Runtime leaves the layers behind them out, so it takes a fifth."""
    folder = tmp_path_factory.mktemp("minilm")
    model, traffic = minilm(folder, texts=500)
    tensors = tuple(dict.fromkeys(operator.activation for operator in weighted_operators(model)))[:4]
    tokenizer = folder / "checkpoint" / "tokenizer.json"
    texts = {
        TRAFFIC: traffic,
        CODE: samples_of(code_texts(), tokenizer, 200),
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
