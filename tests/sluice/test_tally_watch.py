"""The evidence book at 100 %, and from when on a stage counts."""

import random

from sluice.evidence import Kind
from sluice.processes import EPOCH_MIN_USERS, LIVE_PROCESSES
from tests.sluice.evidence_world import LIMITS
from tests.sluice.stage_book import counted_coins, failure_of, hash_line, opened, sample_of


def test_at_100_percent_there_are_no_coins_and_the_baseline_is_stables():
    book = opened(50)
    for number in range(200):
        book.add(sample_of(number, 9000, status=500 if number < 20 else 200))
        book.add(sample_of(1000 + number, 100, version="2"))
    book.open_stage(1, 100, hash_line(100), 200.0, LIMITS)
    book.add(failure_of(1, 9000, at_s=210.0, duration_ms=150.0))
    picture = book.evidence()
    assert picture.coins == ()
    assert [(row.kind, row.rate) for row in picture.baselines] == [(Kind.FAILURE, 0.1)]
    assert picture.events(Kind.FAILURE, "candidate") == 1
    assert picture.events(Kind.SLOW_P95, "candidate") == 1


def test_a_baseline_needs_enough_users_of_stable():
    book = opened(50)
    for number in range(199):
        book.add(sample_of(number, 9000))
    book.open_stage(1, 100, hash_line(100), 200.0, LIMITS)
    assert book.evidence().baselines == ()


def test_at_100_percent_limits_that_were_known_stay():
    """Stable has no traffic there, so they would never be found."""
    book = opened(50)
    book.open_stage(1, 100, hash_line(100), 200.0, None)
    assert book.limits_ms == LIMITS
    book = opened(5)
    book.open_stage(1, 50, hash_line(50), 200.0, None)
    assert book.limits_ms is None


def test_a_version_that_fails_after_everybodys_first_request_is_counted_at_100_percent():
    """The first process has seen everybody; a later one counts first requests since its own start."""
    book = opened(100)
    for number in range(400):
        book.add(sample_of(number, number, version="2"))
    for number in range(400):
        book.add(sample_of(number, number, version="2", at_s=900.0, status=503))
    rows = {row.process: row for row in book.evidence().objective if row.kind is Kind.FAILURE}
    assert (rows[0].ok, rows[0].bad) == (400, 0)
    assert max(row.bad for row in rows.values()) >= EPOCH_MIN_USERS
    assert len(rows) == LIVE_PROCESSES


def test_a_process_of_the_watch_starts_by_how_many_were_counted_whatever_came_of_them():
    starts = set()
    for bad_share in (0.0, 0.5, 1.0):
        book, rng = opened(100), random.Random(3)
        for number in range(300):
            status = 500 if rng.random() < bad_share else 200
            book.add(sample_of(number, number, version="2", status=status))
        starts.add(tuple(row.process for row in book.evidence().objective if row.kind is Kind.FAILURE))
    assert len(starts) == 1


def test_counting_begins_when_every_gateway_has_the_stage():
    """Until then some gateway routes by the stage before: its users are on the wrong side."""
    book = opened(10)
    for number in range(EPOCH_MIN_USERS + 1):
        book.add(failure_of(number, 50 + number, version="1", request_id=f"e{number}"))
        book.add(sample_of(number, 50 + number, version="1"))
    assert book.evidence().requests_misrouted > 0
    book.acknowledged(160.0)
    picture = book.evidence()
    assert (picture.opened_at_s, picture.requests_misrouted, picture.users_candidate) == (160.0, 0, 0)
    assert counted_coins(picture) == {}
    book.add(failure_of(1, 51, at_s=164.0, request_id="settling"))
    book.add(failure_of(2, 52, at_s=166.0, request_id="counted"))
    assert counted_coins(book.evidence()) == {
        (2, "cpu", 0.1): (1, 0)
    }  # the processes before have spent their alpha


def test_an_acknowledgement_before_anything_was_counted_costs_nothing():
    book = opened(10)
    book.acknowledged(100.02)
    book.add(failure_of(1, 51))
    assert counted_coins(book.evidence()) == {(0, "cpu", 0.1): (1, 0)}
    assert book.evidence().opened_at_s == 100.02
    book.acknowledged(50.0)
    assert book.evidence().opened_at_s == 100.02
