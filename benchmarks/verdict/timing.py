"""How long one evaluation of a rollout takes: `judge` on a picture with 4 kinds and 4 strata."""

import time
from typing import Any, Final

import numpy as np

from benchmarks.verdict.line import lines
from sluice.evidence import KINDS, SIDES, TESTS, CoinCount, EventUsers, ObjectiveCount, StageEvidence
from sluice.judgement import StagePolicy
from sluice.spec_policy import Gates
from sluice.verdict import judge

REPEATS: Final = 300
SHARES: Final = (0.25, 0.25, 0.25, 0.25)
PICTURES: Final = {"usual": 2, "fullest": 8}  # live processes of each kind


def picture(kinds: int, processes: int) -> StageEvidence:
    """The 50 % stage of a rollout with users of every bias there is. The format has five kinds; fewer get no events."""
    line, biases, rng = lines(SHARES), lines(SHARES).biases(2), np.random.default_rng(5)
    coins = [
        CoinCount(
            kind=kind,
            test=test,
            process=process,
            stratum=arch,
            bias=float(bias),
            heads=int(rng.binomial(60, bias)) if KINDS.index(kind) < kinds else 0,
            tails=int(rng.binomial(60, 1 - bias)) if KINDS.index(kind) < kinds else 0,
        )
        for kind in KINDS
        for test in TESTS
        for process in range(processes)
        for arch, row in zip(line.lines[2].archs, biases, strict=True)
        for bias in (row if KINDS.index(kind) < kinds else row[:1])
    ]
    users = tuple(EventUsers(kind=kind, side=side, users=300) for kind in KINDS for side in SIDES)
    return StageEvidence(
        service="m", rollout="r", epoch=1, version="2", stable="1", stage=2, percent=50.0, opened_at_s=0.0,
        newest_at_s=700.0, coins=tuple(coins), users_candidate=9000, users_stable=9000, users_coin=8000,
        event_users=users, objective=tuple(ObjectiveCount(kind=kind, ok=8900, bad=60) for kind in KINDS),
        baselines=(), slow_limits_ms=(1.0, 2.0, 3.0, 4.0), like_load=True, stale=None, requests_candidate=50_000,
        requests_stable=50_000, requests_misrouted=0, settling_events=0,
    )  # fmt: skip


def evaluation() -> dict[str, Any]:
    """{picture: {processes, n, p50_ms, p99_ms}} of one `judge`, with 4 kinds that have events."""
    stage = StagePolicy(percent=50.0, dwell_s=600.0, needs_no_harm=True)
    return {name: _timed(picture(4, processes), stage, processes) for name, processes in PICTURES.items()}


def _timed(evidence: StageEvidence, stage: StagePolicy, processes: int) -> dict[str, Any]:
    gates, took = Gates(), []
    for _ in range(REPEATS + 20):
        began = time.perf_counter_ns()
        judge(evidence, gates, stage, now_s=700.0)
        took.append((time.perf_counter_ns() - began) / 1e6)
    warm = np.array(took[20:])
    return {
        "processes": processes,
        "n": REPEATS,
        "p50_ms": float(np.median(warm)),
        "p99_ms": float(np.quantile(warm, 0.99)),
    }
