"""The evidence book: what tosses a coin, with which bias, and what does not."""

import json
import math
import random

import pytest

from sluice.buckets import keeps
from sluice.errors import FatalError
from sluice.evidence import Kind, StageEvidence
from sluice.hashline import HashLine
from sluice.latency import MIN_LATENCIES, Latencies, RecentIds, quantile
from sluice.processes import EPOCH_MIN_USERS, LIVE_PROCESSES, NEVER, Series
from sluice.tally import Entry, Tally, like_load
from tests.sluice.evidence_world import LIMITS, ONE_ARCH, SALT, Population, entry, kept_ids, tally

TWO_ARCHS = {"a": 0.6, "b": 0.4}


def _line(percent: float, shares: dict[str, float] = ONE_ARCH) -> HashLine:
    return HashLine.build(shares, percent)


def _opened(percent: float = 10, **changes: object) -> Tally:
    book = tally(**changes)
    book.open_stage(0, percent, _line(percent), 100.0, LIMITS)
    return book


def _event(user: int, place: int, **changes: object) -> Entry:
    """A failure of this user, in the event log, after settling."""
    given: dict[str, object] = {
        "uid_hash": user,
        "bucket": place,
        "at_s": 110.0,
        "event_log": True,
        "status": 500,
    }
    return entry(**(given | changes))


def _sample(user: int, place: int, **changes: object) -> Entry:
    return entry(**({"uid_hash": user, "bucket": place, "at_s": 110.0} | changes))


def _coins(
    picture: StageEvidence, kind: Kind = Kind.FAILURE, test: str = "harm"
) -> dict[tuple[int, str, float], tuple[int, int]]:
    """(process, stratum, bias) to (heads, tails), rows with counts only."""
    return {
        (c.process, c.stratum, round(c.bias, 6)): (c.heads, c.tails)
        for c in picture.coins
        if c.kind is kind and c.test == test and c.heads + c.tails
    }


def test_a_users_first_event_is_one_coin_and_the_rest_are_none():
    book = _opened()
    for _ in range(3):
        book.add(_event(1, 50))
        book.add(_event(2, 5000))
    assert _coins(book.evidence()) == {(0, "cpu", 0.1): (1, 1)}
    assert book.evidence().events(Kind.FAILURE, "candidate") == 1


def test_the_bias_remembers_the_latest_earlier_stage_that_saw_the_user():
    """Never seen: w. Seen outside at v: (w-v)/(1-v). Seen inside: no coin. Sampled counts as seen."""
    book = _opened(10)
    book.add(_sample(1, 9000))  # outside at 10
    book.add(_sample(2, 500))  # inside at 10
    book.open_stage(1, 20, _line(20), 200.0, LIMITS)
    book.add(_event(3, 9100, at_s=210.0))  # outside at 20, first seen there
    book.open_stage(2, 50, _line(50), 300.0, LIMITS)
    for user, place in ((1, 9000), (2, 500), (3, 9100), (4, 9200)):
        book.add(_event(user, place, at_s=310.0))
    found = _coins(book.evidence())
    assert found == {
        (2, "cpu", round(0.4 / 0.9, 6)): (0, 1),
        (2, "cpu", round(0.3 / 0.8, 6)): (0, 1),
        (2, "cpu", 0.5): (0, 1),
    }
    assert book.evidence().users_candidate == 1
    assert book.evidence().users_coin == 0


def test_the_bias_is_that_of_the_users_architecture():
    book = tally()
    line = HashLine.build({"a": 0.9997, "b": 0.0003}, 10)
    book.open_stage(0, 10, line, 100.0, LIMITS)
    book.add(_event(1, 9998))
    assert _coins(book.evidence()) == {(0, "b", round(line.bias("b"), 6)): (0, 1)}


def test_every_process_has_a_row_for_every_architecture():
    book = tally()
    book.open_stage(0, 10, _line(10, TWO_ARCHS), 100.0, LIMITS)
    rows = [c for c in book.evidence().coins if c.kind is Kind.SLOW_P99 and c.test == "no_harm"]
    assert [(c.stratum, c.bias, c.heads, c.tails) for c in rows] == [("a", 0.1, 0, 0), ("b", 0.1, 0, 0)]


def test_membership_is_by_bucket_whatever_served():
    """Intention to treat: a candidate's user served by stable is still the candidate's, and is told."""
    book = _opened()
    book.add(_event(1, 50, version="1"))
    book.add(_sample(1, 50, version="1"))
    picture = book.evidence()
    assert _coins(picture) == {(0, "cpu", 0.1): (1, 0)}
    assert (picture.requests_candidate, picture.requests_misrouted) == (1, 1)


