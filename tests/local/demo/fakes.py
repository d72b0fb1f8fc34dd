"""A stack that a test writes the answers of: what the demo asks Airflow and the controller, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass
class FakeAirflow:
    """One run. `waiting`: reviews that are open; `logs`: by task; `on_mark`: called when a button is pressed."""

    url: str = "http://airflow"
    state: str = "running"
    rows: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    answered: list[tuple[str, str]] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    triggered: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    on_mark: Any = None

    def trigger(self, dag, conf, *, run_id, note):
        self.triggered.append({"conf": conf, "run_id": run_id})

    def run(self, dag, run_id):
        return {"state": self.state, "note": self.note}

    def tasks(self, dag, run_id):
        return list(self.rows)

    def open_reviews(self, dag, run_id):
        return list(self.waiting)

    def reviews(self, dag, run_id):
        return []

    def answer_review(self, dag, run_id, task, choice):
        self.answered.append((task, choice))
        self.waiting.remove(task)

    def set_task_state(self, dag, run_id, task, state):
        self.on_mark(task, state)

    def log(self, dag, run_id, task, *, attempt, map_index=-1):
        return self.logs.get(task, "")


@dataclass
class FakeStack:
    """`service`: what /v1/services/… answers, or a function that gives it; the rollout's own page gives its rollout."""

    airflow: FakeAirflow = field(default_factory=FakeAirflow)
    service: Any = field(default_factory=lambda: {"rollout": None, "line": []})
    decisions: list[dict[str, Any]] = field(default_factory=list)
    processes: Any = None
    layout: Any = None
    waits: int = 0

    def controller(self, method, path):
        service = self.service() if callable(self.service) else self.service
        if path.startswith("/v1/decisions"):
            body = self.decisions
        else:
            body = service if path.startswith("/v1/services/") else service["rollout"]
        return SimpleNamespace(ok=True, json=lambda: body)

    def await_airflow(self):
        self.waits += 1


def task(name, state, **more):
    return {"task_id": name, "state": state, "start_date": "then", "try_number": 1, "duration": 1.0, **more}
