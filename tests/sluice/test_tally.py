"""The evidence book: what tosses a coin, with which bias, and what does not."""

import json
import math

import pytest

from sluice.buckets import keeps
from sluice.errors import FatalError
from sluice.evidence import Kind, StageEvidence
from sluice.hashline import HashLine
from sluice.latency import MIN_LATENCIES
from sluice.processes import EPOCH_MIN_USERS
from sluice.tally import Tally, like_load
from tests.sluice.evidence_world import LIMITS, SALT, Population, entry, kept_ids, tally
from tests.sluice.stage_book import counted_coins, failure_of, hash_line, opened, sample_of

TWO_ARCHS = {"a": 0.6, "b": 0.4}


def test_a_users_first_event_is_one_coin_and_the_rest_are_none():
    book = opened()
    for _ in range(3):
        book.add(failure_of(1, 50))
        book.add(failure_of(2, 5000))
    assert counted_coins(book.evidence()) == {(0, "cpu", 0.1): (1, 1)}
    assert book.evidence().events(Kind.FAILURE, "candidate") == 1


def test_the_bias_remembers_the_latest_earlier_stage_that_saw_the_user():
    """Never seen: w. Seen outside at v: (w-v)/(1-v). Seen inside: no coin. Sampled counts as seen."""
    book = opened(10)
    book.add(sample_of(1, 9000))  # outside at 10
    book.add(sample_of(2, 500))  # inside at 10
    book.open_stage(1, 20, hash_line(20), 200.0, LIMITS)
    book.add(failure_of(3, 9100, at_s=210.0))  # outside at 20, first seen there
    book.open_stage(2, 50, hash_line(50), 300.0, LIMITS)
    for user, place in ((1, 9000), (2, 500), (3, 9100), (4, 9200)):
        book.add(failure_of(user, place, at_s=310.0))
    found = counted_coins(book.evidence())
    seen_in_two = {round(0.4 / 0.9, 6): (0, 1), round(0.3 / 0.8, 6): (0, 1), 0.5: (0, 1)}
    assert found == {
        **{(2, "cpu", bias): pair for bias, pair in seen_in_two.items()},
        **{(0, "cpu", bias): pair for bias, pair in {**seen_in_two, 0.2: (0, 1)}.items()},  # and of stage one
    }
    assert book.evidence().users_candidate == 1
    assert book.evidence().users_coin == 0


def test_the_bias_is_that_of_the_users_architecture():
    book = tally()
    line = HashLine.build({"a": 0.9997, "b": 0.0003}, 10)
    book.open_stage(0, 10, line, 100.0, LIMITS)
    book.add(failure_of(1, 9998))
    assert counted_coins(book.evidence()) == {(0, "b", round(line.bias("b"), 6)): (0, 1)}


def test_every_process_has_a_row_for_every_architecture():
    book = tally()
    book.open_stage(0, 10, hash_line(10, TWO_ARCHS), 100.0, LIMITS)
    rows = [c for c in book.evidence().coins if c.kind is Kind.SLOW_P99 and c.test == "no_harm"]
    assert [(c.stratum, c.bias, c.heads, c.tails) for c in rows] == [("a", 0.1, 0, 0), ("b", 0.1, 0, 0)]


def test_membership_is_by_bucket_whatever_served():
    """Intention to treat: a candidate's user served by stable is still the candidate's, and is told."""
    book = opened()
    book.add(failure_of(1, 50, version="1"))
    book.add(sample_of(1, 50, version="1"))
    picture = book.evidence()
    assert counted_coins(picture) == {(0, "cpu", 0.1): (1, 0)}
    assert (picture.requests_candidate, picture.requests_misrouted) == (1, 1)