@pytest.mark.parametrize("route", ["label", "no-uid", "", "HASH"])
def test_other_routes_are_no_evidence(route):
    book = _opened()
    book.add(_event(1, 50, route=route))
    book.add(_sample(1, 50, route=route))
    picture = book.evidence()
    assert _coins(picture) == {}
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
    book = _opened()
    book.add(_event(1, 50, **({"status": 200} | changes)))
    assert book.evidence().events(Kind.FAILURE, "candidate") == int(failed)


def test_slow_is_above_a_limit_frozen_for_the_stage():
    book = _opened()
    book.like_load = True
    book.add(_event(1, 50, status=200, duration_ms=200.0))
    book.add(_event(2, 50, status=200, duration_ms=251.0))
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
    book = _opened()
    book.add(_event(1, 50, status=500, duration_ms=900.0))
    book.add(_sample(2, 60, duration_ms=900.0))
    picture = book.evidence()
    assert _coins(picture, Kind.SLOW_P99) == {}
    assert _coins(picture) == {(0, "cpu", 0.1): (1, 0)}
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
    book = _opened(10)
    book.add(_event(1, 500, at_s=104.9))
    picture = book.evidence()
    assert (_coins(picture), picture.settling_events, picture.users_candidate) == ({}, 1, 0)
    book.open_stage(1, 50, _line(50), 200.0, LIMITS)
    book.add(_event(1, 500, at_s=210.0))
    assert _coins(book.evidence()) == {}


def test_a_sampled_failure_is_no_coin_and_an_event_is_no_request():
    book = _opened()
    book.add(_sample(1, 50, status=500))
    assert _coins(book.evidence()) == {}
    book.add(_event(2, 50))
    picture = book.evidence()
    assert (picture.requests_candidate, picture.users_candidate) == (1, 2)


def test_the_objective_takes_each_users_first_sampled_request_of_the_stage():
    book = _opened()
    book.like_load = True
    book.add(_sample(1, 50, status=500, version="2"))
    book.add(_sample(1, 50, version="2"))
    book.add(_sample(2, 60, version="2", duration_ms=150.0))
    book.add(_sample(3, 9000))
    rows = {row.kind: (row.ok, row.bad) for row in book.evidence().objective}
    assert rows[Kind.FAILURE] == (1, 1)
    assert rows[Kind.SLOW_P95] == (1, 1)
    assert rows[Kind.SLOW_P99] == (2, 0)
    book.open_stage(1, 20, _line(20), 200.0, LIMITS)
    book.add(_sample(1, 50, at_s=210.0, version="2"))
    assert book.evidence().objective[0].ok == 1


def test_the_same_request_counts_once_in_each_log():
    """Two gateways, or one that sends again."""
    book = _opened()
    for _ in range(2):
        book.add(_sample(1, 50, version="2", request_id="x"))
        book.add(_event(1, 50, version="2", request_id="x"))
    picture = book.evidence()
    assert picture.requests_candidate == 1
    assert _coins(picture) == {(0, "cpu", 0.1): (1, 0)}
    assert book.live(120.0)["2"]["events"] == 1


def test_thinning_drops_half_of_the_candidates_events_and_none_of_stables():
    book = _opened(50)
    for number in range(400):
        book.add(_event(number, number, request_id=f"c{number}"))
        book.add(_event(1000 + number, 9000 + number, request_id=f"s{number}"))
    kept = sum(keeps(SALT, f"c{number}", 0.5) for number in range(400))
    rows = [c for c in book.evidence().coins if c.kind is Kind.FAILURE and c.test == "no_harm"]
    first = [c for c in rows if c.process == 0]
    assert [(c.heads, c.tails) for c in first] == [(kept, 400)]
    assert 150 < kept < 250


def test_a_dropped_event_leaves_the_users_next_kept_one_to_count():
    dropped = next(f"d{i}" for i in range(100) if not keeps(SALT, f"d{i}", 0.5))
    book = _opened()
    book.add(_event(1, 50, request_id=dropped))
    assert _coins(book.evidence(), test="no_harm") == {}
    book.add(_event(1, 50, request_id=kept_ids(1)[0]))
    assert _coins(book.evidence(), test="no_harm") == {(0, "cpu", 0.1): (1, 0)}


def test_an_epoch_ends_when_a_tenth_of_the_active_users_had_an_event():
    book = _opened(50)
    for number in range(400):
        book.add(_sample(number, number * 20))
    for number in range(39):
        book.add(_event(number, number * 20))
    assert {process for process, _, _ in _coins(book.evidence())} == {0}
    book.add(_event(39, 39 * 20))
    book.add(_event(0, 0))
    found = _coins(book.evidence())
    assert found[0, "cpu", 0.5] == (40, 0)
    assert found[1, "cpu", 0.5] == (1, 0)


