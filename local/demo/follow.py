"""Follow one DAG run to its end, reading Airflow and the controller, and answer its reviews if asked to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests

from local.stack.stack import Stack
from sluice.errors import RetryableError, SluiceError

POLL_S = 0.5
AIRFLOW_EVERY = 3  # polls of the controller per poll of Airflow, which is the heavier one
# Airflow may lose the answer to a review that is given within moments of its parking; people are never that fast.
REVIEW_SETTLE_S = 5.0
ENDED = {"success", "failed"}


@dataclass(slots=True)
class Seen:
    """What is known of the run at one moment; `rollout` and `evidence` are the controller's JSON."""

    run_id: str
    state: str = "queued"
    tasks: list[dict[str, Any]] = field(default_factory=list)
    rollout: dict[str, Any] | None = None
    evidence: dict[str, Any] | None = None
    forecasts: dict[int, float] = field(default_factory=dict)  # stage index -> first forecast in seconds
    reviews_open: list[str] = field(default_factory=list)  # task ids that wait for an answer
    reviews_answered: list[str] = field(default_factory=list)  # by us

    @property
    def running_task(self) -> str:
        busy = {
            "running",
            "deferred",
            "awaiting_input",
            "queued",
            "scheduled",
            "up_for_retry",
            "up_for_reschedule",
        }
        names = [f"{row['task_id']} ({row['state']})" for row in self.tasks if row["state"] in busy]
        return ", ".join(names[:2]) or "-"


class Follower:
    """Polls one run. `show(seen)` after each look; hooks run once, when their stage is open.

    review_choice: what every review is answered, "Approve" or "Reject"; None leaves them to a person. `say` hears of
    each review where it waits for one, or what we answered, settle_s after we found it.
    """

    def __init__(
        self,
        stack: Stack,
        dag_id: str,
        run_id: str,
        *,
        show: Callable[[Seen], None],
        review_choice: str | None,
        at_stage: dict[float, Callable[[Seen], None]] | None = None,
        say: Callable[[str], None] = lambda line: None,
        settle_s: float = REVIEW_SETTLE_S,
    ) -> None:
        self._stack, self._dag, self._show, self._choice = stack, dag_id, show, review_choice
        self._say, self._settle_s = say, settle_s
        self._seen = Seen(run_id=run_id)
        self._at_stage = dict(at_stage or {})
        self._review_since: dict[str, float] = {}

    def to_end(self, *, timeout_s: float) -> Seen:
        """Poll until the run has ended. Raises RetryableError after `timeout_s`; a person's time does not count."""
        deadline = time.monotonic() + timeout_s
        turn = 0
        while self._seen.state not in ENDED:
            if self._choice is None and self._seen.reviews_open:
                deadline = time.monotonic() + timeout_s
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"{self._dag} {self._seen.run_id} did not end in {timeout_s:.0f} s; it is at "
                    f"{self._seen.running_task}",
                    next_step=f"look at {self._stack.airflow.url}/dags/{self._dag}/runs/{self._seen.run_id}",
                )
            self.look(airflow=turn % AIRFLOW_EVERY == 0)
            turn += 1
            time.sleep(POLL_S)
        self.look(airflow=True)
        return self._seen

    def look(self, *, airflow: bool) -> Seen:
        """One look. A part that does not answer right now keeps its last reading."""
        self._read_controller()
        if airflow:
            self._read_airflow()
        self._show(self._seen)
        self._run_hooks()
        return self._seen

    def _read_controller(self) -> None:
        seen = self._seen
        try:
            if seen.rollout is None:
                seen.rollout = self._find_rollout()
            else:
                seen.rollout = self._get(f"/v1/rollouts/{seen.rollout['id']}") or seen.rollout
            if seen.rollout and seen.rollout["state"] == "running":
                seen.evidence = self._get(f"/v1/rollouts/{seen.rollout['id']}/evidence") or seen.evidence
                self._note_forecast()
        except requests.RequestException:
            return

    def _find_rollout(self) -> dict[str, Any] | None:
        service = self._dag.removeprefix("promote__")
        rollout = (self._get(f"/v1/services/{service}") or {}).get("rollout")
        return rollout if rollout and rollout["run_id"] == self._seen.run_id else None

    def _get(self, path: str) -> dict[str, Any] | None:
        answer = self._stack.controller("GET", path)
        return dict(answer.json()) if answer.ok else None

    def _note_forecast(self) -> None:
        rollout, evidence = self._seen.rollout, self._seen.evidence
        forecast = ((evidence or {}).get("verdict") or {}).get("forecast_s")
        if rollout and forecast is not None and rollout["stage"] is not None:
            self._seen.forecasts.setdefault(rollout["stage"], float(forecast))

    def _read_airflow(self) -> None:
        airflow, seen = self._stack.airflow, self._seen
        try:
            seen.state = airflow.run(self._dag, seen.run_id)["state"]
            seen.tasks = airflow.tasks(self._dag, seen.run_id)
            self._look_at_reviews()
        except (SluiceError, requests.RequestException):
            return

    def _look_at_reviews(self) -> None:
        airflow, seen = self._stack.airflow, self._seen
        seen.reviews_open = airflow.open_reviews(self._dag, seen.run_id)
        for task in seen.reviews_open:
            if task not in self._review_since:
                self._review_since[task] = time.monotonic()
                if self._choice is None:
                    self._say(f"{task} waits for you at {airflow.url}/required_actions (admin / admin)")
            if self._choice is not None and time.monotonic() - self._review_since[task] >= self._settle_s:
                airflow.answer_review(self._dag, seen.run_id, task, self._choice)
                seen.reviews_answered.append(task)
                self._say(f"{task}: the demo answered {self._choice} through Airflow's API")

    def _run_hooks(self) -> None:
        rollout = self._seen.rollout
        if rollout and rollout["state"] == "running" and rollout["percent"] in self._at_stage:
            self._at_stage.pop(rollout["percent"])(self._seen)
