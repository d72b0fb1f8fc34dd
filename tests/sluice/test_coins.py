"""Harm and no harm: exact over every assignment of a few users, and simulated over whole rollouts."""

import math
import random
from collections import defaultdict
from itertools import product

import pytest
from scipy.stats import binom

from sluice.coins import HARM_ODDS, bar, kind_weight, no_harm_odds, process_weight, read
from sluice.evidence import KINDS, Kind
from sluice.hashline import HashLine
from sluice.numbering import Numbering
from sluice.tally import Tally
from tests.sluice.evidence_world import LIMITS, Population, coin, coins_with, entry, kept_ids, tally

BOTH = ("failure", "slow")
SHARES = {"a": 0.6, "b": 0.4}
PERCENTS = (10, 40)


class Biased(Numbering):
    """Forgets what earlier stages saw: everybody counts with the share of the stage."""

    def bias(self, page, key):
        return page.line.taken(key[0]) / page.line.size(key[0])


class BiasedTally(Tally):
    def __init__(self, **given):
        super().__init__(**given)
        self._numbering = Biased()


def _classes() -> list[tuple[int, float]]:
    """One bucket of each kind of place on the line, with the chance that a user falls into such a place."""
    small, large = (HashLine.build(SHARES, percent) for percent in PERCENTS)
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for bucket in range(10_000):
        groups[small.arch(bucket), small.side(bucket), large.side(bucket)].append(bucket)
    return [(own[0], len(own) / 10_000) for own in groups.values()]


def _log_e_of_stage_two(book: Tally, buckets: tuple[int, ...], test: str) -> float:
    """Users 0 and 1 are seen in the first stage, all three fail in the second, some more than once."""
    odds = no_harm_odds(2.0) if test == "no_harm" else HARM_ODDS
    ids = iter(kept_ids(10))
    first, second = (HashLine.build(SHARES, percent) for percent in PERCENTS)
    book.open_stage(0, PERCENTS[0], first, 0.0, LIMITS)
    _fail(book, 0, buckets[0], 10.0, next(ids), first)
    book.add(entry(at_s=11.0, uid_hash=1, bucket=buckets[1], request_id="sampled"))
    book.open_stage(1, PERCENTS[1], second, 100.0, LIMITS)
    for at_s, user in enumerate((2, 0, 1, 0, 2), start=110):
        _fail(book, user, buckets[user], float(at_s), next(ids), second)
    name = "no_harm" if test == "no_harm" else "harm"
    coins = [coin for coin in book.evidence().coins if coin.kind is Kind.FAILURE and coin.test == name]
    numbers = {coin.process for coin in coins}
    assert numbers == ({0} if test == "no_harm" else {0, 1})  # the whole rollout's, and the stage's own
    number = 0 if test == "whole" else max(numbers)
    coins = [coin for coin in coins if coin.process == number]
    return read(coins, name, odds, {Kind.FAILURE: 0.01})[Kind.FAILURE].log_e


def _fail(book: Tally, user: int, bucket: int, at_s: float, request_id: str, line: HashLine) -> None:
    version = "2" if line.side(bucket) == "candidate" else "1"
    event = {"uid_hash": user, "bucket": bucket, "at_s": at_s, "version": version}
    book.add(entry(event_log=True, status=500, request_id=request_id, **event))


def _means_given_the_past(kind_of_tally: type[Tally], test: str) -> list[float]:
    """E[e of stage two | the sides that stage one saw], for each of these sides."""
    small = HashLine.build(SHARES, PERCENTS[0])
    mean: dict[tuple[str, str], float] = defaultdict(float)
    chance_of: dict[tuple[str, str], float] = defaultdict(float)
    for places in product(_classes(), repeat=3):
        buckets = tuple(bucket for bucket, _ in places)
        chance = math.prod(part for _, part in places)
        given = {"service": "m", "rollout": "r", "epoch": 1, "version": "2", "stable": "1", "salt": "s"}
        log_e = _log_e_of_stage_two(kind_of_tally(**given), buckets, test)
        past = (small.side(buckets[0]), small.side(buckets[1]))
        chance_of[past] += chance
        mean[past] += chance * math.exp(log_e)
    return [mean[past] / chance_of[past] for past in mean]


