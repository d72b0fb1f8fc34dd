"""The kill meets a scheduler and a triggerer, and a wrong button that moves something is seen to have moved it."""

import subprocess
import sys
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import psutil
import pytest

from local.demo import acceptance
from local.demo.airflow_kill import AirflowKill, kill_parts, waited
from local.demo.follow import Seen
from local.load.journal import Sent
from tests.local.demo.fakes import FakeAirflow, FakeStack, task

PERCENTS = {0: 1.0, 1: 5.0, 2: 50.0, 3: 100.0}
BEFORE, AFTER = [{"version": "2", "weight": 5_000}], [{"version": "2", "weight": 10_000}]
PASS = {"action": "pass", "stage": 2}


def iso(at_s):
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds")


def opening(stage, at_s, verdict=None):
    return {"action": "open", "stage": stage, "at": iso(at_s), "verdict": verdict}


# --- the kill -----------------------------------------------------------------------------------

# Stands for `airflow standalone`: four children, each with the words of its part in its command line.
STANDALONE = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)", "airflow"]
parts = ["scheduler", "triggerer", "api-server", "dag-processor"]
print(*[subprocess.Popen([*sleep, part]).pid for part in parts], flush=True)
time.sleep(600)
"""


@pytest.fixture
def standalone():
    """Its pid, and the pid of each part by name."""
    argv = [sys.executable, "-c", STANDALONE]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        yield (
            owner.pid,
            dict(zip(("scheduler", "triggerer", "api-server", "dag-processor"), pids, strict=True)),
        )
        for process in psutil.Process(owner.pid).children():
            process.kill()
        owner.kill()


def alive(pid):
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for_words(pids):
    """Until each child has its own command line: a moment after the fork it has its parent's."""
    while not all("airflow" in psutil.Process(pid).cmdline() for pid in pids):
        time.sleep(0.01)


def test_scheduler_and_triggerer_are_killed_and_nothing_else_of_airflow(standalone):
    owner, pids = standalone
    wait_for_words(pids.values())
    assert kill_parts(owner) == ["scheduler", "triggerer"]
    while alive(pids["scheduler"]) or alive(pids["triggerer"]):
        time.sleep(0.01)
    assert [alive(pid) for pid in pids.values()] == [False, False, True, True]


def test_an_airflow_without_these_parts_leaves_nobody_killed():
    """Which the report's line then says: a kill that met nobody proves nothing."""
    assert kill_parts(psutil.Process().pid) == []


class Processes:
    """Remembers what was done to the parts, in order."""

    def __init__(self, pid):
        self._pid, self.done = pid, []

    def pid(self, name):
        return self._pid

    def kill(self, name):
        self.done.append(("kill", name))

    def restart(self, name):
        self.done.append(("restart", name))


def test_the_kill_waits_for_the_gate_then_watches_then_restarts(standalone, tmp_path):
    """A gate that does not wait in the triggerer yet would have nothing to resume."""
    owner, pids = standalone
    wait_for_words(pids.values())
    states, while_running = iter(["running", "running"]), []
    airflow = FakeAirflow(logs={"gate_5": "5 % passed: stage of 5 % passed"})

    def tasks(dag, run_id):
        state = next(states, "deferred")
        if state == "running":
            while_running.append(alive(pids["scheduler"]))
        return [task("gate_5", state)]

    airflow.tasks = tasks
    stack = FakeStack(
        airflow, service={"rollout": {"percent": 5.0}, "line": BEFORE}, processes=Processes(owner)
    )
    kill = AirflowKill(stack, "promote__minilm", tmp_path / "journal", down_s=0.2, look_s=0.01)
    kill.kill_and_restart(Seen(run_id="r"))
    while stack.waits == 0 and kill.facts["errors"] == []:
        (tmp_path / "journal").write_text(line_of(time.time()))
        time.sleep(0.01)
    assert stack.processes.done == [("kill", "airflow"), ("restart", "airflow")]
    kill.finish(
        Seen(run_id="r", tasks=[task("gate_5", "success")], rollout={"id": "minilm-2", "state": "promoted"})
    )
    assert kill.facts["errors"] == []
    assert while_running == [True, True]
    assert kill.facts["killed"] == ["scheduler", "triggerer"]
    assert kill.facts["percent_while_down"] == [5.0]
    assert kill.facts["gate_afterwards"] == {"state": "success", "passed_by_itself": True}


def line_of(at_s, status=200):
    return Sent(sent_at_s=at_s, ended_at_s=at_s, uid="u", version="2", status=status, tokens=3).to_line()


