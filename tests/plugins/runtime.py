"""What a task sees of its run, for operators that are called without a scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


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


def answered(chosen: str, by: str | None) -> dict[str, Any]:
    """What Airflow's ApprovalOperator leaves in XCom; nobody: the time ran out."""
    user = None if by is None else {"id": by, "name": by}
    return {
        "chosen_options": [chosen],
        "params_input": {},
        "responded_at": "2026-01-02",
        "responded_by_user": user,
    }
