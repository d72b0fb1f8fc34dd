"""Evidence, rollouts and Prometheus answers for tests, made by the real code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sluice.evidence import EventUsers, Kind, ObjectiveCount, StageEvidence, to_samples
from sluice.spec import ReleaseSpec
from tests.sluice.specs import parse

NOW_S = 1_790_000_000.0
ROLLOUT, EPOCH, STAGE = "tiny-3", 3, 3


def spec(**changes: Any) -> ReleaseSpec:
    return parse(changes)


def watch(*, ok: int = 50_000, bad: int = 0) -> StageEvidence:
    """A picture of a first deployment's watch, open for two hours; healthy unless `bad` first requests are many."""
    return StageEvidence(
        service="tiny",
        rollout=ROLLOUT,
        epoch=EPOCH,
        version="2",
        stable=None,
        stage=STAGE,
        percent=100,
        opened_at_s=NOW_S - 7_200,
        newest_at_s=NOW_S - 1,
        coins=(),
        users_candidate=ok + bad,
        users_stable=0,
        users_coin=0,
        event_users=(
            EventUsers(kind=Kind.FAILURE, side="candidate", users=bad),
            EventUsers(kind=Kind.FAILURE, side="stable", users=0),
        ),
        objective=(ObjectiveCount(kind=Kind.FAILURE, ok=ok, bad=bad),),
        baselines=(),
        slow_limits_ms=None,
        like_load=True,
        stale=None,
        requests_candidate=ok + bad,
        requests_stable=0,
        requests_misrouted=0,
        settling_events=0,
    )


def vector(evidence: StageEvidence | None) -> dict[str, Any]:
    """What Prometheus answers to an instant query for this picture; nothing for None."""
    rows = [] if evidence is None else to_samples(evidence)
    result = [
        {"metric": {"__name__": name, "job": "c", "instance": "i", **labels}, "value": [NOW_S, repr(value)]}
        for name, labels, value in rows
    ]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def rollout(**changes: Any) -> dict[str, Any]:
    """A Rollout of the controller, at 100 % unless changed."""
    whole = {
        "id": ROLLOUT,
        "service": "tiny",
        "epoch": EPOCH,
        "state": "running",
        "stage": STAGE,
        "percent": 100.0,
        "salt": "s",
        "held": None,
        "candidate": None,
        "stable": {"version": "1"},
        "release_digest": "cd" * 32,
        "run_id": "run-1",
        "policy": spec().policy(),
        "verdict": None,
        "opened": [{"stage": STAGE, "percent": 100.0, "at": "2026-09-21T14:00:00+00:00", "acked_at": "x"}],
        "reason": None,
        "first_deployment": False,
        "ended_at": None,
    }
    return {**whole, **changes}


def verdict(action: str = "pass", reason: str = "the watch passed", **changes: Any) -> dict[str, Any]:
    """The controller's live verdict."""
    whole = {"action": action, "reason": reason, "at": "2026-09-21T16:00:00+00:00", "stage": STAGE}
    return {**whole, "epoch": EPOCH, "numbers": {"users": {"candidate": 7}}, "forecast_s": None, **changes}


def with_nan(evidence: StageEvidence) -> StageEvidence:
    return replace(evidence, opened_at_s=float("nan"))