def test_the_process_of_the_whole_rollout_is_a_fair_game():
    """Over all assignments, the first stage's coins included, the expectation is exactly 1; with bias w it is not."""
    assert math.isclose(_mean(Tally), 1.0, rel_tol=1e-9)
    assert abs(_mean(BiasedTally) - 1.0) > 0.02


def _mean(kind_of_tally: type[Tally]) -> float:
    given = {"service": "m", "rollout": "r", "epoch": 1, "version": "2", "stable": "1", "salt": "s"}
    mean = 0.0
    for places in product(_classes(), repeat=3):
        log_e = _log_e_of_stage_two(kind_of_tally(**given), tuple(bucket for bucket, _ in places), "whole")
        mean += math.prod(part for _, part in places) * math.exp(log_e)
    return mean


@pytest.mark.parametrize("test", ["harm", "no_harm"])
def test_whatever_the_first_stage_saw_the_second_is_a_fair_game(test):
    """Over all 216 assignments of three users: the conditional expectation of the e-value is exactly 1."""
    means = _means_given_the_past(Tally, test)
    assert len(means) == 4
    assert all(math.isclose(mean, 1.0, rel_tol=1e-9) for mean in means)


@pytest.mark.parametrize("test", ["harm", "no_harm"])
def test_everybody_with_bias_w_in_every_stage_is_no_fair_game(test):
    """The broken twin: without memory the game is rigged as soon as the first stage's outcome is known."""
    means = _means_given_the_past(BiasedTally, test)
    assert max(abs(mean - 1.0) for mean in means) > 0.02


UNEVEN = {"users": 150, "base": 0.02, "sigma": 1.5, "broken": 5}
EVEN = {"users": 600, "base": 0.02, "sigma": 0.5, "broken": 0}


def _looks(
    seed: int, people: dict[str, float], *, alpha: float, worse: float = 1.0, by_request: bool = False
) -> bool:
    """One rollout 1 -> 5 -> 50 % over sticky users, looked at every 50 requests: was harm called?

    by_request: the broken twin, a coin for every event instead of every user's first.
    """
    salt = f"rollout{seed}"
    crowd = Population.make(seed, **people)
    book = tally(salt=salt, settle_s=0.0)
    levels = {Kind.FAILURE: alpha * kind_weight(Kind.FAILURE, ["failure"])}
    now = 0.0
    for stage, (percent, requests) in enumerate(((1, 200), (5, 300), (50, 1500))):
        line = HashLine.build(SHARES, percent)
        book.open_stage(stage, percent, line, now, LIMITS)
        for number in range(requests):
            now += 1.0
            crowd.request(book, line, salt, now, worse=worse)
            if by_request:
                _forget(book)
            if number % 50 == 49:
                coins = [c for c in book.evidence().coins if c.kind is Kind.FAILURE]
                if read(coins, "harm", HARM_ODDS, levels)[Kind.FAILURE].crossed:
                    return True
    return False


def _forget(book: Tally) -> None:
    for user in book._users.values():
        user.marks = None


def test_at_most_alpha_of_harmless_rollouts_are_turned_back():
    """Sticky users, some of whom fail always; slack of one in a million."""
    alpha, rollouts = 0.1, 60
    alarms = sum(_looks(seed, UNEVEN, alpha=alpha) for seed in range(rollouts))
    assert alarms <= binom.ppf(1 - 1e-6, rollouts, alpha)


def test_counting_requests_turns_far_more_than_alpha_back():
    """The broken twin of the test before, over fewer rollouts and the same bound."""
    alpha, rollouts = 0.1, 40
    alarms = sum(_looks(seed, UNEVEN, alpha=alpha, by_request=True) for seed in range(rollouts))
    assert alarms > binom.ppf(1 - 1e-6, rollouts, alpha)


def test_a_version_ten_times_worse_is_called_harm():
    """The same machinery is not blind."""
    assert sum(_looks(seed, EVEN, alpha=0.01, worse=10.0) for seed in range(10)) >= 9


