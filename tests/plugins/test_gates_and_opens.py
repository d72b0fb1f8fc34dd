"""The tasks that raise traffic and the gates between them, against a server in the controller's place."""

import contextlib

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from plugins.gate import DISAGREEMENT, Look, Outcome
from plugins.operators import open_stage
from plugins.operators.open_stage import OpenStageOperator
from plugins.runs import RunFacts
from plugins.sensors.gate import GateSensor
from tests.plugins import pictures
from tests.plugins.pictures import EPOCH, ROLLOUT
from tests.plugins.runtime import Ti, answered, context
from tests.plugins.stand import refusal

GET = ("GET", f"/v1/rollouts/{ROLLOUT}")
LEASE = ("POST", f"/v1/rollouts/{ROLLOUT}/lease")
OPEN = ("POST", f"/v1/rollouts/{ROLLOUT}/open")
RESUME = ("POST", f"/v1/rollouts/{ROLLOUT}/resume")
OPENED = pictures.rollout(
    opened=[{"stage": 2, "percent": 50, "at": "2026-09-21T14:00:00+00:00", "acked_at": "a"}]
)


@pytest.fixture
def run(store, controller):
    """A run whose release asks for a review before 50 %, with the controller willing."""
    document = store({"review": {"before": [50], "timeout_s": 60}})
    facts = RunFacts(
        service="tiny",
        digest="cd" * 32,
        document=document,
        rollout=ROLLOUT,
        epoch=EPOCH,
        straight=False,
        run_label="run-1",
    )
    controller.answers = {GET: (200, pictures.rollout()), LEASE: (200, OPENED), OPEN: (200, OPENED)}
    return Ti(task_id="open_50", xcoms={("resolve", "return_value"): facts.to_xcom()})


def open_50(**changes):
    return OpenStageOperator(task_id="open_50", **{"stage": 2, "percent": 50, "last": False, **changes})


def test_an_approved_stage_is_opened_by_stage_and_epoch(run, controller):
    run.xcoms["review_50", "response"] = answered("Approve", "ada")
    assert open_50().execute(context(run))["percent"] == 50
    assert [asked.body for asked in controller.calls(*OPEN)] == [{"epoch": EPOCH, "stage": 2}]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(None, "no recorded response", id="marked-as-success"),
        pytest.param(answered("Approve", None), "nobody answered in time", id="a-default-is-no-answer"),
        pytest.param(answered("Reject", "ada"), "not approved: ada answered Reject", id="rejected"),
        pytest.param({"chosen_options": []}, "no recorded response", id="an-empty-answer"),
    ],
)
def test_without_a_persons_approval_the_controller_is_not_even_asked(run, controller, answer, why):
    run.xcoms["review_50", "response"] = answer
    with pytest.raises(AirflowFailException, match=why):
        open_50().execute(context(run))
    assert controller.asked == []


def test_without_a_rollout_of_its_own_a_task_opens_nothing(run, controller):
    run.xcoms.clear()
    with pytest.raises(AirflowFailException, match="resolve recorded no rollout"):
        open_50().execute(context(run))
    assert controller.asked == []


def test_a_pass_that_went_stale_is_waited_for(run, controller, monkeypatch):
    monkeypatch.setattr(open_stage, "PAUSE_S", 0.01)
    run.xcoms["review_50", "response"] = answered("Approve", "ada")
    stale = refusal("no-fresh-pass", "none", verdict={"action": "hold", "reason": "dwell"})
    busy = refusal("capacity", "2 of 6 replicas")
    controller.headers = {"Retry-After": "0"}
    controller.answers[OPEN] = [(409, stale), (503, busy), (200, OPENED)]
    open_50().execute(context(run))
    assert len(controller.calls(*OPEN)) == 3


def test_harm_is_not_waited_for(run, controller):
    run.xcoms["review_50", "response"] = answered("Approve", "ada")
    harm = refusal(
        "no-fresh-pass", "none", verdict={"action": "harm", "reason": "9 of 9 are the candidate's"}
    )
    controller.answers[OPEN] = (409, harm)
    with pytest.raises(AirflowFailException, match="9 of 9"):
        open_50().execute(context(run))


