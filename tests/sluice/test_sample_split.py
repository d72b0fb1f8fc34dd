"""Which recorded inputs calibrate and which are held out.

Covered: both parts have every stratum that the traffic has, in proportion; no content is in both; order and repeats of
the recordings change nothing; what is missing is an error that names the field.
"""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sluice.errors import FatalError
from sluice.sample_split import SHARE_LEAST, SplitError, split

STRATA = ("short-rare", "medium-rare", "long-rare", "long-frequent")


def kept(*sizes: int) -> dict[str, list[str]]:
    return {
        name: [f"{name}-{number:04d}" for number in range(size)]
        for name, size in zip(STRATA, sizes, strict=False)
    }


@given(
    st.lists(st.integers(2, 60), min_size=1, max_size=4),
    st.lists(st.integers(0, 5000), min_size=4, max_size=4),
    st.integers(1, 40),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_the_parts_have_the_asked_sizes_share_nothing_and_depend_on_no_order(
    sizes: list[int], requests: list[int], calibrate: int, held_out: int, order: object
) -> None:
    assume(sum(sizes) >= calibrate + held_out)
    contents = kept(*sizes)
    seen = dict(zip(contents, requests, strict=False))
    asked = {"calibrate": calibrate, "held_out": held_out, "least": 2}
    found = split(contents, seen, **asked)
    assert len(found.calibrate) == calibrate == len(set(found.calibrate))
    assert len(found.held_out) == held_out == len(set(found.held_out))
    assert not set(found.calibrate) & set(found.held_out)
    mixed = {name: order.sample(ones, len(ones)) * 2 for name, ones in contents.items()}  # type: ignore[attr-defined]
    assert split(mixed, seen, **asked) == found


def test_the_parts_follow_the_traffics_shares() -> None:
    seen = dict(zip(STRATA, (7000, 2000, 1000), strict=False))
    found = split(kept(500, 500, 500), seen, calibrate=100, held_out=50, least=1)
    counts = {name: sum(one.startswith(name) for one in found.calibrate) for name in seen}
    assert counts == {"short-rare": 70, "medium-rare": 20, "long-rare": 10}
    assert sum(one.startswith("short-rare") for one in found.held_out) == 35


def test_a_rare_stratum_has_the_least_number_in_both_parts() -> None:
    seen = dict(zip(STRATA, (9990, 10), strict=False))
    found = split(kept(500, 40), seen, calibrate=100, held_out=50, least=8)
    for part in (found.calibrate, found.held_out):
        assert sum(one.startswith("medium-rare") for one in part) == 8


def test_a_stratum_of_two_inputs_is_in_both_parts() -> None:
    seen = dict(zip(STRATA, (990, 10), strict=False))
    found = split(kept(500, 2), seen, calibrate=100, held_out=50, least=8)
    for part in (found.calibrate, found.held_out):
        assert sum(one.startswith("medium-rare") for one in part) == 1


def test_where_one_stratum_is_short_the_others_fill_up() -> None:
    seen = dict(zip(STRATA, (9000, 1000), strict=False))
    found = split(kept(20, 500), seen, calibrate=100, held_out=100, least=4)
    assert sum(one.startswith("short-rare") for one in found.calibrate) == 10
    assert len(found.calibrate) == 100


def test_more_strata_than_room_still_gives_the_size() -> None:
    found = split(kept(9, 9, 9, 9), dict.fromkeys(STRATA, 100), calibrate=3, held_out=3, least=8)
    assert len(found.calibrate) == len(found.held_out) == 3


def test_too_few_inputs_name_the_field_and_both_numbers() -> None:
    with pytest.raises(
        SplitError, match=r"calibration\.samples asks for 100: .* 150, and 70 different"
    ) as caught:
        split(kept(40, 30), dict.fromkeys(STRATA, 50), calibrate=100, held_out=50, least=1)
    assert isinstance(caught.value, FatalError)
    assert "calibration.samples" in caught.value.next_step


def test_an_empty_stratum_of_the_traffic_is_an_error_that_names_it() -> None:
    seen = dict(zip(STRATA, (9000, 1000), strict=False))
    with pytest.raises(SplitError, match="medium-rare has 1000 of 10000 requests, and none of its inputs"):
        split(kept(500, 0), seen, calibrate=100, held_out=50, least=1)


def test_one_input_that_is_sent_all_the_time_calibrates_and_judges_nothing() -> None:
    """A probe that asks for the same text every second is half of a quiet service's traffic."""
    seen = dict(zip(STRATA, (5000, 5000), strict=False))
    found = split(kept(500, 1), seen, calibrate=100, held_out=50, least=1)
    assert "medium-rare-0000" in found.calibrate
    assert not any(one.startswith("medium-rare") for one in found.held_out)


def test_a_stratum_below_one_percent_may_be_missing() -> None:
    seen = {"short-rare": 10_000, "medium-rare": int(10_000 * SHARE_LEAST) - 1}
    found = split(kept(500, 0), seen, calibrate=100, held_out=50, least=1)
    assert len(found.calibrate) == 100
