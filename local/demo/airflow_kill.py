"""Kill Airflow's scheduler and triggerer in the middle of a stage, later press the wrong button; record what moved.

Two acts, each beside the follower, which goes on looking. At 5 %, once the gate waits in the triggerer: SIGKILL, and
the traffic is watched while nobody schedules; then Airflow is restarted and the gate has to go on by itself. At 50 %,
with Airflow well: the gate is marked "success", so the task behind it runs and asks for 100 %. It is refused, and the
line must not move before the controller has a pass of its own.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from local.demo.exposure import seconds
from local.demo.follow import Seen
from local.load.journal import read
from local.stack.stack import Stack
from sluice.errors import RetryableError, SluiceError

DOWN_S = 10.0
PATIENCE_S = 900.0
LOOK_S = 0.25
KILLED = ("scheduler", "triggerer")
KILLED_AT, MARKED_AT, ASKED_FOR = (
    5.0,
    50.0,
    100.0,
)  # percents: of the kill, of the marked gate, of the task behind it
MARKED = f"gate_{MARKED_AT:g}"
REFUSAL = re.compile(rf"(?:holding before {ASKED_FOR:g} %|no fresh pass): [^\"'\\\n]+")
Moment = tuple[
    float, bool
]  # when an answer was there (seconds since the epoch), and whether the line had moved


class AirflowKill:
    """Both acts on one run. `facts` is what the acceptance line reads; what went wrong stands under `errors`."""

    def __init__(
        self, stack: Stack, dag: str, journal: Path, *, down_s: float = DOWN_S, look_s: float = LOOK_S
    ) -> None:
        self._stack, self._dag, self._journal = stack, dag, journal
        self._down_s, self._look_s = down_s, look_s
        self.facts: dict[str, Any] = {"errors": [], "killed": [], "percent_while_down": [], "marks": []}
        self._threads: list[threading.Thread] = []
        self._down = (0.0, 0.0)
        self._looks: list[Moment] = []
        self._refused: tuple[float, str] | None = None

    def kill_and_restart(self, seen: Seen) -> None:
        """Begin the first act; call it when the stage of `KILLED_AT` is open."""
        self._beside(self._kill, seen.run_id)

    def press_the_button(self, seen: Seen) -> None:
        """Begin the second act; call it when the stage of `MARKED_AT` is open."""
        self._beside(self._press, seen.run_id)

    def finish(self, seen: Seen) -> None:
        """Complete the facts when the run has ended."""
        for thread in self._threads:
            thread.join()
        rollout = seen.rollout or {}
        decisions = self._decisions(rollout.get("id"))
        opened = [row for row in decisions if row["action"] == "open"]
        down = [row for row in read(self._journal) if self._down[0] <= row.sent_at_s <= self._down[1]]
        percents = {row["stage"]: float(row["percent"]) for row in rollout.get("opened", [])}
        behind = next((row for row in opened if percents.get(row["stage"]) == ASKED_FOR), None)
        self.facts |= {
            "outcome": rollout.get("state"),
            "openings_per_stage": dict(Counter(str(row["stage"]) for row in opened)),
            "requests_while_down": len(down),
            "failures_while_down": sum(row.failed for row in down),
            "gate_afterwards": self._gate(seen),
            **waited(self._looks, self._refused, behind, percents),
        }

    def _beside(self, act: Callable[[str], None], run_id: str) -> None:
        def play() -> None:
            try:
                act(run_id)
            except Exception as error:
                self.facts["errors"].append(f"{act.__name__}: {error}")

        # A daemon: it must not keep a demo alive that a person has ended.
        self._threads.append(threading.Thread(target=play, name=act.__name__, daemon=True))
        self._threads[-1].start()

    def _kill(self, run_id: str) -> None:
        self._await_deferred(run_id, f"gate_{KILLED_AT:g}")
        since_s = time.time()
        killed = kill_parts(self._stack.processes.pid("airflow"))
        percents, end = set(), time.monotonic() + self._down_s
        while time.monotonic() < end:
            percents.add(self._service()[0])
            time.sleep(self._look_s)
        self._down = (since_s, time.time())
        self.facts |= {"killed": killed, "percent_while_down": sorted(percents)}
        self._stack.processes.kill("airflow")
        self._stack.processes.restart("airflow")
        self._stack.await_airflow()

    def _press(self, run_id: str) -> None:
        self._await_deferred(run_id, MARKED)
        before = self._service()[1]
        self._stack.airflow.set_task_state(self._dag, run_id, MARKED, "success")
        self.facts["marks"].append(MARKED)
        end, turn, percent = time.monotonic() + PATIENCE_S, 0, MARKED_AT
        while percent == MARKED_AT and time.monotonic() < end:
            percent, line = self._service()
            self._looks.append((time.time(), line != before))
            if self._refused is None and turn % 4 == 0:  # Airflow's answer costs more than the controller's
                with contextlib.suppress(SluiceError):  # the next look may find it
                    self._refused = self._refusal(run_id)
            turn += 1
            time.sleep(self._look_s)

    def _await_deferred(self, run_id: str, task: str) -> None:
        """The gate has to wait in the triggerer: before, there is nothing to resume and nothing to skip."""
        end = time.monotonic() + PATIENCE_S
        while (state := self._task(run_id, task).get("state")) != "deferred":
            if state in {"success", "failed"} or time.monotonic() > end:
                raise RetryableError(f"{task} is {state} and never waited", next_step="look at its log")
            time.sleep(self._look_s)

    def _refusal(self, run_id: str) -> tuple[float, str] | None:
        """What the task behind the marked gate says of its being refused, and when we knew; None: nothing yet."""
        task = f"open_{ASKED_FOR:g}"
        row = self._task(run_id, task)
        if not row.get("start_date"):
            return None
        log = self._stack.airflow.log(self._dag, run_id, task, attempt=row["try_number"] or 1)
        found = REFUSAL.search(log)
        return (time.time(), found[0]) if found else None

    def _gate(self, seen: Seen) -> dict[str, Any]:
        """How the gate ended that waited when its triggerer was killed; its own log says that it was not skipped."""
        task = f"gate_{KILLED_AT:g}"
        row = next((row for row in seen.tasks if row["task_id"] == task), {})
        log = self._stack.airflow.log(self._dag, seen.run_id, task, attempt=row.get("try_number") or 1)
        return {"state": row.get("state"), "passed_by_itself": f"{KILLED_AT:g} % passed" in log}

    def _task(self, run_id: str, task: str) -> dict[str, Any]:
        rows = self._stack.airflow.tasks(self._dag, run_id)
        return next((row for row in rows if row["task_id"] == task), {})

    def _service(self) -> tuple[float, Any]:
        """The share that is open, 0 without a rollout, and the line of the hash."""
        answer = self._stack.controller("GET", f"/v1/services/{self._dag.removeprefix('promote__')}").json()
        return float((answer.get("rollout") or {}).get("percent") or 0), answer["line"]

    def _decisions(self, rollout: str | None) -> list[dict[str, Any]]:
        rows = self._stack.controller("GET", f"/v1/decisions?rollout={rollout}").json()
        return list(rows.get("decisions", []) if isinstance(rows, dict) else rows)


def waited(
    looks: Sequence[Moment],
    refused: tuple[float, str] | None,
    opening: Mapping[str, Any] | None,
    percents: Mapping[int, float],
) -> dict[str, Any]:
    """What the wrong button moved. opening: the ledger's row of the stage behind the gate; percents: of each stage.

    Only looks whose answer was there before that row count: the line may move with it, and not a moment earlier.
    """
    if opening is None:
        return {"refused": refused and refused[1], "opened_on": None}
    at_s, verdict = seconds(opening["at"]), opening["verdict"] or {}
    before = [moved for answered_at_s, moved in looks if answered_at_s < at_s]
    return {
        "refused": refused[1] if refused else None,
        "refused_seconds_before_opening": round(at_s - refused[0], 2) if refused else None,
        "looks_while_waiting": len(before),
        "moves_while_waiting": sum(before),
        "opened_on": {"action": verdict.get("action"), "percent": percents.get(verdict.get("stage", -1))},
    }


def kill_parts(airflow: int) -> list[str]:
    """SIGKILL what `airflow standalone` (a pid) runs as scheduler and as triggerer; the name of each that it met."""
    killed = []
    for process in psutil.Process(airflow).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            part = next((name for name in KILLED if name in words(process)), None)
            if part is not None:
                process.kill()
                killed.append(part)
    return sorted(killed)


def words(process: psutil.Process) -> set[str]:
    """The words of a process' title and command line."""
    return {word for part in process.cmdline() for word in part.replace(":", " ").split()}