# --- the button ---------------------------------------------------------------------------------


class Town(SimpleNamespace):
    """A controller that holds 50 % for ten looks after the mark and then opens 100 %; `moves`: what a look shows."""

    def __init__(self, moves):
        self.moves, self.looks, self.decisions = moves, None, []
        self.airflow = FakeAirflow(rows=[task("gate_50", "deferred")], on_mark=self.mark)

    def mark(self, name, state):
        assert (name, state) == ("gate_50", "success")
        self.looks = 0
        self.airflow.rows.append(task("open_100", "running"))
        self.airflow.logs["open_100"] = "holding before 100 %: no fresh pass: dwell: open for 8 of 20 s"

    def service(self):
        if self.looks is None:
            return {"rollout": {"percent": 50.0}, "line": BEFORE}
        self.looks += 1
        if self.looks == 10:
            self.decisions.append(opening(3, time.time(), PASS))
        opened = self.looks >= 10
        moved = opened or self.moves(self.looks)
        return {"rollout": {"percent": 100.0 if opened else 50.0}, "line": AFTER if moved else BEFORE}


def pressed(tmp_path, moves):
    """The facts of the button on a controller that answers by `moves`."""
    town = Town(moves)
    stack = FakeStack(town.airflow, service=town.service, decisions=town.decisions)
    kill = AirflowKill(stack, "promote__minilm", tmp_path / "journal", look_s=0.01)
    (tmp_path / "journal").touch()
    kill.press_the_button(Seen(run_id="r"))
    opened = [{"stage": stage, "percent": percent} for stage, percent in PERCENTS.items()]
    kill.finish(Seen(run_id="r", rollout={"id": "minilm-2", "state": "promoted", "opened": opened}))
    assert kill.facts["errors"] == []
    return kill.facts


def test_a_button_that_moves_nothing_leaves_the_line_until_the_controller_s_own_pass(tmp_path):
    facts = pressed(tmp_path, moves=lambda look: False)
    assert facts["marks"] == ["gate_50"]
    assert facts["refused"] == "holding before 100 %: no fresh pass: dwell: open for 8 of 20 s"
    assert facts["refused_seconds_before_opening"] > 0
    assert facts["opened_on"] == {"action": "pass", "percent": 50.0}
    assert facts["looks_while_waiting"] >= 5
    assert facts["moves_while_waiting"] == 0


def test_a_button_that_moves_the_line_for_one_look_is_seen(tmp_path):
    assert pressed(tmp_path, moves=lambda look: look == 4)["moves_while_waiting"] == 1


def test_only_looks_before_the_opening_count():
    """The line may move with the opening, and the refusal must have been before it."""
    looks = [(10.0, False), (11.0, True), (12.0, True)]
    found = waited(looks, (9.5, "refused"), opening(3, 10.5, PASS), PERCENTS)
    assert (found["looks_while_waiting"], found["moves_while_waiting"]) == (1, 0)
    assert found["refused_seconds_before_opening"] == 1.0
    late = waited(looks, (11.0, "refused"), opening(3, 10.5, PASS), PERCENTS)
    assert late["refused_seconds_before_opening"] < 0


def test_a_stage_that_was_opened_without_a_pass_of_the_stage_before_says_so():
    found = waited([], None, opening(3, 10.5, {"action": "hold", "stage": 1}), PERCENTS)
    assert found["opened_on"] == {"action": "hold", "percent": 5.0}
    assert waited([], None, opening(3, 10.5), PERCENTS)["opened_on"] == {"action": None, "percent": None}
    assert waited([], None, None, PERCENTS)["opened_on"] is None


def test_a_run_in_which_neither_act_was_played_does_not_hold(tmp_path):
    """Turned back at 1 %, say: the hooks are never called, and no figure is missing in a traceback."""
    (tmp_path / "journal").touch()
    kill = AirflowKill(FakeStack(), "promote__minilm", tmp_path / "journal")
    kill.finish(Seen(run_id="r"))
    assert acceptance.killed_airflow(kill.facts, stages=4)["holds"] is False


def test_what_goes_wrong_beside_the_follower_is_a_fact_of_the_report(tmp_path):
    (tmp_path / "journal").touch()
    stack = FakeStack(FakeAirflow(rows=[task("gate_50", "success")]))
    kill = AirflowKill(stack, "promote__minilm", tmp_path / "journal", look_s=0.01)
    kill.press_the_button(Seen(run_id="r"))
    kill.finish(Seen(run_id="r"))
    assert "gate_50 is success and never waited" in kill.facts["errors"][0]
