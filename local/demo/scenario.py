"""The demo's story: version 1 comes up, version 2 is promoted, version 3 is bad and is turned back."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from local.demo.airflow_kill import KILLED_AT, MARKED_AT, AirflowKill
from local.demo.follow import Follower, Seen
from local.demo.screen import Screen
from local.demo.spec import SERVICE
from local.load import client
from local.stack.programs import REPO
from local.stack.programs import python as python_program
from local.stack.stack import Stack
from sluice.errors import FatalError

DAG = f"promote__{SERVICE}"
UID_HEADER = "x-user-id"
DWELL_S = 20
FIRST_TIMEOUT_S, ROLLOUT_TIMEOUT_S = 600, 1500
FAULTS = {
    "fail": "one in twenty requests fails with 500",
    "reject-long": "answers 422 to every text over 64 tokens",
    "slow": "three times slower",
    "nan": "NaN embeddings",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the person asked for on the command line."""

    faults: tuple[str, ...]  # of the bad versions, in order; at least one
    rate_rps: float
    users: int
    review: bool
    kill_airflow: bool


@dataclass(slots=True)
class Played:
    """One rollout as it went."""

    name: str
    version: str
    seen: Seen
    seconds: float
    conf: dict[str, Any]
    decisions: list[dict[str, Any]] = field(default_factory=list)
    reviews: list[dict[str, Any]] = field(default_factory=list)  # as Airflow records them


