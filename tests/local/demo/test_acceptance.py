"""`holds` is computed from the figures beside it: every figure that breaks must break it."""

import copy
import re
import subprocess
from pathlib import Path

import pytest

from local.demo import acceptance

REPO = Path(__file__).resolve().parents[3]
PERCENTS = (1, 5)
STAGES = [
    {"percent": 1.0, "deviations_from_asked_share": 0.4, "mispredicted_requests": 0},
    {"percent": 5.0, "deviations_from_asked_share": 3.3, "mispredicted_requests": 0},
]
GOOD = {
    "outcome": "promoted",
    "version": "2",
    "verdict": None,
    "reviews": {"review_deploy": {"answer": "Approve", "by": "the demo", "user": "admin"}},
    "exposure": {"stages": STAGES, "client_failures": 0, "users_who_changed_sides": 0},
}
BAD = {
    "outcome": "turned_back",
    "verdict": {"action": "harm"},
    "exposure": {"stages": STAGES, "verdict_to_last_request_ms": 100.0},
}
ANONYMOUS = {"1": 10_000, "failed": 0}
TOLD = {
    "version": "3",
    "reason": "failures",
    "tag": "failures",
    "run": "failed",
    "verdict_in_log": True,
    "verdict_in_note": True,
}
REGISTRY = {
    "champion": "2",
    "good_version": "2",
    "good_run": "success",
    "bad": {"fail": TOLD, "slow": {**TOLD, "version": "4", "reason": "slow", "tag": "slow"}},
}
KILLED = {
    "errors": [],
    "killed": ["scheduler", "scheduler", "triggerer"],
    "percent_while_down": [5.0],
    "requests_while_down": 900,
    "failures_while_down": 0,
    "gate_afterwards": {"state": "success", "passed_by_itself": True},
    "outcome": "promoted",
    "openings_per_stage": {"0": 1, "1": 1},
    "marks": ["gate_50"],
    "refused": "holding before 100 %: no fresh pass: dwell",
    "refused_seconds_before_opening": 12.5,
    "looks_while_waiting": 50,
    "moves_while_waiting": 0,
    "opened_on": {"action": "pass", "percent": 50.0},
}


def broken(whole, path, value):
    """A copy of `whole` with the value at dotted `path` replaced."""
    changed = copy.deepcopy(whole)
    *way, last = path.split(".")
    place = changed
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return changed


def good(rollout, counts=ANONYMOUS, percents=PERCENTS, reviews=("review_deploy",)):
    return acceptance.good_rollout(rollout, counts, percents=percents, reviews=reviews)


def killed(facts):
    return acceptance.killed_airflow(facts, stages=2)


def test_the_figures_that_were_promised_hold():
    assert good(GOOD)["holds"] is True
    assert acceptance.bad_rollout(BAD)["holds"] is True
    assert acceptance.registry(REGISTRY)["holds"] is True
    assert killed(KILLED)["holds"] is True


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("outcome", "turned_back"),
        ("exposure.client_failures", 1),
        ("exposure.client_failures", None),
        ("exposure.users_who_changed_sides", 1),
        ("exposure.stages.0.mispredicted_requests", 1),
        ("exposure.stages.1.deviations_from_asked_share", 3.31),
        ("exposure.stages.1.deviations_from_asked_share", None),
        ("exposure.stages", []),
        ("exposure.stages", STAGES[1:]),
        ("reviews", {}),
        ("reviews.review_deploy.answer", "Reject"),
        ("reviews.review_deploy.answer", None),
    ],
)
def test_a_good_rollout_with_one_broken_figure_does_not_hold(path, value):
    assert good(broken(GOOD, path, value))["holds"] is False


def test_every_stage_of_the_spec_must_have_been_opened_and_every_review_asked():
    """A rollout that jumps from 5 % to 100 % is promoted as well."""
    assert good(GOOD, percents=(1, 5, 50))["holds"] is False
    assert good(GOOD, percents=())["holds"] is False
    assert good(GOOD, reviews=("review_deploy", "review_50"))["holds"] is False
    assert good(GOOD, reviews=())["holds"] is False