def test_whose_events_they_are_does_not_move_an_epoch():
    """The start of a process depends on how many users had events, never on their sides."""
    starts = []
    for seed in range(5):
        rng = random.Random(seed)
        series = Series()
        marks = dict.fromkeys(range(200), NEVER)
        users = random.Random(99)
        for _ in range(2000):
            user = users.randrange(200)
            key = None if rng.random() < 0.2 else ("cpu", NEVER)
            marks[user] = series.toss(marks[user], key, heads=rng.random() < 0.5, active=200)
        starts.append(series.newest)
    assert len(set(starts)) == 1
    assert starts[0] > LIVE_PROCESSES


def test_only_the_first_and_the_newest_processes_live():
    series = Series()
    for event in range(EPOCH_MIN_USERS * 30):
        series.toss(NEVER, ("cpu", NEVER), heads=bool(event % 2), active=0)
    assert series.live == [0, *range(31 - LIVE_PROCESSES + 1, 31)]
    assert {process for process, _ in series.counts} <= set(series.live)


def test_processes_are_numbered_over_the_whole_rollout_and_no_harm_within_the_stage():
    book = _opened(10)
    for number in range(EPOCH_MIN_USERS):
        book.add(_event(number, 9000, request_id=kept_ids(1)[0] + f"-{number}"))
    assert {c.process for c in book.evidence().coins if c.kind is Kind.FAILURE} == {0, 1}
    book.open_stage(1, 50, _line(50), 200.0, LIMITS)
    coins = book.evidence().coins
    assert {c.process for c in coins if c.kind is Kind.FAILURE and c.test == "harm"} == {2}
    assert {c.process for c in coins if c.kind is Kind.SLOW_P95 and c.test == "harm"} == {1}
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
    book.open_stage(0, 10, _line(10), 100.0, None)
    book.add(_event(1, 50, status=200, duration_ms=9e9))
    assert book.evidence().kinds == (Kind.FAILURE,)
    for number in range(MIN_LATENCIES):
        book.add(_sample(number, 9000, at_s=110 + number, duration_ms=float(number + 1)))
    assert book.limits_ms == (190.0, 198.0, 247.5, 297.0)
    book.add(_event(2, 50, at_s=400.0, status=200, duration_ms=9e9))
    picture = book.evidence()
    assert len(picture.kinds) == 5
    assert picture.events(Kind.SLOW_P99, "candidate") == 1


def test_at_100_percent_there_are_no_coins_and_the_baseline_is_stables():
    book = _opened(50)
    for number in range(200):
        book.add(_sample(number, 9000, status=500 if number < 20 else 200))
        book.add(_sample(1000 + number, 100, version="2"))
    book.open_stage(1, 100, _line(100), 200.0, LIMITS)
    book.add(_event(1, 9000, at_s=210.0, duration_ms=150.0))
    picture = book.evidence()
    assert picture.coins == ()
    assert [(row.kind, row.rate) for row in picture.baselines] == [(Kind.FAILURE, 0.1)]
    assert picture.events(Kind.FAILURE, "candidate") == 1
    assert picture.events(Kind.SLOW_P95, "candidate") == 1


def test_a_baseline_needs_enough_users_of_stable():
    book = _opened(50)
    for number in range(199):
        book.add(_sample(number, 9000))
    book.open_stage(1, 100, _line(100), 200.0, LIMITS)
    assert book.evidence().baselines == ()


def test_no_entry_yet_is_not_time_zero():
    book = _opened()
    assert book.evidence().newest_at_s is None
    book.add(_sample(1, 50, at_s=500.0))
    assert book.evidence().newest_at_s == 500.0


def test_at_100_percent_limits_that_were_known_stay():
    """Stable has no traffic there, so they would never be found."""
    book = _opened(50)
    book.open_stage(1, 100, _line(100), 200.0, None)
    assert book.limits_ms == LIMITS
    book = _opened(5)
    book.open_stage(1, 50, _line(50), 200.0, None)
    assert book.limits_ms is None


