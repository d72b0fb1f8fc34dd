"""One service through everything that can happen to it, in this order, on the real parts.

Each test needs what the one before it left: version 1 is deployed first, then others try to follow it, most in vain.
"""

from __future__ import annotations

import asyncio
import math

import pytest

from local.demo.exposure import exposure
from local.load.client import anonymous
from sluice.errors import FatalError
from tests.end_to_end.town import DAG, ENDED, SERVICE, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
FIRST = 20  # percent of the first stage
NOBODY = {"review": []}  # a run that is not about reviews does not wait for one
FAULTY = ["python", "-m", "local.demo.faulty_server", "--fault", "fail", "--"]


def test_a_first_deployment_goes_straight_to_100_percent(town):
    """No stable version, nothing to compare with: the stages are skipped and said to be."""
    seen = town.follow(town.trigger(), at_stage={100.0: lambda seen: town.start_load()})
    assert seen.state == "success", town.note(seen.run_id)
    assert seen.rollout["state"] == "promoted"
    assert seen.rollout["first_deployment"] is True
    assert [row["percent"] for row in seen.rollout["opened"]] == [100]
    states = town.task_states(seen)
    assert states[f"open_{FIRST}"] == states["open_50"] == "skipped"
    assert town.alias("champion") == "1"
    assert town.service()["stable"]["version"] == "1"


def test_the_release_that_serves_is_not_promoted_again(town):
    """The same digest as stable's: refused with that reason, and nothing is built for it."""
    seen = town.follow(town.trigger(server_env={"TRIAL": "1"}))
    assert seen.state == "failed"
    assert "stable" in town.log(seen, "resolve")
    assert town.task_states(seen)["build"] in {"upstream_failed", "skipped"}


def test_a_bad_parameter_is_answered_400_with_its_name(town):
    with pytest.raises(FatalError, match=r"400.*dwell_s"):
        town.stack.airflow.trigger(DAG, {"dwell_s": "soon"}, run_id="bad-parameter")


def test_a_rejected_review_moves_no_traffic_and_an_unchanged_input_is_not_built_again(town):
    """The release differs from version 1 in its server's environment only, so its engine was there already."""
    seen = town.follow(town.trigger(), choice="Reject")
    assert seen.state == "failed"
    assert seen.rollout["state"] == "rejected"
    nothing_moved(town, seen)
    assert "unchanged: engine" in town.log(seen, "build", map_index=0)
    assert "unchanged: onnx" in town.log(seen, "export")


def test_a_review_that_is_marked_success_without_an_answer_deploys_nothing(town):
    """The colour is not the answer: the task behind it reads who approved, and nobody did."""
    run_id = town.trigger()
    town.until_task(run_id, "review_deploy", "awaiting_input")
    town.mark(run_id, "review_deploy")
    seen = town.follow(run_id, choice=None)
    assert seen.state == "failed"
    assert town.task_states(seen)["review_deploy"] == "success"
    assert "review_deploy has no recorded response" in town.log(seen, "deploy")
    assert seen.rollout["candidate"] is None
    nothing_moved(town, seen)


def test_a_build_that_is_marked_success_while_it_runs_registers_nothing(town):
    """The colour is not the engine: it is not in the store, and the next task says which one is missing.

    The pod is killed, so that it cannot be done before that task looks. Another list of precisions is another engine.
    """
    run_id = town.trigger(precisions=["fp32", "fp16"])
    town.until_task(run_id, "build", "running")
    town.mark(run_id, "build", map_index=0)
    until(
        lambda: town.kill_pod("build") or town.task(run_id, "register")["state"] in ENDED, "the build to end"
    )
    seen = town.follow(run_id)
    assert seen.state == "failed"
    states = town.task_states(seen)
    assert (states["build"], states["register"]) == ("success", "failed")
    assert "no engine " in town.log(seen, "register")
    nothing_moved(town, seen)


def test_a_harmful_version_is_turned_back_and_remembered(town):
    """One request in twenty fails: the guard turns it back, the reason is on the version, the run is red."""
    bad = {"server_command": FAULTY, "server_env": {"TRIAL": "harm"}, **NOBODY}
    seen = town.follow(town.trigger(**bad))
    assert seen.state == "failed"
    assert seen.rollout["state"] == "turned_back"
    assert seen.rollout["verdict"]["action"] == "harm"
    assert max(row["percent"] for row in seen.rollout["opened"]) <= 50
    reason = seen.rollout["verdict"]["reason"]
    assert reason in town.log(seen, "verdict")
    assert reason in town.note(seen.run_id)
    assert reason[:60] in town.tags(seen.rollout["candidate"]["version"])["reason"]
    assert town.alias("champion") == "1"
    again = town.follow(town.trigger(**bad))
    assert again.state == "failed"
    assert "retry_reason" in town.log(again, "resolve")


