"""Equal inputs have equal bytes, whatever the order; other inputs have others."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.digest import canonical_json, is_sha256, sha256_bytes, sha256_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=5))
def test_the_order_in_which_a_mapping_was_filled_does_not_count(value):
    assert sha256_json(dict(reversed(value.items()))) == sha256_json(value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"a": [1, 2]}, {"a": [2, 1]}, id="order-of-a-list-counts"),
        pytest.param({"a": 1}, {"a": "1"}, id="number-and-text"),
        pytest.param({"a": None}, {}, id="null-and-nothing"),
        pytest.param(["ab", "c"], ["a", "bc"], id="borders-between-texts"),
    ],
)
def test_what_differs_has_another_digest(one, other):
    assert sha256_json(one) != sha256_json(other)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_has_no_digest(bad):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": bad})


def test_the_spelling_is_fixed_so_that_keys_outlive_this_version():
    assert canonical_json({"b": [1, 0.5], "a": "é"}) == '{"a":"é","b":[1,0.5]}'.encode()
    assert sha256_bytes(b"x") == hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    ("text", "want"),
    [("ab" * 32, True), ("AB" * 32, False), ("ab" * 31, False), ("ab" * 32 + "\n", False), (None, False)],
)
def test_is_sha256_takes_exactly_64_lowercase_digits(text, want):
    assert is_sha256(text) is want
