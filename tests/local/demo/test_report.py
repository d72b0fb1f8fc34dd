"""What the report says beside its figures: who answered a review, whose failure it was, what each place was told."""

import io
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from local.demo import report
from local.demo.exposure import seconds
from local.demo.follow import Seen
from local.demo.report import TAG_CHARS, registry_facts, reviews_of, told, watched_until
from local.demo.scenario import Options, Played, Scenario
from local.load.journal import Sent
from local.stack.programs import Layout
from tests.local.demo.fakes import FakeAirflow, FakeStack, task
from tests.plugins.stand import Stand

T0 = "2026-01-01T00:00:00.000000+00:00"
T1 = "2026-01-01T00:01:00.000000+00:00"


def played(rollout=None, *, reviews=(), answered=(), tasks=(), state="success"):
    seen = Seen(run_id="r", state=state, rollout=rollout, tasks=list(tasks), reviews_answered=list(answered))
    version = str((rollout or {}).get("version", ""))
    return Played("version", version, seen, 1.0, {}, reviews=list(reviews))


# --- reviews ------------------------------------------------------------------------------------


def review(name, *, user="admin", chosen=("Approve",)):
    who = {"id": user, "name": user} if user else None
    row = {"responded_by_user": who, "chosen_options": list(chosen) if chosen else None, "responded_at": T0}
    return {"task_instance": {"task_id": name}, **row}


@pytest.mark.parametrize(
    ("row", "answered", "answer", "by"),
    [
        pytest.param(review("review_deploy"), ["review_deploy"], "Approve", "the demo", id="by-the-demo"),
        pytest.param(review("review_deploy"), [], "Approve", "a person", id="by-a-person"),
        pytest.param(review("review_deploy", chosen=["Reject"]), [], "Reject", "a person", id="rejected"),
        pytest.param(
            review("review_deploy", user=None, chosen=["Reject"]), [], "Reject", "nobody", id="time-ran-out"
        ),
        pytest.param(review("review_deploy", user=None, chosen=None), [], None, "nobody", id="was-marked"),
    ],
)
def test_a_review_says_what_was_answered_and_by_whom(row, answered, answer, by):
    found = reviews_of(played(reviews=[row], answered=answered))
    assert (found["review_deploy"]["answer"], found["review_deploy"]["by"]) == (answer, by)


def test_the_terminal_says_engine_and_reviews_of_each_version_in_a_line_each():
    row = {
        "name": "version 2",
        "reason": "the watch passed",
        "engines": {
            "cpu-avx2": {"precision": "int8", "reason": "fastest that is accurate enough", "rejected": {}}
        },
        "reviews": reviews_of(played(reviews=[review("review_deploy")], answered=["review_deploy"])),
    }
    assert told(row) == [
        "  version 2: the watch passed",
        "    engine: int8 on cpu-avx2: fastest that is accurate enough",
        "    reviews: review_deploy: Approve by the demo (admin)",
    ]
    bare = told({"name": "v", "reason": None, "engines": {}, "reviews": {}})
    assert bare == ["  v: -", "    engine: -", "    reviews: none was asked for"]


# --- whose failure ------------------------------------------------------------------------------


def test_a_failure_is_a_rollout_s_until_the_next_one_opens_or_the_load_ends():
    """Between the two the version that lost its traffic is taken down."""
    first, second = played({"opened": []}), played({"opened": [{"at": T0}, {"at": T1}]})
    third = played({"opened": [{"at": T1}]})
    assert watched_until([first, second, third], 0, math.inf) == seconds(T0)
    assert watched_until([first, second, third], 1, math.inf) == seconds(T1)
    assert watched_until([first, second, third], 2, seconds(T1) + 9) == seconds(T1) + 9


def test_a_next_rollout_that_never_opened_does_not_end_the_watch():
    rollouts = [
        played({"opened": [{"at": T0}]}),
        played(None),
        played({"opened": []}),
        played({"opened": [{"at": T1}]}),
    ]
    assert watched_until(rollouts, 0, math.inf) == seconds(T1)
    assert watched_until(rollouts[:3], 0, seconds(T1)) == seconds(T1)


# --- what was told of each version --------------------------------------------------------------

MLFLOW = "/api/2.0/mlflow"