@pytest.mark.parametrize("route", ["label", "no-uid", "", "HASH"])
def test_other_routes_are_no_evidence(route):
    book = opened()
    book.add(failure_of(1, 50, route=route))
    book.add(sample_of(1, 50, route=route))
    picture = book.evidence()
    assert counted_coins(picture) == {}
    assert (picture.users_candidate, picture.newest_at_s) == (0, None)
    assert book.live(120.0) == {}


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"status": 200}, False),
        ({"status": 399}, False),
        ({"status": 404}, True),
        ({"status": 0}, True),
        ({"flags": "UT"}, True),
        ({"marker": "nan"}, True),
        ({"marker": ""}, False),
    ],
)
def test_what_a_failure_is(changes, failed):
    book = opened()
    book.add(failure_of(1, 50, **({"status": 200} | changes)))
    assert book.evidence().events(Kind.FAILURE, "candidate") == int(failed)


def test_slow_is_above_a_limit_frozen_for_the_stage():
    book = opened()
    book.like_load = True
    book.add(failure_of(1, 50, status=200, duration_ms=200.0))
    book.add(failure_of(2, 50, status=200, duration_ms=251.0))
    picture = book.evidence()
    heads = {kind: picture.events(kind, "candidate") for kind in picture.kinds}
    assert heads == {
        Kind.FAILURE: 0,
        Kind.SLOW_P95: 2,
        Kind.SLOW_P99: 1,
        Kind.SLOW_P99X125: 1,
        Kind.SLOW_P99X150: 0,
    }


def test_slow_does_not_count_under_unlike_load():
    book = opened()
    book.add(failure_of(1, 50, status=500, duration_ms=900.0))
    book.add(sample_of(2, 60, duration_ms=900.0))
    picture = book.evidence()
    assert counted_coins(picture, Kind.SLOW_P99) == {}
    assert counted_coins(picture) == {(0, "cpu", 0.1): (1, 0)}
    assert {row.kind: row.ok + row.bad for row in picture.objective}[Kind.SLOW_P95] == 0
    assert not picture.like_load


@pytest.mark.parametrize(
    ("share", "candidate", "stable", "alike"),
    [
        (0.05, 1, 12, True),
        (0.5, 6, 12, True),
        (0.01, 1, 12, False),
        (0.5, 5, 12, False),
        (0.5, 0, 12, False),
        (0.5, 12, 0, False),
        (1.0, 12, 12, False),
        (math.nan, 1, 1, False),
    ],
)
def test_like_load_is_users_per_replica_within_a_factor_of_two(share, candidate, stable, alike):
    assert like_load(share, candidate, stable) is alike


def test_settling_events_are_shown_and_not_counted_but_their_users_are_seen():
    book = opened(10)
    book.add(failure_of(1, 500, at_s=104.9))
    picture = book.evidence()
    assert (counted_coins(picture), picture.settling_events, picture.users_candidate) == ({}, 1, 0)
    book.open_stage(1, 50, hash_line(50), 200.0, LIMITS)
    book.add(failure_of(1, 500, at_s=210.0))
    assert counted_coins(book.evidence()) == {}


def test_a_sampled_failure_is_no_coin_and_an_event_is_no_request():
    book = opened()
    book.add(sample_of(1, 50, status=500))
    assert counted_coins(book.evidence()) == {}
    book.add(failure_of(2, 50))
    picture = book.evidence()
    assert (picture.requests_candidate, picture.users_candidate) == (1, 2)


def test_the_objective_takes_each_users_first_sampled_request_of_the_stage():
    book = opened()
    book.like_load = True
    book.add(sample_of(1, 50, status=500, version="2"))
    book.add(sample_of(1, 50, version="2"))
    book.add(sample_of(2, 60, version="2", duration_ms=150.0))
    book.add(sample_of(3, 9000))
    rows = {row.kind: (row.ok, row.bad) for row in book.evidence().objective}
    assert rows[Kind.FAILURE] == (1, 1)
    assert rows[Kind.SLOW_P95] == (1, 1)
    assert rows[Kind.SLOW_P99] == (2, 0)
    book.open_stage(1, 20, hash_line(20), 200.0, LIMITS)
    book.add(sample_of(1, 50, at_s=210.0, version="2"))
    assert book.evidence().objective[0].ok == 1


def test_the_same_request_counts_once_in_each_log():
    """Two gateways, or one that sends again."""
    book = opened()
    for _ in range(2):
        book.add(sample_of(1, 50, version="2", request_id="x"))
        book.add(failure_of(1, 50, version="2", request_id="x"))
    picture = book.evidence()
    assert picture.requests_candidate == 1
    assert counted_coins(picture) == {(0, "cpu", 0.1): (1, 0)}
    assert book.live(120.0)["2"]["events"] == 1


