"""What a task sees of its run, for operators that are called without a scheduler."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import DownstreamTasksSkipped

from plugins.reviews import review_task
from sluice.spec import Review


@dataclass
class Ti:
    """A task instance with the XComs of its run. states: what Airflow would say of the run's tasks."""

    task_id: str = "task"
    dag_id: str = "promote__tiny"
    run_id: str = "run-1"
    map_index: int = -1
    xcoms: dict[tuple[str, str], Any] = field(default_factory=dict)
    states: dict[str, str | None] = field(default_factory=dict)

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.xcoms.get((task_ids, key))

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[self.task_id, key] = value

    def get_task_states(self, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, str | None]]:
        return {run_id: dict(self.states) for run_id in run_ids if dag_id == self.dag_id}


def context(ti: Ti, *, params: dict[str, Any] | None = None, run_type: str = "manual") -> dict[str, Any]:
    dag_run = SimpleNamespace(run_type=run_type, run_id=ti.run_id)
    return {"ti": ti, "run_id": ti.run_id, "dag_run": dag_run, "params": params or {}}


def answered(chosen: str, by: str | None) -> Any:
    """What a review leaves in XCom when it is answered; nobody: the time ran out. Made by the operator itself."""
    with DAG(dag_id="one_review"):
        review = review_task("deploy", Review(timeout_s=60), service="tiny", gate_before=None)
        review >> EmptyOperator(task_id="behind")
    ti = Ti(task_id=review.task_id)
    event = {
        "chosen_options": [chosen],
        "params_input": {},
        "responded_at": datetime(2026, 1, 2, tzinfo=UTC),
        "responded_by_user": None if by is None else {"id": by, "name": by},
        "timedout": by is None,
    }
    with contextlib.suppress(DownstreamTasksSkipped):
        review.execute_complete({**context(ti), "task": review}, event)
    return ti.xcoms[review.task_id, "response"]
