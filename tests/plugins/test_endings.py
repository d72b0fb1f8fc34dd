"""How a run's end is read, held against what Airflow itself does to the tasks of a run."""

import pytest

from plugins.endings import decide, outcome
from sluice.stages import State
from tests.plugins import pictures

TEARDOWNS = {"settle", "verdict"}


UNTIL_GATE_5 = dict.fromkeys(
    (
        "resolve",
        "export",
        "validate_numerics",
        "calibrate",
        "build",
        "register",
        "deploy",
        "open_1",
        "gate_1",
        "open_5",
    ),
    "success",
)


@pytest.mark.parametrize("mark", ["failed", "success"])
def test_a_run_that_a_person_marks_is_cancelled_and_settle_still_runs(run, mark):
    run.put(**UNTIL_GATE_5, gate_5="deferred")
    run.mark(mark)
    states = run.states()
    assert {states[task] for task in TEARDOWNS} == {None}
    assert states["passed"] == "skipped"
    assert decide(states, None).retreat is State.CANCELLED


def test_a_run_that_ended_held_hears_a_mark_only_after_its_failed_task_was_cleared(run):
    """A mark leaves a teardown that has ended as it is, so nobody would ask the controller for anything."""
    run.put(**UNTIL_GATE_5, gate_5="failed")
    run.schedule()
    run.put(settle="success", verdict="failed")
    run.schedule()
    run.mark("failed")
    assert run.states()["settle"] == "success"
    run.clear("gate_5")
    run.mark("failed")
    states = run.states()
    assert {states[task] for task in TEARDOWNS} == {None}
    assert decide(states, None).retreat is State.CANCELLED


def test_a_run_that_is_marked_between_two_tasks_is_cancelled_too(run):
    run.put(**UNTIL_GATE_5)
    run.mark("failed")
    assert decide(run.states(), None).retreat is State.CANCELLED


@pytest.mark.parametrize("task", ["resolve", "build", "deploy", "open_5", "gate_5", "gate_100"])
def test_a_task_that_failed_moves_no_traffic_and_is_named(run, task):
    """The tasks behind it become upstream_failed, so nobody can have marked the run."""
    before = [*UNTIL_GATE_5, "gate_5", "open_50", "gate_50", "open_100", "gate_100"]
    run.put(**dict.fromkeys(before[: before.index(task)], "success"), **{task: "failed"})
    run.schedule()
    states = run.states()
    assert states["passed"] == "upstream_failed"
    ending = decide(states, None)
    assert (ending.passed, ending.retreat) == (False, None)
    assert ending.reason.startswith(f"{task} failed")


def test_a_first_deployment_skips_stages_and_still_ends_as_passed(run):
    skipped = dict.fromkeys(("open_1", "open_5", "open_50"), "skipped")
    offline = {task: state for task, state in UNTIL_GATE_5.items() if "_1" not in task and "_5" not in task}
    run.put(**offline, **skipped)
    run.schedule()
    assert {run.states()[task] for task in ("gate_1", "gate_5", "gate_50")} == {"skipped"}
    assert run.states()["open_100"] != "skipped"
    run.put(open_100="success", gate_100="success")
    run.schedule()
    run.put(passed="success")
    assert decide(run.states(), None).passed


def test_a_calibration_that_is_not_needed_stops_nothing(run):
    run.put(resolve="success", export="success", validate_numerics="success", calibrate="skipped")
    run.schedule()
    assert run.states()["build"] not in {"skipped", "upstream_failed"}


@pytest.mark.parametrize(("task", "state"), [("settle", "success"), ("verdict", "failed")])
def test_the_run_is_red_whenever_its_verdict_is(run, task, state):
    """The only leaf decides: also when settle itself did its work."""
    run.put(**dict.fromkeys(run.states(), "success"))
    run.put(**{task: state})
    run.schedule()
    assert run.read(lambda row: str(row.state)) == ("failed" if state == "failed" else "success")


def test_a_rejection_comes_before_everything_else():
    ending = decide({"passed": "success"}, "the review before 50 was rejected: ada answered Reject")
    assert (ending.passed, ending.retreat) == (False, State.REJECTED)
    assert "ada" in ending.reason


def test_no_state_at_all_is_no_pass():
    assert not decide({}, None).passed


def test_a_live_rollout_is_called_held_with_its_share_and_the_way_on():
    held = {"since": "t", "by": "airflow:x", "reason": "gate_5 failed"}
    name, reason = outcome(pictures.rollout(percent=5.0, held=held), decide({}, None))
    assert name == "held"
    assert reason.startswith("5 % of the traffic stays: gate_5 failed; clear the task to go on")
    assert "clear it and mark the run as failed to take the traffic back" in reason
