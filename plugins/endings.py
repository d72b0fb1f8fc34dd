"""How a run came to its end, read from the states of its tasks, and what the ledger makes of it.

Problem: a failed task is not a bad model, and a rejection is not a failure. Airflow's states tell them apart: when a
person marks the run, Airflow sets every task that waits to `skipped`; when a task fails by itself, the tasks behind
it become `upstream_failed`. So the empty task `passed`, which stands behind the last gate, is the witness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from plugins.reviews import Point, first_rejection
from plugins.runs import BUILD
from sluice.stages import LIVE, State

PASSED: Final = "passed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """passed: every gate did. retreat: the state to retreat into, None when only tasks failed. reason: in words."""

    passed: bool
    retreat: State | None
    reason: str


def read(context: Mapping[str, Any], review_points: Iterable[Point], archs: Sequence[str]) -> Ending:
    """How this run ended. archs: of the spec's targets, in its order, over which `build` is mapped."""
    ti = context["ti"]
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
    shown = {f"{BUILD}_{index}": f"{BUILD} of {arch}" for index, arch in enumerate(archs)}  # Airflow counts
    named = {shown.get(task, task): state for task, state in states.items()}
    return decide(named, first_rejection(context, review_points))


def decide(states: Mapping[str, str | None], rejection: str | None) -> Ending:
    """The ending by the tasks' states; a rejection comes first, then the witness."""
    if rejection is not None:
        return Ending(passed=False, retreat=State.REJECTED, reason=rejection)
    witness = states.get(PASSED)
    if witness == "success":
        return Ending(passed=True, retreat=None, reason="every gate passed")
    if witness == "skipped":
        return Ending(passed=False, retreat=State.CANCELLED, reason="a person ended the run in Airflow")
    failed = ", ".join(sorted(task for task, state in states.items() if state == "failed")) or "a task"
    return Ending(
        passed=False, retreat=None, reason=f"{failed} failed in Airflow, which says nothing of the model"
    )


def outcome(rollout: Mapping[str, Any], ending: Ending) -> tuple[str, str]:
    """(outcome, reason) for people: the ledger's state, or `held` while the rollout is live."""
    state = State(rollout["state"])
    if state in LIVE:
        why = (rollout.get("held") or {}).get("reason") or ending.reason
        ways = "clear the task to go on, or clear it and mark the run as failed to take the traffic back"
        return "held", f"{rollout['percent']:g} % of the traffic stays: {why}; {ways}"
    verdict = rollout.get("verdict") or {}
    return state.value, str(rollout.get("reason") or verdict.get("reason") or ending.reason)