def test_a_version_that_fails_after_everybodys_first_request_is_counted_at_100_percent():
    """The first process has seen everybody; a later one counts first requests since its own start."""
    book = _opened(100)
    for number in range(400):
        book.add(_sample(number, number, version="2"))
    for number in range(400):
        book.add(_sample(number, number, version="2", at_s=900.0, status=503))
    rows = {row.process: row for row in book.evidence().objective if row.kind is Kind.FAILURE}
    assert (rows[0].ok, rows[0].bad) == (400, 0)
    assert max(row.bad for row in rows.values()) >= EPOCH_MIN_USERS
    assert len(rows) == LIVE_PROCESSES


def test_a_process_of_the_watch_starts_by_how_many_were_counted_whatever_came_of_them():
    starts = set()
    for bad_share in (0.0, 0.5, 1.0):
        book, rng = _opened(100), random.Random(3)
        for number in range(300):
            status = 500 if rng.random() < bad_share else 200
            book.add(_sample(number, number, version="2", status=status))
        starts.add(tuple(row.process for row in book.evidence().objective if row.kind is Kind.FAILURE))
    assert len(starts) == 1


def test_counting_begins_when_every_gateway_has_the_stage():
    """Until then some gateway routes by the stage before: its users are on the wrong side."""
    book = _opened(10)
    for number in range(EPOCH_MIN_USERS + 1):
        book.add(_event(number, 50 + number, version="1", request_id=f"e{number}"))
        book.add(_sample(number, 50 + number, version="1"))
    assert book.evidence().requests_misrouted > 0
    book.acknowledged(160.0)
    picture = book.evidence()
    assert (picture.opened_at_s, picture.requests_misrouted, picture.users_candidate) == (160.0, 0, 0)
    assert _coins(picture) == {}
    book.add(_event(1, 51, at_s=164.0, request_id="settling"))
    book.add(_event(2, 52, at_s=166.0, request_id="counted"))
    assert _coins(book.evidence()) == {(2, "cpu", 0.1): (1, 0)}  # the processes before have spent their alpha


def test_an_acknowledgement_before_anything_was_counted_costs_nothing():
    book = _opened(10)
    book.acknowledged(100.02)
    book.add(_event(1, 51))
    assert _coins(book.evidence()) == {(0, "cpu", 0.1): (1, 0)}
    assert book.evidence().opened_at_s == 100.02
    book.acknowledged(50.0)
    assert book.evidence().opened_at_s == 100.02


def test_the_same_stage_again_changes_nothing():
    book = _opened()
    book.add(_event(1, 50))
    before = book.evidence()
    book.open_stage(0, 10, _line(10), 999.0, None)
    assert book.evidence() == before


@pytest.mark.parametrize(
    ("stage", "line", "text"),
    [
        pytest.param(0, _line(20), "does not follow", id="an-earlier-or-equal-stage"),
        pytest.param(1, _line(5), "out of the cohort", id="a-smaller-cohort"),
        pytest.param(1, _line(20, TWO_ARCHS), "out of the cohort", id="other-architectures"),
    ],
)
def test_a_stage_that_would_break_the_coins_is_refused(stage, line, text):
    with pytest.raises(FatalError, match=text):
        _opened(10).open_stage(stage, 20, line, 200.0, LIMITS)


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
            line = _line(percent, TWO_ARCHS)
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
        Tally.restore({**_opened().snapshot(), "schema": 99})


def test_rho0_must_be_above_1():
    with pytest.raises(FatalError, match="rho0"):
        tally(rho0=1.0)


def test_live_figures_are_of_the_version_that_served():
    book = _opened()
    for number in range(20):
        book.add(_sample(number, 50, version="2", at_s=110.0 + number / 10, duration_ms=float(number + 1)))
    book.add(_event(1, 50, version="2"))
    figures = book.live(112.0, sample_fraction=0.5)["2"]
    assert figures == {"rps": 4.0, "events": 1, "p50_ms": 10.0, "p99_ms": 20.0, "users": 20, "requests": 20}
    late = book.live(500.0)["2"]
    assert (late["rps"], late["p50_ms"], late["p99_ms"]) == (0.0, None, None)


def test_latencies_keep_at_most_so_many_of_a_second():
    window = Latencies()
    for number in range(1000):
        window.add(1.0, float(number))
    assert window.limits(2.0) is None


def test_quantiles_are_values_that_were_seen():
    assert quantile([1.0], 0.99) == 1.0
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert quantile([float(n) for n in range(1, 101)], 0.5) == 50.0


def test_request_ids_are_forgotten_in_generations():
    ids = RecentIds(size=3)
    assert [ids.seen(name) for name in "aab"] == [False, True, False]
    assert not ids.seen("c")
    assert ids.seen("a")
    assert [ids.seen(name) for name in "defg"] == [False] * 4
    assert not ids.seen("a")
    assert not ids.seen("")
    assert not ids.seen("")