def test_thinning_drops_half_of_the_candidates_events_and_none_of_stables():
    book = opened(50)
    for number in range(400):
        book.add(failure_of(number, number, request_id=f"c{number}"))
        book.add(failure_of(1000 + number, 9000 + number, request_id=f"s{number}"))
    kept = sum(keeps(SALT, f"c{number}", 0.5) for number in range(400))
    rows = [c for c in book.evidence().coins if c.kind is Kind.FAILURE and c.test == "no_harm"]
    first = [c for c in rows if c.process == 0]
    assert [(c.heads, c.tails) for c in first] == [(kept, 400)]
    assert 150 < kept < 250


def test_a_dropped_event_leaves_the_users_next_kept_one_to_count():
    dropped = next(f"d{i}" for i in range(100) if not keeps(SALT, f"d{i}", 0.5))
    book = opened()
    book.add(failure_of(1, 50, request_id=dropped))
    assert counted_coins(book.evidence(), test="no_harm") == {}
    book.add(failure_of(1, 50, request_id=kept_ids(1)[0]))
    assert counted_coins(book.evidence(), test="no_harm") == {(0, "cpu", 0.1): (1, 0)}


def test_an_epoch_ends_when_a_twentieth_of_the_active_users_had_an_event():
    book = opened(50)
    for number in range(800):
        book.add(sample_of(number, number * 10))
    for number in range(39):
        book.add(failure_of(number, number * 10))
    assert {process for process, _, _ in counted_coins(book.evidence())} == {0}
    book.add(failure_of(39, 39 * 10))
    book.add(failure_of(0, 0))
    found = counted_coins(book.evidence())
    assert found[0, "cpu", 0.5] == (40, 0)
    assert found[1, "cpu", 0.5] == (1, 0)


def test_processes_are_numbered_over_the_whole_rollout_and_no_harm_within_the_stage():
    book = opened(10)
    for number in range(EPOCH_MIN_USERS):
        book.add(failure_of(number, 9000, request_id=kept_ids(1)[0] + f"-{number}"))
    assert {c.process for c in book.evidence().coins if c.kind is Kind.FAILURE} == {0, 1}
    book.open_stage(1, 50, hash_line(50), 200.0, LIMITS)
    coins = book.evidence().coins
    assert {c.process for c in coins if c.kind is Kind.FAILURE and c.test == "harm"} == {0, 2}
    assert {c.process for c in coins if c.kind is Kind.SLOW_P95 and c.test == "harm"} == {0, 1}
    assert {c.process for c in coins if c.test == "no_harm"} == {0}


def test_slow_limits_are_stables_and_none_with_too_few():
    book = tally()
    for number in range(MIN_LATENCIES - 1):
        book.add(entry(at_s=number / 10, duration_ms=float(number + 1)))
        book.add(entry(at_s=number / 10, duration_ms=9999.0, version="2"))
    assert book.slow_limits(30.0) is None
    book.add(entry(at_s=20.0, duration_ms=float(MIN_LATENCIES)))
    assert book.slow_limits(30.0) == (190.0, 198.0, 247.5, 297.0)
    assert book.slow_limits(20.0 + 901) is None


def test_a_stage_without_limits_freezes_them_when_stable_was_sampled_enough():
    book = tally()
    book.like_load = True
    book.open_stage(0, 10, hash_line(10), 100.0, None)
    book.add(failure_of(1, 50, status=200, duration_ms=9e9))
    assert book.evidence().kinds == (Kind.FAILURE,)
    for number in range(MIN_LATENCIES):
        book.add(sample_of(number, 9000, at_s=110 + number, duration_ms=float(number + 1)))
    assert book.limits_ms == (190.0, 198.0, 247.5, 297.0)
    book.add(failure_of(2, 50, at_s=400.0, status=200, duration_ms=9e9))
    picture = book.evidence()
    assert len(picture.kinds) == 5
    assert picture.events(Kind.SLOW_P99, "candidate") == 1


