"""What is not known is never cheap: costs, the fleet's mean, limits, and prices in a spec."""

import math

import pytest

from sluice.cost import Costing, excesses, fleet, per_million, ratio
from sluice.errors import SpecError
from sluice.release import Release
from tests.sluice.specs import SHA, WHOLE, parse

NAN, INF = math.nan, math.inf
TARGET = WHOLE["targets"][0]
TWO = [{**TARGET, "arch": arch, "share": 0.5, "price_per_hour": 1.0} for arch in ("sm_80", "sm_86")]


def test_a_gpu_at_3_60_an_hour_that_does_1000_rows_a_second_costs_1_per_million():
    assert per_million(3.6, 1000.0) == pytest.approx(1.0)
    assert per_million(7.2, 1000) == pytest.approx(2.0)
    assert per_million(3.6, 4000.0) == pytest.approx(0.25)


@pytest.mark.parametrize("unknown", [None, 0, 0.0, -1.0, NAN, INF, "1", True])
def test_what_was_not_measured_is_unknown_and_never_0(unknown):
    assert per_million(3.6, unknown) is None
    assert per_million(unknown, 1000.0) is None
    assert ratio(1.0, unknown) is None
    assert ratio(unknown, 1.0) is None


def test_the_fleet_costs_the_mean_by_share():
    assert fleet({"a": 0.75, "b": 0.25}, {"a": 1.0, "b": 5.0}) == pytest.approx(2.0)
    assert fleet({"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 5.0, "c": 99.0}) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("shares", "costs"),
    [
        pytest.param({"a": 0.9, "b": 0.1}, {"a": 1.0}, id="missing"),
        pytest.param({"a": 0.9, "b": 0.1}, {"a": 1.0, "b": None}, id="unknown"),
        pytest.param({"a": 0.9, "b": 0.1}, {"a": 1.0, "b": 0.0}, id="zero"),
        pytest.param({"a": 0.9, "b": 0.1}, {"a": NAN, "b": 1.0}, id="nan"),
        pytest.param({}, {"a": 1.0}, id="no-target"),
    ],
)
def test_one_unknown_cost_makes_the_fleets_unknown(shares, costs):
    assert fleet(shares, costs) is None


def judged(cost=None, champion=None, *, million=None, times=None, alone=False):
    one = Costing(
        arch="sm_80",
        per_million=cost,
        why_unknown="" if cost else "not timed",
        champion=champion,
        why_no_champion="" if champion else "version 3 has no figures",
        alone=alone,
    )
    return [
        f"{found.message}; {found.next_step}"
        for found in excesses([one], max_per_million=million, max_ratio=times)
    ]


@pytest.mark.parametrize(
    ("given", "limits", "words"),
    [
        pytest.param((2.01,), {"million": 2.0}, "cost 2.01, cost.max_per_million is 2", id="too-dear"),
        pytest.param((NAN,), {"million": 2.0}, "cost nan", id="nan-is-not-below-a-limit"),
        pytest.param((), {"million": 2.0}, "unknown, cost.max_per_million is 2: not timed", id="unknown"),
        pytest.param((1.2, 1.0), {"times": 1.1}, "1.2 times, cost.max_ratio is 1.1", id="dearer"),
        pytest.param(
            (None, 1.0), {"times": 1.1}, "unknown, cost.max_ratio is 1.1: not timed", id="own-unknown"
        ),
        pytest.param((1.0,), {"times": 1.1}, "version 3 has no figures", id="champion-s-unknown"),
    ],
)
def test_a_limit_that_is_not_kept_names_target_figure_limit_and_next_step(given, limits, words):
    (found,) = judged(*given, **limits)
    assert found.startswith("target sm_80: ")
    assert words in found
    assert "; " in found


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        pytest.param(
            (2.0,), {"million": 2.0, "alone": True, "times": 1.0}, id="at-the-limit-and-no-champion"
        ),
        pytest.param((1.1, 1.0), {"times": 1.1}, id="at-the-ratio"),
        pytest.param((), {}, id="no-limit-asks-nothing"),
    ],
)
def test_a_limit_that_is_kept_says_nothing(given, limits):
    assert judged(*given, **limits) == []


def test_each_limit_of_each_target_is_told_at_once():
    both = [Costing(arch=arch, per_million=9.0, champion=1.0) for arch in ("sm_80", "sm_86")]
    assert [one.arch for one in excesses(both, max_per_million=1.0, max_ratio=2.0)] == 2 * ["sm_80"] + 2 * [
        "sm_86"
    ]


# --- in the spec ----------------------------------------------------------------------------------


def test_neither_a_price_nor_a_limit_makes_another_release():
    """A price is no input of a build: a dearer cloud must not build every engine anew."""
    plain = Release(parse({"targets": [{**one, "price_per_hour": None} for one in TWO]}), SHA)
    priced = Release(parse({"targets": TWO, "cost": {"max_per_million": 1.0, "max_ratio": 1.1}}), SHA)
    assert priced.spec.cost.max_ratio == 1.1
    assert (priced.digest, priced.keys) == (plain.digest, plain.keys)
    assert priced.document_sha256 != plain.document_sha256


@pytest.mark.parametrize("limit", ["max_per_million", "max_ratio"])
def test_a_limit_without_a_price_names_the_target_that_has_none(limit):
    targets = [TWO[0], {**TWO[1], "price_per_hour": None}]
    with pytest.raises(SpecError) as caught:
        parse({"targets": targets, f"cost.{limit}": 1.5})
    (problem,) = caught.value.problems
    assert problem.path == "targets.1.price_per_hour"
    assert f"cost.{limit} is set, but target sm_86 has no price" in problem.message
    assert parse({"targets": targets}).targets[1].price_per_hour is None


@pytest.mark.parametrize("price", [0, 0.0, -1.0, "1.5", True])
def test_a_price_is_a_number_above_0(price):
    with pytest.raises(SpecError) as caught:
        parse({"targets.0.price_per_hour": price})
    assert [problem.path for problem in caught.value.problems] == ["targets.0.price_per_hour"]
