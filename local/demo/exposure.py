"""What the users of one rollout got, from the client's own journal held against the controller's record.

Pure: journal rows and the rollout's JSON in, numbers out. A stage's window runs from the moment every gateway had
acknowledged it to the moment at which the next change was decided; only requests that lie wholly inside it are held
against the prediction, since nobody can say which side of a change the others were routed on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from local.load.journal import Sent
from sluice.buckets import bucket
from sluice.hashline import HashLine

MAX_DEVIATIONS = 3.3  # binomial standard deviations, two-sided 0.1 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One stage. Times are seconds since the epoch; percent in (0, 100]."""

    stage: int
    percent: float
    decided_at_s: float
    acked_at_s: float
    until_s: float


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def windows(rollout: Mapping[str, Any], *, until_s: float) -> list[Window]:
    """The stages that were opened, in order; the last one ends at `until_s`."""
    opened = rollout["opened"]
    if not opened:
        return []
    ends = [seconds(row["at"]) for row in opened[1:]] + [until_s]
    return [
        Window(
            stage=row["stage"],
            percent=float(row["percent"]),
            decided_at_s=seconds(row["at"]),
            acked_at_s=seconds(row["acked_at"] or row["at"]),
            until_s=end,
        )
        for row, end in zip(opened, ends, strict=True)
    ]


def stage_exposure(
    window: Window, rows: Sequence[Sent], *, salt: str, shares: Mapping[str, float], candidate: str
) -> dict[str, Any]:
    """Users and requests of one stage, and how many of them the hash did not predict."""
    line = HashLine.build(shares, window.percent)
    inside = [
        row
        for row in rows
        if row.version and row.sent_at_s >= window.acked_at_s and row.ended_at_s <= window.until_s
    ]
    sides: dict[str, set[bool]] = {}
    wrong = 0
    for row in inside:
        reached = row.version == candidate
        sides.setdefault(row.uid, set()).add(reached)
        wrong += (line.side(bucket(salt, row.uid)) == "candidate") != reached
    users, exposed = len(sides), sum(True in side for side in sides.values())
    return {
        "stage": window.stage,
        "percent": window.percent,
        "seconds": round(window.until_s - window.decided_at_s, 2),
        "seconds_to_acknowledge": round(window.acked_at_s - window.decided_at_s, 4),
        "requests": len(inside),
        "candidate_requests": sum(row.version == candidate for row in inside),
        "users": users,
        "users_exposed": exposed,
        "mispredicted_requests": wrong,
        "deviations_from_asked_share": deviations(exposed, users, window.percent / 100),
    }


def deviations(hits: int, n: int, p: float) -> float | None:
    """|hits/n - p| in binomial standard deviations; 0 or infinity when p is 0 or 1; None when nothing was seen."""
    if n == 0:
        return None
    spread = math.sqrt(p * (1 - p) / n)
    gap = abs(hits / n - p)
    if spread == 0:
        return 0.0 if gap == 0 else math.inf
    return round(gap / spread, 3)


def changed_sides(rows: Iterable[Sent], *, candidate: str, since_s: float, until_s: float) -> int:
    """Users who had the candidate and were then given another version while the rollout still grew."""
    last_candidate: dict[str, float] = {}
    changed = set()
    inside = (row for row in rows if row.version and since_s <= row.sent_at_s and row.ended_at_s <= until_s)
    for row in sorted(inside, key=lambda row: row.sent_at_s):
        if row.version == candidate:
            last_candidate.setdefault(row.uid, row.ended_at_s)
        elif last_candidate.get(row.uid, math.inf) < row.sent_at_s:
            changed.add(row.uid)
    return len(changed)


def exposure(
    rollout: Mapping[str, Any], rows: Sequence[Sent], *, shares: Mapping[str, float], watched_until_s: float
) -> dict[str, Any]:
    """Everything the report says of one rollout's traffic. Empty stages stay visible as None, never as zero.

    watched_until_s: a client's failure counts until then, seconds since the epoch. It lies after the rollout's end,
    because the pods of the version that lost its traffic are taken away only then.
    """
    candidate = str((rollout.get("candidate") or {}).get("version") or "")
    end_s = verdict_time(rollout)
    stages = windows(rollout, until_s=end_s)
    if not stages:
        return {"stages": [], "requests": 0}
    since_s = stages[0].decided_at_s
    during = [row for row in rows if since_s <= row.sent_at_s <= watched_until_s]
    mine = [row for row in rows if row.version == candidate]
    # A promoted version goes on as stable, where it is nobody's candidate; one that was turned back must be silent.
    last_s = end_s if rollout["state"] == "promoted" else math.inf
    exposed = [row for row in mine if since_s <= row.sent_at_s <= last_s]
    return {
        "stages": [
            stage_exposure(window, rows, salt=rollout["salt"], shares=shares, candidate=candidate)
            for window in stages
        ],
        "requests": len(during),
        "users_exposed": len({row.uid for row in exposed}),
        "requests_exposed": len(exposed),
        "client_failures": sum(row.failed for row in during),
        "client_failures_by_version": failures_by_version(during),
        "users_who_changed_sides": changed_sides(rows, candidate=candidate, since_s=since_s, until_s=end_s),
        "verdict_to_last_request_ms": last_request_ms(rollout, mine, end_s),
    }


def failures_by_version(rows: Iterable[Sent]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        if row.failed:
            name = row.version or "no answer"
            counts[name] = counts.get(name, 0) + 1
    return counts


def verdict_time(rollout: Mapping[str, Any]) -> float:
    """When the last decision about the rollout was recorded: the harm verdict, or its end."""
    found = rollout.get("verdict") or {}
    if rollout["state"] == "turned_back" and found.get("action") == "harm":
        return seconds(found["at"])
    return seconds(rollout["ended_at"] or rollout["started_at"])


def last_request_ms(rollout: Mapping[str, Any], mine: Sequence[Sent], verdict_s: float) -> float | None:
    """Milliseconds from the recorded verdict to the last request that the candidate can have got, from both sides.

    Each bounds it from above, and the later one counts. The client: the gateway gave a request to its version no
    later than the answer's end less the time that the version had it. The controller: when the last gateway had
    acknowledged that it routes nothing to the candidate; None while that is not recorded, or nobody asked the
    candidate. Verdict, gateway, controller and client read one machine's clock.
    """
    zero = rollout.get("zero_acked_at")
    if rollout["state"] != "turned_back" or not mine or zero is None:
        return None
    last_s = max(seconds(zero), *(row.routed_by_s for row in mine))
    return round(max(0.0, (last_s - verdict_s) * 1000), 2)
