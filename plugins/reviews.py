"""Reviews: a person's answer, and the rule that only an answer counts.

Problem: "mark success" on a review lets the tasks behind it run although nobody said yes, and a timeout's default
looks like an answer. Invariant: `approved` is true only for a recorded Approve with the name of who gave it; the
task that moves traffic asks here and refuses without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import TriggerRule
from airflow.sdk.exceptions import AirflowSkipException

from plugins.runs import facts_of, release_of
from sluice.errors import FatalError
from sluice.spec import Review

if TYPE_CHECKING:
    from airflow.sdk import Context

DEPLOY: Final = "deploy"
RESPONSE_KEY: Final = "response"  # XCom of a review: `{chosen_options, responded_by_user, responded_at}`
Point = int | str

BODY: Final = "{{ ti.xcom_pull(task_ids='register')['card'] }}\n"
STAGE_BODY: Final = """Evidence of the stage before:

{{ (ti.xcom_pull(task_ids='%s') or {}).get('markdown', 'none was recorded') }}

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A recorded response. who: None when the time ran out and Airflow filled in the default."""

    chosen: tuple[str, ...]
    who: str | None
    at: str | None

    @property
    def approved(self) -> bool:
        return self.chosen == (ApprovalOperator.APPROVE,) and self.who is not None

    @property
    def rejected(self) -> bool:
        return ApprovalOperator.REJECT in self.chosen

    def __str__(self) -> str:
        if self.who is None:
            return f"nobody answered in time, so it counts as {', '.join(self.chosen) or 'no answer'}"
        return f"{self.who} answered {', '.join(self.chosen)} at {self.at}"


class ReviewOperator(ApprovalOperator):
    """Airflow's approval, which keeps its answer: on Reject the operator itself skips on before it returns one."""

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        if "error" not in event:
            answer = {name: event.get(name) for name in ("chosen_options", "responded_by_user")}
            context["ti"].xcom_push(
                key=RESPONSE_KEY, value={**answer, "responded_at": str(event.get("responded_at"))}
            )
        return super().execute_complete(context, event)


def task_id(point: Point) -> str:
    """`review_deploy`, `review_50`."""
    return f"review_{point}"


def review_task(point: Point, review: Review, *, service: str, gate_before: str | None) -> ReviewOperator:
    """The task that asks a person before `point`; Reject, also by timeout, skips everything but the teardowns."""
    where = "deploying" if point == DEPLOY else f"opening {point} %"
    evidence = "" if gate_before is None else STAGE_BODY % gate_before
    return ReviewOperator(
        task_id=task_id(point),
        subject=f"{service}: approve {where}?",
        body=evidence + BODY,
        defaults=ApprovalOperator.REJECT,
        response_timeout=timedelta(seconds=review.timeout_s),
        assigned_users=[{"id": user, "name": user} for user in review.assigned_users] or None,
        ignore_downstream_trigger_rules=True,
        pre_execute=lambda context: skip_unless_asked(context, point),
        trigger_rule=TriggerRule.NONE_FAILED,
        retries=2,
    )


def skip_unless_asked(context: Mapping[str, Any], point: Point) -> None:
    """Raises AirflowSkipException when this run has no review here: by its form, or in a straight deployment."""
    facts = facts_of(context)
    spec = release_of(facts).spec
    if point not in spec.review.before:
        raise AirflowSkipException(f"the form of this run asks for no review before {point}")
    if facts.straight and isinstance(point, int) and point != spec.stages[-1].percent:
        raise AirflowSkipException("first deployment: this stage is skipped, and so is its review")


def answer_of(context: Mapping[str, Any], point: Point) -> Answer | None:
    """The recorded response to the review before `point`; None when there is none."""
    recorded = context["ti"].xcom_pull(task_ids=task_id(point), key=RESPONSE_KEY)
    if not isinstance(recorded, Mapping) or not recorded.get("chosen_options"):
        return None
    user = recorded.get("responded_by_user")
    who = (user.get("name") or user.get("id")) if isinstance(user, Mapping) else None
    return Answer(chosen=tuple(recorded["chosen_options"]), who=who, at=str(recorded.get("responded_at")))


def require_approval(context: Mapping[str, Any], point: Point) -> Answer:
    """The approval before `point`. Raises FatalError when nobody gave it, whatever the task's colour."""
    answer = answer_of(context, point)
    if answer is None:
        raise FatalError(
            f"task {task_id(point)} has no recorded response (was it marked as success?)",
            f"clear {task_id(point)} and answer it under Required Actions",
        )
    if not answer.approved:
        raise FatalError(f"the review before {point} was not approved: {answer}", "trigger a new run")
    return answer


def first_rejection(context: Mapping[str, Any], points: Iterable[Point]) -> str | None:
    """Who rejected what, in words; None when nobody did."""
    for point in points:
        answer = answer_of(context, point)
        if answer is not None and answer.rejected:
            return f"the review before {point} was rejected: {answer}"
    return None