@pytest.mark.parametrize(
    "counts", [{}, {"1": 9_999, "failed": 0}, {"1": 10_000, "2": 1}, {"1": 10_000, "failed": 1}]
)
def test_anonymous_requests_must_all_be_asked_and_all_reach_stable(counts):
    assert good(GOOD, counts)["holds"] is False


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("outcome", "promoted"),
        ("exposure.stages", []),
        ("exposure.stages.1.percent", 50.0),
        ("exposure.verdict_to_last_request_ms", 100.1),
        ("exposure.verdict_to_last_request_ms", None),
    ],
)
def test_a_bad_rollout_with_one_broken_figure_does_not_hold(path, value):
    assert acceptance.bad_rollout(broken(BAD, path, value))["holds"] is False


def test_one_fault_that_came_through_breaks_the_line_for_all():
    assert acceptance.bad_rollouts({"fail": BAD, "slow": BAD})["holds"] is True
    assert acceptance.bad_rollouts({"fail": BAD, "slow": {**BAD, "outcome": "promoted"}})["holds"] is False
    assert acceptance.bad_rollouts({})["holds"] is False


@pytest.mark.parametrize(
    "path", ["champion", "good_version", "good_run", *(f"bad.slow.{name}" for name in TOLD)]
)
def test_the_registry_with_one_broken_fact_does_not_hold(path):
    """Also of the last bad version, not the first alone; its number alone proves nothing."""
    held = acceptance.registry(broken(REGISTRY, path, None))["holds"]
    assert held is (path == "bad.slow.version")


def test_the_tag_must_give_the_reason_of_the_verdict_and_not_any_text():
    assert acceptance.registry(broken(REGISTRY, "bad.fail.tag", "a person ended the run"))["holds"] is False


def test_without_a_bad_version_nothing_is_told_of_any():
    assert acceptance.registry({**REGISTRY, "bad": {}})["holds"] is False
    nobody = {**REGISTRY, "champion": None, "good_version": None}
    assert acceptance.registry(nobody)["holds"] is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("errors", ["_press: gate_50 is success and never waited"]),
        ("killed", []),
        ("killed", ["scheduler", "scheduler"]),
        ("killed", ["triggerer"]),
        ("percent_while_down", [0.0, 5.0]),
        ("percent_while_down", []),
        ("requests_while_down", 0),
        ("failures_while_down", 1),
        ("gate_afterwards", {"state": "success", "passed_by_itself": False}),
        ("gate_afterwards", {"state": "failed", "passed_by_itself": True}),
        ("outcome", "held"),
        ("openings_per_stage", {}),
        ("openings_per_stage", {"0": 1, "1": 2}),
        ("openings_per_stage", {"0": 1}),
        ("marks", []),
        ("marks", ["gate_50", "build"]),
        ("refused", None),
        ("refused_seconds_before_opening", 0.0),
        ("looks_while_waiting", 0),
        ("moves_while_waiting", 1),
        ("opened_on", {"action": "hold", "percent": 50.0}),
        ("opened_on", {"action": "pass", "percent": 5.0}),
        ("opened_on", None),
    ],
)
def test_a_killed_airflow_with_one_broken_fact_does_not_hold(name, value):
    assert killed({**KILLED, name: value})["holds"] is False


def test_what_went_wrong_before_the_figures_were_there_does_not_hold():
    """A kill that could not even begin leaves its error, and no figure."""
    assert killed({"errors": ["_kill: no such process"], "marks": []})["holds"] is False


def test_a_line_that_was_not_run_is_null_with_the_reason():
    row = killed(None)
    assert row["holds"] is None
    assert row["value"] is None
    assert row["reason"]


def test_nobody_who_judges_or_serves_can_know_which_version_is_bad():
    """The fault lives in the bad version's own command; gateway, load, controller and gate never name one."""
    places = ["serving", "plugins", "sluice", "local/load", "local/cluster"]
    listed = subprocess.run(
        ["git", "ls-files", *places], cwd=REPO, capture_output=True, text=True, check=True
    )
    files = [REPO / name for name in listed.stdout.split() if name.endswith(".py")]
    assert len(files) > 20
    words = re.compile(r"faulty|--fault\b|reject-long|local[./]demo")
    assert [str(path) for path in files if words.search(path.read_text())] == []
