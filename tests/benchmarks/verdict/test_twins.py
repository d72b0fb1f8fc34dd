"""Each broken twin breaks the bound that the product keeps."""

import numpy as np
import pytest

from benchmarks.verdict.twins import TWINS, judged


def test_every_broken_twin_fails_the_test_that_it_should() -> None:
    for one in judged(40, 3):
        if one["twin"] == "everybody once per stage with bias w":
            continue  # a rate of five in a hundred: below
        assert one["fails"], one
        assert one["product_count"] <= 2, one


def test_everybody_once_per_stage_is_found_with_more_rollouts() -> None:
    """4 to 5 % where 1 % was promised."""
    twin = next(twin for twin in TWINS if twin.name.startswith("everybody"))
    broken, ours = twin.count(3000, np.random.default_rng(2))
    assert broken / 3000 > 0.03
    assert ours / 3000 <= 0.01


@pytest.mark.parametrize(
    "name", ["peeking z-test", "request counting", "strata by who served", "plain opposite ratio"]
)
def test_the_promised_twins_are_there(name: str) -> None:
    assert name in [twin.name for twin in TWINS]
