"""The demo's own figures held against what was promised. `holds` is computed, never written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from local.demo.exposure import MAX_DEVIATIONS

EARLY_PERCENT = 5.0
LAST_REQUEST_MS = 100.0
ANONYMOUS = 10_000

TARGETS = {
    "demo.2": (
        "Good rollout promoted, client failures 0, users who changed sides 0; the users who reached the candidate in "
        "each stage are exactly those the hash predicts (0 mispredicted) and their share is within 3.3 binomial "
        "standard deviations of the one asked for; 10 000 requests without a uid: 0 reach the candidate."
    ),
    "demo.3": (
        "Bad rollout turned back at or before 5 %, at most 0.1 s from the recorded verdict to the last request routed "
        "to it."
    ),
    "demo.4": (
        "MLflow afterwards: `champion` is version 2, version 3 is tagged with the reason; Airflow: the good run green, "
        "the bad run red with the verdict in its log and in the run's note."
    ),
    "demo.5": (
        "`kill -9` of scheduler and triggerer in the 5 % stage: traffic stays at 5 %, requests keep being served; "
        "after a restart the same run goes on to 100 %, and no stage is opened twice (ledger shows it). Marking the "
        'gate, the review or a build "success" in Airflow moves no weight.'
    ),
}

SHORT = {  # what the terminal says of each
    "demo.2": "the good version reached 100 %; every user on the side that the hash predicts; no failure",
    "demo.3": "the bad version was turned back at or before 5 %, within 0.1 s of the verdict",
    "demo.4": "MLflow and Airflow tell the same story: champion, reason, green run, red run",
    "demo.5": "scheduler and triggerer killed at 5 %: traffic stays, the run goes on; a marked gate moves nothing",
}
MARKS = ["gate_50"]  # the button that the demo presses
ELSEWHERE = (
    "a review and a build are marked by the end-to-end tests (tests/end_to_end): each mark ends its run"
)


def line(
    name: str, value: Mapping[str, Any] | None, holds: bool | None, *, reason: str = ""
) -> dict[str, Any]:
    row: dict[str, Any] = {"id": name, "target": TARGETS[name], "value": value, "holds": holds}
    return {**row, "reason": reason} if reason else row


def good_rollout(
    rollout: Mapping[str, Any],
    anonymous: Mapping[str, int],
    *,
    percents: Sequence[float],
    reviews: Sequence[str],
) -> dict[str, Any]:
    """Line 2 from the good rollout's exposure and the probe without users. Anything missing does not hold.

    percents, reviews: the stages that the spec has, and the tasks in which it asks a person.
    """
    stages = rollout["exposure"]["stages"]
    deviations = [stage["deviations_from_asked_share"] for stage in stages]
    approved = [task for task, review in rollout["reviews"].items() if review["answer"] == "Approve"]
    candidate = str(rollout["version"])
    value = {
        "outcome": rollout["outcome"],
        "opened_percents": [stage["percent"] for stage in stages],
        "reviews_approved": sorted(approved),
        "client_failures": rollout["exposure"].get("client_failures"),
        "users_who_changed_sides": rollout["exposure"].get("users_who_changed_sides"),
        "mispredicted_requests": sum(stage["mispredicted_requests"] for stage in stages) if stages else None,
        "deviations_per_stage": deviations,
        "anonymous_requests": sum(anonymous.values()),
        "anonymous_at_candidate": anonymous.get(candidate, 0),
        "anonymous_failed": anonymous.get("failed", 0),
    }
    zero = ("client_failures", "users_who_changed_sides", "mispredicted_requests", "anonymous_at_candidate")
    holds = (
        value["outcome"] == "promoted"
        and value["opened_percents"] == list(percents) != []
        and value["reviews_approved"] == sorted(reviews)
        and all(value[name] == 0 for name in (*zero, "anonymous_failed"))
        and all(found is not None and found <= MAX_DEVIATIONS for found in deviations)
        and value["anonymous_requests"] >= ANONYMOUS
    )
    return line("demo.2", value, holds)


def bad_rollouts(rollouts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Line 3, by fault: every one must hold, and there must be one."""
    lines = {fault: bad_rollout(rollout) for fault, rollout in rollouts.items()}
    holds = bool(lines) and all(row["holds"] for row in lines.values())
    return line("demo.3", {fault: row["value"] for fault, row in lines.items()}, holds)


def bad_rollout(rollout: Mapping[str, Any]) -> dict[str, Any]:
    """Line 3 of one rollout. A rollout that was never open proves nothing."""
    percents = [stage["percent"] for stage in rollout["exposure"]["stages"]]
    value = {
        "outcome": rollout["outcome"],
        "highest_percent": max(percents, default=None),
        "verdict_to_last_request_ms": rollout["exposure"].get("verdict_to_last_request_ms"),
        "verdict": rollout["verdict"],
    }
    last = value["verdict_to_last_request_ms"]
    holds = (
        value["outcome"] == "turned_back"
        and bool(percents)
        and max(percents) <= EARLY_PERCENT
        and last is not None
        and last <= LAST_REQUEST_MS
    )
    return line("demo.3", value, holds)


def registry(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Line 4 from what MLflow and Airflow answer afterwards; every bad version must be told of, and there is one."""
    told = [
        bad["run"] == "failed"
        and bool(bad["reason"])
        and bad["tag"] == bad["reason"]
        and bad["verdict_in_log"]
        and bad["verdict_in_note"]
        for bad in facts["bad"].values()
    ]
    holds = (
        bool(facts["good_version"])
        and facts["champion"] == facts["good_version"]
        and facts["good_run"] == "success"
        and told != []
        and all(told)
    )
    return line("demo.4", dict(facts), holds)


def killed_airflow(facts: Mapping[str, Any] | None, *, stages: int) -> dict[str, Any]:
    """Line 5. `facts` is None when the demo was not asked to kill anything; stages: how many the spec has."""
    if facts is None:
        return line("demo.5", None, None, reason="not run; --kill-airflow runs it")
    holds = facts["errors"] == [] and _survived(facts, stages) and _moved_nothing(facts)
    return line("demo.5", dict(facts), holds, reason=ELSEWHERE)


def _survived(facts: Mapping[str, Any], stages: int) -> bool:
    """Both parts were killed, traffic stayed, the waiting gate went on by itself, no stage was opened twice."""
    return (
        {"scheduler", "triggerer"} <= set(facts["killed"])
        and facts["percent_while_down"] == [EARLY_PERCENT]
        and facts["requests_while_down"] > 0
        and facts["failures_while_down"] == 0
        and facts["gate_afterwards"] == {"state": "success", "passed_by_itself": True}
        and facts["outcome"] == "promoted"
        and facts["openings_per_stage"] == {str(stage): 1 for stage in range(stages)}
    )


def _moved_nothing(facts: Mapping[str, Any]) -> bool:
    """The task behind the marked gate ran, was refused, and the line stood until the controller's own pass."""
    return (
        facts["marks"] == MARKS
        and bool(facts["refused"])
        and facts["opened_on"] == {"action": "pass", "percent": 50.0}
        and facts["refused_seconds_before_opening"] > 0
        and facts["looks_while_waiting"] > 0
        and facts["moves_while_waiting"] == 0
    )
