"""What the end-to-end tests do to the running system, in their own words."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests
from pyarrow.parquet import read_metadata

from local.demo.follow import Follower, Seen
from local.load.journal import Sent, read
from local.stack.programs import python as python_program
from local.stack.stack import Stack

SERVICE = "tiny"
DAG = f"promote__{SERVICE}"
CALIBRATION = f"calibrate__{SERVICE}"
HERE = Path(__file__).parent
RUN_TIMEOUT_S = 400
WAIT_S = 120
SETTLE_S = 4.0  # Airflow may lose the answer to a review that is given sooner
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed"})
T = TypeVar("T")


def write_checkpoint(folder: Path) -> None:
    """The test model's checkpoint: its code, and samples of naturally mixed length from one seed."""
    shutil.copytree(HERE / "checkpoint", folder)
    rng = random.Random(11)
    with (folder / "samples.jsonl").open("w") as lines:
        for _ in range(200):
            ids = [rng.randrange(1, 512) for _ in range(min(96, 2 + int(rng.expovariate(1 / 20))))]
            lines.write(json.dumps({"input_ids": ids, "attention_mask": [1] * len(ids)}) + "\n")


class Town:
    """One service on one stack, with people sending requests."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.journal = folder / "journal.jsonl"
        self.checkpoint = stack.layout.checkpoints / SERVICE / "one"
        self._runs = 0

    def start_load(self, rate_rps: int = 250) -> None:
        url = f"{self.stack.layout.url('gateway')}/v2/models/{SERVICE}/infer"
        samples = ("--samples", str(self.checkpoint / "samples.jsonl"), "--journal", str(self.journal))
        argv = ("local.load", "--url", url, *samples, "--rate", str(rate_rps), "--users", "20000")
        self.stack.processes.start(python_program(self.stack.layout, "load", *argv))

    def stop_load(self) -> None:
        self.stack.processes.kill("load", sig=signal.SIGTERM)

    def sent(self) -> list[Sent]:
        return list(read(self.journal))

    def trigger(self, **conf: Any) -> str:
        """Start a run whose release differs from every earlier one unless `server_env` says otherwise."""
        self._runs += 1
        conf = {"server_env": {"TRIAL": str(self._runs)}, **conf}
        return self.stack.airflow.trigger(DAG, conf, run_id=f"trial-{self._runs}")

    def follow(
        self,
        run_id: str,
        *,
        choice: str | None = "Approve",
        at_stage: dict[float, Callable[[Seen], None]] | None = None,
    ) -> Seen:
        """Follow the run to its end, answering its reviews with `choice`; None: nobody answers."""
        follower = Follower(
            self.stack,
            DAG,
            run_id,
            show=lambda seen: None,
            review_choice=choice,
            at_stage=at_stage,
            settle_s=SETTLE_S,
        )
        return follower.to_end(timeout_s=RUN_TIMEOUT_S)

    def until_stage(self, run_id: str, percent: float) -> Seen:
        """Follow the run until its rollout is open at `percent`; nobody answers a review."""
        follower = Follower(self.stack, DAG, run_id, show=lambda seen: None, review_choice=None)
        turn = 0

        def there() -> Seen | None:
            nonlocal turn
            turn += 1
            seen = follower.look(airflow=turn % 3 == 1)
            return seen if (seen.rollout or {}).get("percent") == percent else None

        return until(there, f"{run_id} at {percent:g} %", timeout_s=RUN_TIMEOUT_S)

    def until_task(self, run_id: str, task: str, *states: str) -> dict[str, Any]:
        """Wait until the task is in one of the states, or has ended in any; its row."""

        def there() -> dict[str, Any] | None:
            row = self.task(run_id, task)
            return row if row["state"] in {*states, *ENDED} else None

        row = until(there, f"{task} of {run_id} to be {' or '.join(states)}")
        assert row["state"] in states, f"{task} is {row['state']}"
        return row

    def task(self, run_id: str, task: str) -> dict[str, Any]:
        rows = self.stack.airflow.tasks(DAG, run_id)
        return next(row for row in rows if row["task_id"] == task)

    def mark(self, run_id: str, task: str, *, map_index: int | None = None) -> None:
        """Press "mark success"."""
        self.stack.airflow.set_task_state(DAG, run_id, task, "success", map_index=map_index)

    def until_recorded(self, *, different: int) -> None:
        """Wait until the recorder has written so many different inputs."""
        rows = lambda: sum(read_metadata(file).num_rows for file in self._recordings())  # noqa: E731
        until(lambda: rows() >= different, f"{different} recorded inputs")

    def _recordings(self) -> list[Path]:
        return list((self.stack.layout.recordings / SERVICE).glob("*.parquet"))

    def calibrate(self, name: str) -> dict[str, str]:
        """Run the DAG that calibrates to its end; the state of each task."""
        self.stack.await_dag(CALIBRATION)
        run_id = self.stack.airflow.trigger(CALIBRATION, {}, run_id=name)
        state = until(
            lambda: (found := self.stack.airflow.run(CALIBRATION, run_id)["state"]) in ENDED and found,
            f"the calibration {name} to end",
            timeout_s=RUN_TIMEOUT_S,
        )
        states = {row["task_id"]: row["state"] for row in self.stack.airflow.tasks(CALIBRATION, run_id)}
        assert state == "success", states
        return states

    def asset_events(self) -> list[dict[str, Any]]:
        """That the traffic of the service has moved."""
        found = self.stack.airflow.call("GET", "/assets/events?source_dag_id=" + CALIBRATION)
        return list(found["asset_events"])

    def kill_pod(self, step: str) -> bool:
        """SIGKILL the pod of this step, if there is one."""
        fault = {"fault": "kill", "selector": f"sluice.dev/step={step}"}
        return requests.post(f"{self.stack.layout.url('cluster')}/_faults", json=fault, timeout=20).ok

    def service(self) -> dict[str, Any]:
        return dict(self.stack.controller("GET", f"/v1/services/{SERVICE}").json())

    def rollout(self, rollout_id: str) -> dict[str, Any]:
        return dict(self.stack.controller("GET", f"/v1/rollouts/{rollout_id}").json())

    def verdict(self, rollout_id: str) -> dict[str, Any]:
        answer = self.stack.controller("GET", f"/v1/rollouts/{rollout_id}/evidence").json()
        return dict(answer.get("verdict") or {})

    def decisions(self, rollout_id: str) -> list[dict[str, Any]]:
        rows = self.stack.controller("GET", f"/v1/decisions?rollout={rollout_id}").json()
        return list(rows["decisions"] if isinstance(rows, dict) else rows)

    def task_states(self, seen: Seen) -> dict[str, str]:
        return {row["task_id"]: row["state"] for row in seen.tasks}

    def log(self, seen: Seen, task: str, *, map_index: int = -1) -> str:
        row = next(row for row in seen.tasks if row["task_id"] == task)
        return self._log(seen.run_id, row, map_index)

    def log_so_far(self, run_id: str, task: str) -> str:
        """Of a task that may be running; empty while it has not begun."""
        row = self.task(run_id, task)
        return self._log(run_id, row, -1) if row["start_date"] else ""

    def _log(self, run_id: str, row: dict[str, Any], map_index: int) -> str:
        attempt = row["try_number"] or 1
        return self.stack.airflow.log(DAG, run_id, row["task_id"], attempt=attempt, map_index=map_index)

    def note(self, run_id: str) -> str:
        return str(self.stack.airflow.run(DAG, run_id)["note"] or "")

    def alias(self, name: str) -> str | None:
        """The MLflow version that carries the alias."""
        found = self._mlflow(f"registered-models/alias?name={SERVICE}&alias={name}")
        return (found.get("model_version") or {}).get("version")

    def tags(self, version: str) -> dict[str, str]:
        found = self._mlflow(f"model-versions/get?name={SERVICE}&version={version}")["model_version"]
        return {tag["key"]: tag["value"] for tag in found.get("tags", [])}

    def _mlflow(self, path: str) -> dict[str, Any]:
        answer = requests.get(f"{self.stack.layout.url('mlflow')}/api/2.0/mlflow/{path}", timeout=20)
        return dict(answer.json()) if answer.ok else {}


def until(look: Callable[[], T | None], what: str, *, timeout_s: float = WAIT_S) -> T:
    """Poll `look` until it gives something; fail naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (found := look()) is None or found is False:
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.25)
    return found