class Scenario:
    """Plays the three rollouts on a running stack; keeps what the report needs."""

    def __init__(self, stack: Stack, options: Options, console: Console, folder: Path) -> None:
        self.stack, self.options, self.console, self.folder = stack, options, console, folder
        self.journal, self.requests = folder / "journal.jsonl", folder / "requests.jsonl"
        self.load_ended_s = math.inf  # seconds since the epoch
        self.anonymous: dict[str, int] = {}
        self.kill: AirflowKill | None = None
        self.checkpoint: Path | None = None
        self._probe: threading.Thread | None = None

    def make_checkpoint(self) -> None:
        """Write MiniLM's checkpoint and the load's texts in a process of its own: torch never loads in this one."""
        self.checkpoint = self.stack.layout.checkpoints / SERVICE / "trained"
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "local.demo.checkpoint", str(self.checkpoint)]
        argv += ["--requests", str(self.requests)]
        done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FatalError(
                f"the checkpoint could not be written: {done.stderr[-2000:]}", next_step="make setup"
            )

    def play(self) -> list[Played]:
        """Every rollout, in order, with the load ended at the end. Raises what ends it before."""
        played = [self.first(), self.good(), *(self.bad(fault) for fault in self.options.faults)]
        self.stop_load()
        return played

    def start_load(self) -> None:
        """Open-loop traffic in a process of its own until the stack ends."""
        url = f"{self.stack.layout.url('gateway')}/v2/models/{SERVICE}/infer"
        program = python_program(
            self.stack.layout,
            "load",
            *("local.load", "--url", url, "--uid-header", UID_HEADER),
            *("--samples", str(self.requests), "--journal", str(self.journal)),
            *("--rate", str(self.options.rate_rps), "--users", str(self.options.users)),
        )
        self.stack.processes.start(program)

    def stop_load(self) -> None:
        self.stack.processes.kill("load", sig=signal.SIGTERM)
        self.load_ended_s = time.time()

    def first(self) -> Played:
        """Version 1, as a first deployment: no stable version, so no stages; FP32 only. Its watch needs traffic.

        Raises FatalError unless it was promoted: every other version is let in beside it.
        """
        played = self._play(
            "version 1: first deployment",
            {"precisions": ["fp32"]},
            timeout_s=FIRST_TIMEOUT_S,
            at_stage={100.0: lambda seen: self.start_load()},
        )
        rollout = played.seen.rollout or {}
        if rollout.get("state") != "promoted":
            failed = [row["task_id"] for row in played.seen.tasks if row["state"] == "failed"]
            why = rollout.get("reason") or f"{', '.join(failed) or 'no task'} failed"
            raise FatalError(
                f"version 1 was not promoted but {rollout.get('state', 'has no rollout')}: {why}",
                next_step=f"look at {self.stack.airflow.url}/dags/{DAG}/runs/{played.seen.run_id}",
            )
        return played

    def good(self) -> Played:
        """Version 2: the same weights, INT8 where it is accurate enough."""
        hooks: dict[float, Callable[[Seen], None]] = {50.0: self._start_probe}
        if self.options.kill_airflow:
            kill = self.kill = AirflowKill(self.stack, DAG, self.journal)

            def halfway(seen: Seen) -> None:
                self._start_probe(seen)
                kill.press_the_button(seen)

            hooks |= {KILLED_AT: kill.kill_and_restart, MARKED_AT: halfway}
        played = self._play("version 2: the good one", {}, at_stage=hooks)
        if self._probe:
            self._probe.join()
        if self.kill:
            self.kill.finish(played.seen)
        return played

    def bad(self, fault: str) -> Played:
        """A bad version: the same model behind a server command with a fault of its own."""
        command = ["python", "-m", "local.demo.faulty_server", "--fault", fault, "--"]
        title = f"version {3 + self.options.faults.index(fault)}: {FAULTS[fault]}"
        return self._play(title, {"server_command": command})

    def _play(
        self,
        title: str,
        conf: dict[str, Any],
        *,
        timeout_s: float = ROLLOUT_TIMEOUT_S,
        at_stage: dict[float, Callable[[Seen], None]] | None = None,
    ) -> Played:
        conf = {**conf, "dwell_s": DWELL_S}
        run_id = f"demo-{time.strftime('%Y%m%dT%H%M%S')}"
        self.console.rule(title, align="left")
        self.console.print(
            f"  airflow dags trigger {DAG} --conf '{json.dumps(conf)}'", style="dim", soft_wrap=True
        )
        self.stack.airflow.trigger(DAG, conf, run_id=run_id, note=title)
        began = time.monotonic()
        with Screen(title, self.console) as screen:
            follower = Follower(
                self.stack,
                DAG,
                run_id,
                show=screen.show,
                review_choice=None if self.options.review else "Approve",
                at_stage=at_stage,
                say=self._say,
            )
            seen = follower.to_end(timeout_s=timeout_s)
        played = Played(title, version_of(seen), seen, round(time.monotonic() - began, 1), conf)
        played.decisions, played.reviews = self._decisions(seen), self.stack.airflow.reviews(DAG, run_id)
        self._say_end(played)
        return played

    def _decisions(self, seen: Seen) -> list[dict[str, Any]]:
        if seen.rollout is None:
            return []
        answer = self.stack.controller("GET", f"/v1/decisions?rollout={seen.rollout['id']}")
        rows = answer.json() if answer.ok else []
        return list(rows.get("decisions", []) if isinstance(rows, dict) else rows)

    def _say(self, line: str) -> None:
        self.console.print(f"  {line}", highlight=False, soft_wrap=True)

    def _say_end(self, played: Played) -> None:
        rollout = played.seen.rollout or {}
        good = rollout.get("state") == "promoted"
        text = f"  {rollout.get('state', 'no rollout')} after {played.seconds:.0f} s: {rollout.get('reason') or '-'}"
        self.console.print(text, style="green" if good else "red", soft_wrap=True, highlight=False)

    def _start_probe(self, seen: Seen) -> None:
        """10 000 requests without a user, beside everything else."""
        url = f"{self.stack.layout.url('gateway')}/v2/models/{SERVICE}"

        def probe() -> None:
            self.anonymous.update(
                asyncio.run(client.anonymous(url, UID_HEADER, requests=10_000, concurrency=4))
            )

        self._probe = threading.Thread(target=probe, name="anonymous")
        self._probe.start()


def version_of(seen: Seen) -> str:
    return str(((seen.rollout or {}).get("candidate") or {}).get("version") or "")
