"""Evidence as metric samples: nothing is lost, and nothing missing is filled in."""

import dataclasses
import math

import pytest

from sluice.evidence import (
    KINDS,
    TESTS,
    Baseline,
    CoinCount,
    EvidenceIncompleteError,
    Kind,
    ObjectiveCount,
    StageEvidence,
    coin_order,
    from_samples,
    to_samples,
)
from tests.sluice.evidence_world import coin, coins_with, evidence

ALONE = {"percent": 100.0, "coins": (), "baselines": (Baseline(kind=Kind.FAILURE, rate=0.1),)}
NO_LIMITS = {
    "slow_limits_ms": None,
    "coins": tuple(coin(test=test) for test in TESTS),
    "event_users": evidence().event_users[:2],
    "objective": evidence().objective[:1],
}
PROCESSES = tuple(
    ObjectiveCount(kind=kind, process=process, ok=9, bad=1) for kind in KINDS for process in (0, 3, 4)
)


def _ordered(given: StageEvidence) -> StageEvidence:
    return dataclasses.replace(given, coins=tuple(sorted(given.coins, key=coin_order)))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="healthy"),
        pytest.param({"stale": "gw-1: silent for 12 s", "like_load": False}, id="stale-and-unlike"),
        pytest.param({"newest_at_s": None}, id="no-entry-yet"),
        pytest.param({"coins": coins_with(coin(bias=0.4 / 0.9, heads=3, tails=1, process=4))}, id="odd-bias"),
        pytest.param(ALONE, id="at-100-percent"),
        pytest.param(ALONE | {"stable": None}, id="first-deployment"),
        pytest.param(ALONE | {"objective": PROCESSES}, id="processes-of-the-watch"),
        pytest.param(NO_LIMITS, id="no-slow-limits"),
        pytest.param({"opened_at_s": 1_780_000_000.123456, "percent": 0.01}, id="real-times"),
    ],
)
def test_samples_round_trip(changes):
    """Also as Prometheus hands them on: it drops labels that are empty."""
    given = _ordered(evidence(**changes))
    scraped = [
        (name, {label: text for label, text in labels.items() if text}, value)
        for name, labels, value in to_samples(given)
    ]
    assert from_samples(scraped) == from_samples(to_samples(given)) == given


def test_every_sample_carries_service_rollout_and_stage_and_others_are_ignored():
    samples = to_samples(evidence())
    assert all({"service", "rollout", "stage"} <= set(labels) for _, labels, _ in samples)
    scraped = [
        (name, {**labels, "job": "sluice", "instance": "x:1"}, value) for name, labels, value in samples
    ]
    scraped += [("up", {"job": "sluice"}, 1.0), ("sluice_requests_total", {"version": "2"}, 5.0)]
    assert from_samples(scraped) == _ordered(evidence())


SAMPLES = to_samples(evidence())
MAY_BE_ABSENT = {"sluice_evidence_newest_seconds"}


@pytest.mark.parametrize("index", range(len(SAMPLES)))
def test_without_any_one_sample_there_is_no_evidence(index):
    """Each of them, one by one: never read as zero. Without the newest entry's time it says "none yet"."""
    rest = SAMPLES[:index] + SAMPLES[index + 1 :]
    if SAMPLES[index][0] in MAY_BE_ABSENT:
        assert from_samples(rest).newest_at_s is None
        return
    with pytest.raises(EvidenceIncompleteError):
        from_samples(rest)


@pytest.mark.parametrize("index", [i for i, row in enumerate(SAMPLES) if row[0] != "sluice_stage_info"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_no_evidence(index, value):
    name, labels, _ = SAMPLES[index]
    broken = [*SAMPLES[:index], (name, labels, value), *SAMPLES[index + 1 :]]
    with pytest.raises(EvidenceIncompleteError):
        from_samples(broken)


@pytest.mark.parametrize("index", range(len(SAMPLES)))
def test_a_doubled_sample_is_no_evidence(index):
    with pytest.raises(EvidenceIncompleteError):
        from_samples([*SAMPLES, SAMPLES[index]])


@pytest.mark.parametrize(
    ("name", "value"),
    [("sluice_users", 1.5), ("sluice_coins", -1.0), ("sluice_like_load", 2.0), ("sluice_stale", 0.5)],
)
def test_values_that_cannot_be_are_no_evidence(name, value):
    broken = [(n, labels, value if n == name else v) for n, labels, v in SAMPLES]
    with pytest.raises(EvidenceIncompleteError, match=name):
        from_samples(broken)


def test_nothing_at_all_is_no_evidence():
    with pytest.raises(EvidenceIncompleteError, match="found nothing"):
        from_samples([])


def test_two_stages_are_no_evidence():
    with pytest.raises(EvidenceIncompleteError, match="one service, rollout and stage"):
        from_samples([*SAMPLES, *to_samples(evidence(stage=1))])


def test_two_epochs_of_one_stage_are_no_evidence():
    with pytest.raises(EvidenceIncompleteError, match="sluice_stage_info"):
        from_samples([*SAMPLES, to_samples(evidence(epoch=8))[0]])


def test_a_kind_that_counts_must_have_all_its_rows():
    """A slow kind without coins would otherwise never be asked."""
    coins = tuple(c for c in evidence().coins if c.kind is not Kind.SLOW_P99)
    with pytest.raises(EvidenceIncompleteError, match="lacks"):
        from_samples(to_samples(evidence(coins=coins)))
    objective = tuple(ObjectiveCount(kind=kind, ok=1, bad=0) for kind in KINDS[1:])
    with pytest.raises(EvidenceIncompleteError, match="lacks"):
        from_samples(to_samples(evidence(objective=objective)))


def test_coins_that_the_bias_makes_impossible_are_no_evidence():
    changed = [
        (
            name,
            {**labels, "bias": "0.0"} if name == "sluice_coins" else labels,
            1.0 if name == "sluice_coins" else value,
        )
        for name, labels, value in SAMPLES
    ]
    with pytest.raises(EvidenceIncompleteError, match="heads"):
        from_samples(changed)


def test_the_error_is_retryable_and_says_what_to_do():
    error = EvidenceIncompleteError("sluice_users is missing")
    assert error.exit_code == 4
    assert "sluice_users is missing" in str(error)
    assert "hold" in str(error)
    assert isinstance(coin(), CoinCount)
