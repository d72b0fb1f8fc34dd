"""A client of stable must not notice that it talks to the candidate."""

import pytest

from sluice.signature import Signature, SignatureError, TensorSpec, differences

X = TensorSpec("x", "float32", ("batch", 3))
Y = TensorSpec("y", "float32", ("batch", 2))
STABLE = Signature(inputs=(X,), outputs=(Y,))


@pytest.mark.parametrize(
    ("candidate", "want"),
    [
        pytest.param(Signature((X,), (TensorSpec("z", "float32", ("batch", 2)),)), ("y", "z"), id="renamed"),
        pytest.param(Signature((X, Y), (Y,)), ("y",), id="asks-for-more"),
        pytest.param(Signature((X,), (Y, TensorSpec("z", "bool", (1,)))), ("z",), id="answers-more"),
        pytest.param(Signature((TensorSpec("x", "float64", X.dims),), (Y,)), ("x",), id="other-type"),
        pytest.param(Signature((X,), (TensorSpec("y", "float32", ("batch", 4)),)), ("y",), id="other-size"),
        pytest.param(Signature((X,), (TensorSpec("y", "float32", (1, 2)),)), ("y",), id="no-longer-dynamic"),
        pytest.param(Signature((X,), (TensorSpec("y", "float32", ("batch",)),)), ("y",), id="other-rank"),
    ],
)
def test_each_kind_of_difference_is_named(candidate, want):
    found = differences(STABLE, candidate)
    assert [line.split(":")[0].split()[1] for line in found] == list(want)


def test_a_tensor_moved_between_the_sides_is_two_differences():
    swapped = Signature(inputs=(X, Y), outputs=(X, Y))
    assert len(differences(STABLE, swapped)) == 2


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(STABLE, id="the-same"),
        pytest.param(Signature((TensorSpec("x", "float32", ("n", 3)),), (Y,)), id="axis-named-otherwise"),
    ],
)
def test_nothing_to_report(candidate):
    assert differences(STABLE, candidate) == ()


def test_order_does_not_count_because_the_wire_goes_by_name():
    both = (X, TensorSpec("w", "int64", ("batch",)))
    assert differences(Signature(both, (Y,)), Signature(both[::-1], (Y,))) == ()


def test_an_allowed_name_may_differ_and_no_other():
    candidate = Signature((X,), (TensorSpec("z", "float32", ("batch", 2)),))
    assert [line.split(":")[0] for line in differences(STABLE, candidate, allowed=("z",))] == ["output y"]
    assert differences(STABLE, candidate, allowed=("z", "y")) == ()


def test_a_difference_shows_both_sides():
    candidate = Signature((X,), (TensorSpec("y", "float16", ("batch", 2)),))
    assert differences(STABLE, candidate) == (
        "output y: float32[batch, 2] in stable, float16[batch, 2] in the candidate",
    )


def test_it_travels_as_json():
    assert Signature.from_dict(STABLE.to_dict()) == STABLE


@pytest.mark.parametrize(
    ("data", "path"),
    [
        pytest.param({"inputs": [], "outputs": [STABLE.to_dict()["outputs"][0]]}, "inputs", id="empty-side"),
        pytest.param({"inputs": STABLE.to_dict()["inputs"]}, "outputs", id="a-side-missing"),
        pytest.param(
            {**STABLE.to_dict(), "outputs": [{"name": "y", "dtype": "fp32", "dims": [1]}]},
            "outputs.0.dtype",
            id="unknown-type",
        ),
        pytest.param(
            {**STABLE.to_dict(), "outputs": [{"name": "y", "dtype": "bool", "dims": [0]}]},
            "outputs.0.dims.0",
            id="no-size",
        ),
    ],
)
def test_what_is_no_signature_is_refused_by_field(data, path):
    with pytest.raises(SignatureError) as caught:
        Signature.from_dict(data)
    assert caught.value.path == path