def bad(version, reason):
    rollout = {"version": version, "verdict": {"reason": reason}}
    return played(rollout, tasks=[task("verdict", "failed")], state="failed")


def test_every_bad_version_is_looked_up_and_not_the_first_alone():
    long = "harm: " + "x" * 300
    versions = {"3": "harm: failures", "4": long[:TAG_CHARS]}

    def version(asked):
        number = asked.query["version"]
        return 200, {"model_version": {"tags": [{"key": "reason", "value": versions[number]}]}}

    alias = (200, {"model_version": {"version": "2"}})
    paths = {"registered-models/alias": alias, "model-versions/get": version}
    answers = {("GET", f"{MLFLOW}/{path}"): answer for path, answer in paths.items()}
    airflow = FakeAirflow(logs={"verdict": f"turned_back: {long}"}, note=f"turned_back: {long}")
    with Stand(answers) as stand:
        stack = FakeStack(airflow, layout=SimpleNamespace(url=lambda part: f"http://127.0.0.1:{stand.port}"))
        rollouts = {"fail": bad("3", "harm: failures"), "slow": bad("4", long)}
        facts = registry_facts(stack, played({"version": "2"}), rollouts)
    assert (facts["champion"], facts["good_version"], facts["good_run"]) == ("2", "2", "success")
    fail, slow = facts["bad"]["fail"], facts["bad"]["slow"]
    assert (fail["run"], fail["tag"], fail["reason"]) == ("failed", "harm: failures", "harm: failures")
    assert (fail["verdict_in_log"], fail["verdict_in_note"]) == (False, False)
    assert (slow["tag"], slow["reason"]) == (long[:TAG_CHARS], long[:TAG_CHARS])
    assert (slow["verdict_in_log"], slow["verdict_in_note"]) == (True, True)


# --- the whole ----------------------------------------------------------------------------------

HARM = {"action": "harm", "reason": "harm: failures", "at": T1}


def rollout(version, percents, **more):
    """Opened at T0, ended at T1; nobody but one user ever asked."""
    opened = [{"stage": turn, "percent": x, "at": T0, "acked_at": T0} for turn, x in enumerate(percents)]
    rest = {"salt": "s", "verdict": None, "reason": "why", "release_digest": "d", "zero_acked_at": None}
    times = {"started_at": T0, "ended_at": T1}
    return {"version": version, "candidate": {"version": version}, "opened": opened, **rest, **times, **more}


@pytest.fixture
def demo(tmp_path):
    """A scenario that has been played on a stack of which only Airflow, the ledger and MLflow can be asked."""
    with Stand() as stand:
        layout = replace(Layout.make(tmp_path, tmp_path), mlflow=stand.port)
        service = {"rollout": None, "line": [{"arch": "cpu-avx2", "weight": 10_000}]}
        stack = FakeStack(FakeAirflow(logs={"verdict": "harm: failures"}), service=service, layout=layout)
        options = Options(faults=("fail",), rate_rps=1.0, users=1, review=False, kill_airflow=False)
        scenario = Scenario(stack, options, Console(file=io.StringIO()), tmp_path)
        row = Sent(sent_at_s=seconds(T0), ended_at_s=seconds(T0), uid="u", version="3", status=200, tokens=3)
        scenario.journal.write_text(row.to_line())
        yield scenario


def test_the_whole_report_is_json_with_every_line_and_a_text_for_people(demo):
    rollouts = [
        rollout("1", [100], state="promoted"),
        rollout("2", [1, 5, 50, 100], state="promoted"),
        rollout("3", [1], state="turned_back", verdict=HARM, zero_acked_at=T1),
    ]
    runs = [played(each, state="failed" if each["version"] == "3" else "success") for each in rollouts]
    found = json.loads(json.dumps(report.make(demo, runs, seconds=1.0)))
    lines = {line["id"]: line for line in found["acceptance"]}
    assert list(lines) == ["demo.2", "demo.3", "demo.4", "demo.5"]
    assert lines["demo.2"]["value"]["opened_percents"] == [1, 5, 50, 100]
    assert lines["demo.3"]["holds"] is True
    assert (lines["demo.2"]["holds"], lines["demo.4"]["holds"], lines["demo.5"]["holds"]) == (
        False,
        False,
        None,
    )
    text = Console(file=io.StringIO(), width=132, record=True)
    report.show(found, text)
    assert "engine: -" in text.export_text()
