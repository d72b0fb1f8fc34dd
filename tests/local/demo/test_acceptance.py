"""`holds` is computed from the figures beside it: every figure that breaks must break it."""

import copy
import re
import subprocess
from pathlib import Path

import pytest

from local.demo import acceptance

REPO = Path(__file__).resolve().parents[3]
STAGES = [
    {"percent": 1.0, "deviations_from_asked_share": 0.4, "mispredicted_requests": 0},
    {"percent": 5.0, "deviations_from_asked_share": 3.3, "mispredicted_requests": 0},
]
GOOD = {
    "outcome": "promoted",
    "version": "2",
    "verdict": None,
    "exposure": {"stages": STAGES, "client_failures": 0, "users_who_changed_sides": 0},
}
BAD = {
    "outcome": "turned_back",
    "verdict": {"action": "harm"},
    "exposure": {"stages": STAGES, "verdict_to_last_request_ms": 100.0},
}
ANONYMOUS = {"1": 10_000, "failed": 0}
REGISTRY = {
    "champion": "2",
    "good_version": "2",
    "bad_version_reason": "failures",
    "good_run": "success",
    "bad_run": "failed",
    "verdict_in_log": True,
    "verdict_in_note": True,
}
KILLED = {
    "percent_while_down": [5.0],
    "requests_while_down": 900,
    "failures_while_down": 0,
    "outcome": "promoted",
    "openings_per_stage": {"0": 1, "1": 1},
    "weights_before_marks": [1],
    "weights_after_marks": [1],
    "marks": ["gate_5"],
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


def test_the_figures_that_were_promised_hold():
    assert acceptance.good_rollout(GOOD, ANONYMOUS)["holds"] is True
    assert acceptance.bad_rollout(BAD)["holds"] is True
    assert acceptance.registry(REGISTRY)["holds"] is True
    assert acceptance.killed_airflow(KILLED)["holds"] is True


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
    ],
)
def test_a_good_rollout_with_one_broken_figure_does_not_hold(path, value):
    assert acceptance.good_rollout(broken(GOOD, path, value), ANONYMOUS)["holds"] is False


@pytest.mark.parametrize(
    "counts", [{}, {"1": 9_999, "failed": 0}, {"1": 10_000, "2": 1}, {"1": 10_000, "failed": 1}]
)
def test_anonymous_requests_must_all_be_asked_and_all_reach_stable(counts):
    assert acceptance.good_rollout(GOOD, counts)["holds"] is False


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


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_the_registry_with_one_broken_fact_does_not_hold(name):
    assert acceptance.registry({**REGISTRY, name: None})["holds"] is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("percent_while_down", [0.0, 5.0]),
        ("requests_while_down", 0),
        ("failures_while_down", 1),
        ("outcome", "held"),
        ("openings_per_stage", {}),
        ("openings_per_stage", {"0": 1, "1": 2}),
        ("weights_after_marks", [2]),
        ("marks", []),
    ],
)
def test_a_killed_airflow_with_one_broken_fact_does_not_hold(name, value):
    assert acceptance.killed_airflow({**KILLED, name: value})["holds"] is False


def test_a_line_that_was_not_run_is_null_with_the_reason():
    row = acceptance.killed_airflow(None)
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
