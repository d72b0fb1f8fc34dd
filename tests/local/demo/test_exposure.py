"""The report's figures come from the journal; each kind of damage to it must show."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from local.demo import exposure as module
from local.demo.exposure import deviations
from local.load.journal import Sent
from sluice.buckets import bucket
from sluice.hashline import HashLine

SHARES = {"cpu-avx2": 1.0}
T0 = 1_800_000_000.0
USERS = [f"user-{n:05d}" for n in range(2_000)]


def iso(second):
    return datetime.fromtimestamp(T0 + second, UTC).isoformat(timespec="microseconds")


def rollout(**changes):
    base = {
        "salt": "pepper",
        "state": "promoted",
        "candidate": {"version": "2"},
        "opened": [
            {"stage": 0, "percent": 5, "at": iso(10), "acked_at": iso(10.1)},
            {"stage": 1, "percent": 100, "at": iso(20), "acked_at": iso(20.1)},
        ],
        "verdict": {"action": "pass", "at": iso(30)},
        "started_at": iso(0),
        "ended_at": iso(30),
    }
    return {**base, **changes}


def turned_back(**changes):
    """By a verdict at second 25; half a millisecond later no gateway routes to it any more."""
    harm = {"action": "harm", "at": iso(25)}
    return rollout(**{"state": "turned_back", "verdict": harm, "zero_acked_at": iso(25.0005), **changes})


def exposure(found, rows, *, watched_until=60):
    return module.exposure(found, rows, shares=SHARES, watched_until_s=T0 + watched_until)


def sent(uid, second, version, status=200):
    return Sent(
        sent_at_s=T0 + second,
        ended_at_s=T0 + second + 0.01,
        uid=uid,
        version=version,
        status=status,
        tokens=9,
    )


def honest_rows():
    """What a gateway that follows the hash exactly would have answered."""
    rows = []
    for percent, second in ((5.0, 12), (100.0, 22)):
        line = HashLine.build(SHARES, percent)
        for uid in USERS:
            version = "2" if line.side(bucket("pepper", uid)) == "candidate" else "1"
            rows.append(sent(uid, second, version))
    return rows


def test_an_honest_gateway_has_no_misprediction_and_no_change_of_sides():
    found = exposure(rollout(), honest_rows())
    assert [stage["mispredicted_requests"] for stage in found["stages"]] == [0, 0]
    assert found["users_who_changed_sides"] == 0
    assert found["client_failures"] == 0
    assert found["stages"][1]["users_exposed"] == len(USERS)
    assert found["stages"][1]["deviations_from_asked_share"] == 0


def test_one_user_on_the_wrong_side_is_counted():
    rows = honest_rows()
    wrong = next(row for row in rows if row.version == "1")
    rows[rows.index(wrong)] = sent(wrong.uid, 12, "2")
    assert exposure(rollout(), rows)["stages"][0]["mispredicted_requests"] == 1


def test_a_user_sent_back_while_the_rollout_grows_is_counted():
    rows = [*honest_rows(), sent(USERS[0], 25, "1")]
    assert exposure(rollout(), rows)["users_who_changed_sides"] == 1


def test_a_request_across_a_change_is_held_against_no_prediction():
    """Sent before the acknowledgement, so nobody can say which side it was routed on."""
    rows = [*honest_rows(), sent(USERS[0], 10.05, "2"), sent(USERS[1], 19.995, "2")]
    assert exposure(rollout(), rows)["stages"][0]["mispredicted_requests"] == 0


def test_failures_are_counted_by_version_and_no_answer_is_a_failure():
    rows = [*honest_rows(), sent("a", 12, "2", 500), sent("b", 12, "", 0)]
    found = exposure(rollout(), rows)
    assert found["client_failures"] == 2
    assert found["client_failures_by_version"] == {"2": 1, "no answer": 1}


def test_failures_count_until_the_watch_over_this_rollout_ends():
    """The version that lost its traffic is taken down after the rollout's end: who still asked it must show."""
    rows = [*honest_rows(), sent("a", 45, "1", 503), sent("b", 61, "1", 503)]
    assert exposure(rollout(), rows)["client_failures"] == 1


def last_ms(found, *rows):
    return exposure(found, rows)["verdict_to_last_request_ms"]


def test_the_last_request_counts_until_the_gateway_can_have_given_it_to_the_bad_version():
    """Sent before the verdict, answered after it: in flight, and the version had it for all but 2 ms of that time."""
    in_flight = replace(sent("b", 24.999, "2"), ended_at_s=T0 + 25.5, upstream_ms=498)
    assert last_ms(turned_back(), sent("a", 24, "2"), in_flight, sent("c", 26, "1")) == pytest.approx(
        2, abs=0.01
    )
    assert last_ms(turned_back(), replace(in_flight, upstream_ms=0)) == pytest.approx(500, abs=0.01)


def test_the_last_request_counts_until_no_gateway_routes_to_the_bad_version():
    """That no client asked just then is no evidence that it would not have been served."""
    assert last_ms(turned_back(zero_acked_at=iso(25.07)), sent("a", 24, "2")) == pytest.approx(70, abs=0.01)
    assert last_ms(turned_back(zero_acked_at=None), sent("a", 24, "2")) is None
    assert last_ms(turned_back()) is None


def test_a_rollout_that_was_never_open_has_no_stage():
    assert exposure(rollout(opened=[]), honest_rows())["stages"] == []


def test_deviations_of_nothing_are_none_not_zero():
    assert deviations(0, 0, 0.01) is None
    assert deviations(1, 10, 1.0) == float("inf")
    assert deviations(150, 10_000, 0.01) == pytest.approx(5.025, abs=0.01)


def test_what_a_promoted_version_served_as_stable_is_no_exposure_and_what_a_bad_one_served_later_is():
    later = [*honest_rows(), sent("somebody-else", 40, "2")]
    assert exposure(rollout(), later)["users_exposed"] == len(USERS)
    harmed = turned_back()
    assert exposure(harmed, later)["users_exposed"] == len(USERS) + 1
