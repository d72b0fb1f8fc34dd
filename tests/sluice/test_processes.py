"""Coin processes: their starts depend on how many users had events, and only so many live."""

import random

from sluice.processes import EPOCH_MIN_USERS, LIVE_PROCESSES, NEVER, Series


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