def test_a_version_twice_as_bad_is_not_shown_harmless():
    """At most beta of versions on the boundary, who fail exactly rho0 times as often, whatever the users are."""
    beta, rollouts = 0.2, 30
    shown = sum(_shown_harmless(seed, beta, worse=2.0) for seed in range(rollouts))
    assert shown <= binom.ppf(1 - 1e-6, rollouts, beta)


def test_an_equal_version_is_shown_harmless():
    assert sum(_shown_harmless(seed, 0.2, worse=1.0) for seed in range(10)) >= 8


def _shown_harmless(seed: int, beta: float, worse: float) -> bool:
    salt = f"safe{seed}"
    people = Population.make(seed, users=600, base=0.06, sigma=0.5)
    book = tally(salt=salt, settle_s=0.0)
    line = HashLine.build(SHARES, 50)
    book.open_stage(0, 50, line, 0.0, LIMITS)
    for number in range(3000):
        people.request(book, line, salt, float(number), worse=worse)
        if number % 200 == 199:
            coins = [c for c in book.evidence().coins if c.kind is Kind.FAILURE]
            if read(coins, "no_harm", no_harm_odds(2.0), {Kind.FAILURE: beta})[Kind.FAILURE].crossed:
                return True
    return False


def test_two_heads_at_one_percent_are_enough_for_the_first_process():
    coins = coins_with(coin(bias=0.01, heads=2))
    reading = read(coins, "harm", HARM_ODDS, {Kind.FAILURE: 0.01 / 2})[Kind.FAILURE]
    assert reading.crossed
    coins = coins_with(coin(bias=0.01, heads=1))
    assert not read(coins, "harm", HARM_ODDS, {Kind.FAILURE: 0.01 / 2})[Kind.FAILURE].crossed


def test_alpha_is_never_dealt_twice():
    assert math.isclose(sum(kind_weight(kind, BOTH) for kind in KINDS), 1.0)
    assert math.isclose(sum(kind_weight(kind, ("failure",)) for kind in KINDS), 1.0)
    assert math.isclose(sum(kind_weight(kind, ("slow",)) for kind in KINDS), 1.0)
    assert math.isclose(sum(process_weight(j) for j in range(100_000)), 1.0, rel_tol=1e-4)
    assert math.isclose(bar(0.005, 1), math.log(6 / 0.005))


def test_the_process_nearest_to_its_own_bar_is_read():
    """Process 5 has far more evidence than process 0; process 40 has a little more and a much higher bar."""
    first = coin(heads=20, tails=4)
    far_more = coins_with(first, coin(process=5, heads=60, tails=2))
    a_little_more = coins_with(first, coin(process=40, heads=21, tails=4))
    readings = [
        read(coins, "harm", HARM_ODDS, {Kind.FAILURE: 0.005})[Kind.FAILURE]
        for coins in (far_more, a_little_more)
    ]
    assert [(reading.process, reading.heads) for reading in readings] == [(5, 60), (0, 20)]
    assert readings[0].bar == bar(0.005, 5)


def test_kinds_without_coins_are_left_out_not_zero():
    assert read([], "harm", HARM_ODDS, {Kind.FAILURE: 0.01}) == {}


def test_no_harm_odds_hold_the_point_of_no_difference():
    """After thinning by rho0 an equal version has odds of exactly 1/rho0."""
    assert 0.5 in no_harm_odds(2.0)
    assert all(0 < odds < 1 for rho0 in (1.1, 2.0, 10.0) for odds in no_harm_odds(rho0))


def test_random_orders_give_the_same_reading():
    coins = list(coins_with(*(coin(bias=b, heads=h, tails=3) for b, h in ((0.01, 1), (0.2, 2), (0.4, 3)))))
    readings = set()
    for seed in range(5):
        random.Random(seed).shuffle(coins)
        readings.add(round(read(coins, "harm", HARM_ODDS, {Kind.FAILURE: 0.01})[Kind.FAILURE].log_e, 9))
    assert len(readings) == 1
