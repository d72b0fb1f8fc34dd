"""Airflow's own REST API, as much of it as the demo and the end-to-end tests use."""

from __future__ import annotations

from typing import Any

import requests

from sluice.errors import FatalError, RetryableError

TIMEOUT_S = 20


class AirflowApi:
    """One user's view of one Airflow. Every answer of 400 and above raises with Airflow's own detail."""

    def __init__(self, url: str, *, user: str = "admin", password: str = "admin") -> None:  # noqa: S107 (loopback demo)
        self.url = url.rstrip("/")
        self._user, self._password = user, password
        self._session = requests.Session()

    def login(self) -> None:
        body = {"username": self._user, "password": self._password}
        answer = self._session.post(f"{self.url}/auth/token", json=body, timeout=TIMEOUT_S)
        if answer.status_code != 201:
            raise FatalError(
                f"Airflow refused the login: {answer.text}", next_step="check the user and password"
            )
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """`method` on /api/v2`path`; the decoded JSON, or None for an empty answer."""
        try:
            answer = self._session.request(method, f"{self.url}/api/v2{path}", timeout=TIMEOUT_S, **kwargs)
        except requests.RequestException as error:
            raise RetryableError(
                f"Airflow did not answer {method} {path}: {error}", next_step="try again"
            ) from error
        if answer.status_code == 401:
            self.login()
            answer = self._session.request(method, f"{self.url}/api/v2{path}", timeout=TIMEOUT_S, **kwargs)
        if answer.status_code >= 400:
            kind = RetryableError if answer.status_code >= 500 else FatalError
            raise kind(
                f"Airflow answered {answer.status_code} to {method} {path}: {answer.text[:500]}",
                next_step="correct the request" if answer.status_code < 500 else "try again",
            )
        return answer.json() if answer.content else None

    def health(self) -> dict[str, str]:
        """Component -> status, as Airflow's health page gives it."""
        parts = self.call("GET", "/monitor/health")
        return {name: (facts or {}).get("status") or "absent" for name, facts in parts.items()}

    def has_dag(self, dag_id: str) -> bool:
        return any(dag["dag_id"] == dag_id for dag in self.call("GET", "/dags?limit=1000")["dags"])

    def unpause(self, dag_id: str) -> None:
        self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any], *, run_id: str, note: str | None = None) -> str:
        """Start a run; the run's id."""
        body = {"logical_date": None, "conf": conf, "dag_run_id": run_id, "note": note}
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}"))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Task instances of a run, oldest start first, those not started last."""
        rows = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=1000")["task_instances"]
        return sorted(rows, key=lambda row: (row["start_date"] is None, row["start_date"] or ""))

    def log(self, dag_id: str, run_id: str, task_id: str, *, attempt: int, map_index: int = -1) -> str:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}?map_index={map_index}"
        return str(self.call("GET", path, headers={"Accept": "application/json"}))

    def set_task_state(
        self, dag_id: str, run_id: str, task_id: str, state: str, *, map_index: int | None = None
    ) -> None:
        """What the page's "mark success / failed" button does; map_index: of one mapped task, None: all of them."""
        index = "" if map_index is None else f"/{map_index}"
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}{index}"
        self.call("PATCH", path, json={"new_state": state})

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        self.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": state})

    def clear(self, dag_id: str, run_id: str, task_ids: list[str]) -> None:
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": task_ids, "include_downstream": True}
        self.call("POST", f"/dags/{dag_id}/clearTaskInstances", json={**body, "only_failed": False})

    def open_reviews(self, dag_id: str, run_id: str) -> list[str]:
        """Task ids of the reviews of this run that wait for a person."""
        waiting = [row for row in self.reviews(dag_id, run_id) if not row["response_received"]]
        tasks = [row["task_instance"] for row in waiting]  # one that was marked is over, and not answered
        return [str(task["task_id"]) for task in tasks if task["state"] == "awaiting_input"]

    def reviews(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Every review that this run has asked for, answered or not, as Airflow records it."""
        rows = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/hitlDetails")["hitl_details"]
        return [dict(row) for row in rows]

    def answer_review(self, dag_id: str, run_id: str, task_id: str, choice: str) -> None:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"
        self.call("PATCH", path, json={"chosen_options": [choice], "params_input": {}})