def test_without_evidence_it_holds_and_a_marked_gate_moves_nothing_then_it_goes_on(town):
    """Traffic stops in the first stage: hold, with the reason. The gate is marked: the task behind it runs, asks and
    is refused. Traffic comes back: the same run goes on, once the controller itself has passed the stage.
    """
    run_id = town.trigger(**NOBODY)
    rollout = town.until_stage(run_id, FIRST).rollout["id"]
    town.stop_load()
    held = until(
        lambda: (found := town.verdict(rollout)).get("action") == "hold" and found,
        "a hold without traffic",
    )
    assert held["reason"]
    town.until_task(run_id, f"gate_{FIRST}", "deferred")
    before = town.service()["line"]
    town.mark(run_id, f"gate_{FIRST}")
    asked = "holding before 50 %: no fresh pass"
    until(lambda: asked in town.log_so_far(run_id, "open_50"), "open_50 to ask, and to be refused")
    assert town.task(run_id, f"gate_{FIRST}")["state"] == "success"
    assert town.service()["line"] == before
    assert town.rollout(rollout)["percent"] == FIRST
    url = f"{town.stack.layout.url('gateway')}/v2/models/{SERVICE}"
    counts = asyncio.run(anonymous(url, "x-user-id", requests=1_000))
    assert counts == {"failed": 0, "1": 1_000}
    town.start_load()
    town.until_stage(run_id, 50)
    opened = [row for row in town.decisions(rollout) if row["action"] == "open"]
    assert [row["stage"] for row in opened] == [0, 1]
    assert (opened[1]["verdict"]["action"], opened[1]["verdict"]["stage"]) == ("pass", 0)


def test_a_newer_run_supersedes_the_active_one_and_is_promoted(town):
    """The older run, still at 50 %, ends red and says who took its place; the newer one goes through every stage."""
    older = town.service()["rollout"]
    newer = town.trigger(**NOBODY)
    done = town.follow(newer)
    assert done.state == "success", town.note(newer)
    assert done.rollout["state"] == "promoted"
    ended = town.follow(older["run_id"])
    assert ended.state == "failed"
    assert town.rollout(older["id"])["state"] == "superseded"
    assert newer in town.rollout(older["id"])["reason"]
    version = done.rollout["candidate"]["version"]
    assert town.service()["stable"]["version"] == version
    assert (town.alias("champion"), town.alias("previous")) == (version, "1")
    opened = [row["stage"] for row in town.decisions(done.rollout["id"]) if row["action"] == "open"]
    assert opened == [0, 1, 2], "each stage once, in order"
    found = exposure(done.rollout, town.sent(), shares=shares(town), watched_until_s=math.inf)
    assert [stage["mispredicted_requests"] for stage in found["stages"]] == [0, 0, 0]
    assert found["users_who_changed_sides"] == 0
    assert found["client_failures"] == 0


def test_recorded_traffic_calibrates_and_the_next_promotion_uses_what_was_found(town):
    """What people sent through the gateway was recorded; the scales come from it, and nobody else's."""
    town.until_recorded(different=150)
    states = town.calibrate("first")
    assert states.pop("drift") == "skipped", "there is nothing to compare a first dataset with"
    assert set(states.values()) == {"success"}
    (event,) = town.asset_events()
    assert event["extra"]["why"] == "there was no calibration on recorded traffic yet"
    assert event["extra"]["against"] is None
    run_id = town.trigger(precisions=["fp32", "int8"], **NOBODY)
    town.until_task(run_id, "calibrate", "success")
    assert f"unchanged: calibration {event['extra']['calibration'][:12]}" in town.log_so_far(
        run_id, "calibrate"
    )


def test_traffic_that_did_not_move_leaves_the_scales_as_they_are(town):
    states = town.calibrate("second")
    assert (states["drift"], states["moved"]) == ("success", "success")
    assert (states["calibrate"], states["accept"]) == ("skipped", "skipped")
    assert len(town.asset_events()) == 1


def nothing_moved(town, seen):
    """No stage was ever open, and version 1 holds the traffic and the title."""
    assert seen.rollout["opened"] == []
    assert {piece["version"] for piece in town.service()["line"]} == {"1"}
    assert town.service()["stable"]["version"] == "1"
    assert town.alias("champion") == "1"


def shares(town):
    totals = {}
    for piece in town.service()["line"]:
        totals[piece["arch"]] = totals.get(piece["arch"], 0) + piece["weight"] / 10_000
    return totals