def test_no_entry_yet_is_not_time_zero():
    book = opened()
    assert book.evidence().newest_at_s is None
    book.add(sample_of(1, 50, at_s=500.0))
    assert book.evidence().newest_at_s == 500.0


def test_the_same_stage_again_changes_nothing():
    book = opened()
    book.add(failure_of(1, 50))
    before = book.evidence()
    book.open_stage(0, 10, hash_line(10), 999.0, None)
    assert book.evidence() == before


@pytest.mark.parametrize(
    ("stage", "line", "text"),
    [
        pytest.param(0, hash_line(20), "does not follow", id="an-earlier-or-equal-stage"),
        pytest.param(1, hash_line(5), "out of the cohort", id="a-smaller-cohort"),
        pytest.param(1, hash_line(20, TWO_ARCHS), "out of the cohort", id="other-architectures"),
    ],
)
def test_a_stage_that_would_break_the_coins_is_refused(stage, line, text):
    with pytest.raises(FatalError, match=text):
        opened(10).open_stage(stage, 20, line, 200.0, LIMITS)


def test_before_the_first_stage_there_is_no_evidence():
    with pytest.raises(FatalError, match="no stage is open"):
        tally().evidence()


def test_a_restored_book_goes_on_as_if_nothing_had_happened():
    """Cut at every hundredth request, through JSON: the same evidence at the end, epochs and memory included."""

    def run(cut: int | None) -> StageEvidence:
        people = Population.make(5, users=150, base=0.1, sigma=1.0)
        book = tally()
        now = 0.0
        for stage, percent in enumerate((5, 20, 50)):
            line = hash_line(percent, TWO_ARCHS)
            book.open_stage(stage, percent, line, now, LIMITS)
            book.like_load = True
            for _ in range(200):
                now += 1.0
                people.request(book, line, SALT, now)
                if now == cut:
                    book = Tally.restore(json.loads(json.dumps(book.snapshot())))
                    book.like_load = True
        return book.evidence()

    whole = run(None)
    assert any(c.process > 3 and c.heads for c in whole.coins)
    assert all(run(cut) == whole for cut in range(100, 600, 100))


def test_a_snapshot_of_another_schema_is_refused():
    with pytest.raises(FatalError, match="schema"):
        Tally.restore({**opened().snapshot(), "schema": 99})


def test_rho0_must_be_above_1():
    with pytest.raises(FatalError, match="rho0"):
        tally(rho0=1.0)


def test_live_figures_are_of_the_version_that_served():
    book = opened()
    for number in range(20):
        book.add(sample_of(number, 50, version="2", at_s=110.0 + number / 10, duration_ms=float(number + 1)))
    book.add(failure_of(1, 50, version="2"))
    figures = book.live(112.0, sample_fraction=0.5)["2"]
    assert figures == {"rps": 4.0, "events": 1, "p50_ms": 10.0, "p99_ms": 20.0, "users": 20, "requests": 20}
    late = book.live(500.0)["2"]
    assert (late["rps"], late["p50_ms"], late["p99_ms"]) == (0.0, None, None)


def test_the_process_that_goes_on_never_sees_what_was_dropped():
    """After an acknowledgement that came late it has another number; the first stage's coins are in both."""
    book = opened(10)
    book.add(failure_of(1, 9000))
    book.open_stage(1, 50, hash_line(50), 200.0, LIMITS)
    book.add(failure_of(2, 100, at_s=210.0))
    assert {process for process, _, _ in counted_coins(book.evidence())} == {0, 1}
    assert counted_coins(book.evidence())[0, "cpu", 0.1] == (0, 1)
    book.acknowledged(220.0)
    book.add(failure_of(3, 200, at_s=230.0))
    found = counted_coins(book.evidence())
    assert {process for process, _, _ in found} == {2, 3}
    assert (found[2, "cpu", 0.1], found[2, "cpu", 0.5], found[3, "cpu", 0.5]) == ((0, 1), (1, 0), (1, 0))
    again = Tally.restore(json.loads(json.dumps(book.snapshot())))
    assert again.evidence() == book.evidence()