@pytest.mark.parametrize("code", ["ended", "wrong-stage", "stale-epoch", "gate-not-alive"])
def test_a_conflict_fails_for_good(run, controller, code):
    run.xcoms["review_50", "response"] = answered("Approve", "ada")
    controller.answers[OPEN] = (409, refusal(code, "not yours"))
    with pytest.raises(AirflowFailException, match="not yours"):
        open_50().execute(context(run))


def test_a_first_deployment_skips_the_stages_before_the_last_and_says_so(run, controller):
    run.xcoms["resolve", "return_value"]["straight"] = True
    with pytest.raises(AirflowSkipException, match="first deployment"):
        open_50().execute(context(run))
    assert controller.asked == []


BY = [
    pytest.param("airflow:promote__tiny:run-1:settle", 1, id="settle-of-this-run"),
    pytest.param("airflow:promote__tiny:run-0:settle", 0, id="settle-of-another-run"),
    pytest.param(DISAGREEMENT, 0, id="a-gate-whose-readings-disagree"),
    pytest.param("eve", 0, id="a-person"),
]


@pytest.mark.parametrize(("by", "lifted"), BY)
@pytest.mark.parametrize("task", ["open_50", "gate_50"])
def test_a_cleared_task_lifts_the_hold_of_its_own_runs_settle_and_no_other(run, controller, task, by, lifted):
    """A gate that is marked as done must not lead past the hold that says why it did not pass."""
    run.task_id = task
    run.xcoms["review_50", "response"] = answered("Approve", "ada")
    controller.answers[GET] = (200, {**OPENED, "held": {"since": "t", "reason": "r", "by": by}})
    controller.answers[RESUME] = (200, OPENED)
    with contextlib.suppress(TaskDeferred):
        (open_50() if task == "open_50" else gate_50()).execute(context(run))
    assert len(controller.calls(*RESUME)) == lifted


def gate_50():
    return GateSensor(task_id="gate_50", stage=2, percent=50, max_hold_s=3_600)


def test_a_gate_waits_without_a_worker_until_an_hour_after_the_stage_opened(run, controller):
    controller.answers[GET] = (200, OPENED)
    with pytest.raises(TaskDeferred) as deferred:
        gate_50().execute(context(run))
    _, values = deferred.value.trigger.serialize()
    assert values["deadline"] == "2026-09-21T15:00:00+00:00"
    assert (values["stage"], values["epoch"], values["rollout"]) == (2, EPOCH, ROLLOUT)
    assert [stage["percent"] for stage in values["policy"]["stages"]] == [1, 5, 50, 100]


def test_a_gate_judges_by_the_policy_that_the_controller_holds(run, controller):
    """It is stricter than the spec's where this release was turned back before."""
    stored = {**OPENED["policy"], "gates": {**OPENED["policy"]["gates"], "beta": 0.0025}}
    controller.answers[GET] = (200, {**OPENED, "policy": stored})
    with pytest.raises(TaskDeferred) as deferred:
        gate_50().execute(context(run))
    assert deferred.value.trigger.serialize()[1]["policy"]["gates"]["beta"] == 0.0025


def test_a_gate_of_a_stage_that_was_never_opened_fails(run):
    with pytest.raises(AirflowFailException, match="never opened"):
        gate_50().execute(context(run))


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.PASS])
def test_only_a_pass_is_a_success(run, outcome):
    event = Look(outcome=outcome, reason="the reason", verdict={}).to_event()
    with pytest.raises(AirflowFailException, match="the reason"):
        gate_50().decide(context(run), event)


def test_a_pass_leaves_its_numbers_for_the_next_review(run):
    event = Look(outcome=Outcome.PASS, reason="ok", verdict=pictures.verdict()).to_event()
    left = gate_50().decide(context(run), event)
    assert left["action"] == "pass"
    assert "| users.candidate | 7 |" in left["markdown"]
