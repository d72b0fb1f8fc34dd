"""Kill Airflow's scheduler and triggerer in the middle of a stage, press the wrong buttons, and record what moved."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from local.demo.follow import Seen
from local.load.journal import read
from local.stack.stack import Stack
from sluice.errors import SluiceError

DOWN_S = 10.0
MARKED = ("gate_5", "review_deploy", "build")  # what an impatient person might mark "success"


class AirflowKill:
    """One kill and what was observed around it. `facts` is what the acceptance line reads."""

    def __init__(self, stack: Stack, dag: str, journal: Path) -> None:
        self._stack, self._dag, self._journal = stack, dag, journal
        self.facts: dict[str, Any] = {}
        self._thread: threading.Thread | None = None
        self._down: list[float] = []

    def observing(self, show: Callable[[Seen], None]) -> Callable[[Seen], None]:
        """`show`, with the run's id remembered for the buttons."""

        def look(seen: Seen) -> None:
            self._run_id = seen.run_id
            show(seen)

        return look

    def kill_and_restart(self) -> None:
        """SIGKILL scheduler and triggerer now; the restart happens `DOWN_S` later, beside the follower."""
        self._killed = [process.pid for process in self._kill()]
        self._thread = threading.Thread(target=self._while_down, name="airflow-kill")
        self._thread.start()

    def finish(self, seen: Seen) -> None:
        """Complete the facts when the run has ended."""
        if self._thread:
            self._thread.join()
        rollout = seen.rollout or {}
        answer = self._stack.controller("GET", f"/v1/decisions?rollout={rollout.get('id')}")
        rows = answer.json()
        rows = rows.get("decisions", []) if isinstance(rows, dict) else rows
        openings = Counter(str(row["stage"]) for row in rows if row["action"] == "open")
        down = [row for row in read(self._journal) if self._down[0] <= row.sent_at_s <= self._down[1]]
        self.facts |= {
            "outcome": rollout.get("state"),
            "openings_per_stage": dict(openings),
            "requests_while_down": len(down),
            "failures_while_down": sum(row.failed for row in down),
            "killed_processes": len(self._killed),
        }

    def _kill(self) -> list[psutil.Process]:
        family = psutil.Process(self._stack.processes.pid("airflow")).children(recursive=True)
        victims = [p for p in family if {"scheduler", "triggerer"} & set(command(p))]
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return victims

    def _while_down(self) -> None:
        self._down = [time.time()]
        percents: set[float] = set()
        end = time.monotonic() + DOWN_S
        while time.monotonic() < end:
            percents.add(self._percent())
            time.sleep(0.5)
        before = self._line()
        marks = [task for task in MARKED if self._mark(task)]
        after = self._line()
        self._down.append(time.time())
        self.facts = {
            "percent_while_down": sorted(percents),
            "marks": marks,
            "weights_before_marks": before,
            "weights_after_marks": after,
        }
        self._stack.processes.kill("airflow", sig=signal.SIGTERM)
        self._stack.processes.restart("airflow")
        self._stack.await_airflow()

    def _mark(self, task: str) -> bool:
        """Mark a finished or waiting task "success" by Airflow's API, as the page's button does."""
        try:
            self._stack.airflow.set_task_state(self._dag, self._run_id, task, "success")
        except SluiceError:
            return False
        return True

    def _percent(self) -> float:
        service = self._dag.removeprefix("promote__")
        answer = self._stack.controller("GET", f"/v1/services/{service}").json()
        return float((answer.get("rollout") or {}).get("percent") or 0)

    def _line(self) -> Any:
        service = self._dag.removeprefix("promote__")
        return self._stack.controller("GET", f"/v1/services/{service}").json()["line"]


def command(process: psutil.Process) -> list[str]:
    """The words of a process' title and command line; empty if it is gone."""
    try:
        return [word for part in process.cmdline() for word in part.replace(":", " ").split()]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []
