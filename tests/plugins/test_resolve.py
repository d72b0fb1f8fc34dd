"""Which run promotes what: checkpoint, release, and the controller's leave."""

import json
import re

import pytest
from airflow.sdk.exceptions import AirflowFailException, DownstreamTasksSkipped

from artifacts.calibrations import Accepted, Calibrations
from artifacts.store import Store
from plugins.operators.resolve import ResolveOperator, find_checkpoint
from plugins.runs import run_label
from sluice.errors import FatalError, RetryableError
from sluice.release import dataset_rules
from tests.plugins.runtime import Ti, context
from tests.plugins.stand import refusal
from tests.sluice.specs import parse

BEGIN = ("POST", "/v1/rollouts")


@pytest.fixture
def world(tmp_path, monkeypatch, controller):
    """Two checkpoints at the spec's source, an empty store, and a controller that lets the run begin."""
    monkeypatch.setenv("SLUICE_STORE", str(tmp_path / "store"))
    for name in ("2026-01", "2026-02"):
        folder = tmp_path / "source" / name
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_text(name)
    (tmp_path / "source" / "zz-a-file").write_text("no folder")
    (tmp_path / "source" / ".2026-03-upload").mkdir()
    controller.answers = {BEGIN: begun}
    return tmp_path


def begun(asked):
    digest = asked.body["release_digest"]
    head = {"id": "tiny-3", "epoch": 3, "state": "preparing", "first_deployment": False, "reason": None}
    return 201, {**head, "release_digest": digest}


def resolve(world, *, params=None, run_type="manual", **changes):
    spec = parse({"model.source": str(world / "source"), **changes})
    ti = Ti(task_id="resolve")
    operator = ResolveOperator(task_id="resolve", spec=spec)
    return ti, lambda: operator.poke(context(ti, params=params, run_type=run_type))


def test_the_newest_checkpoint_becomes_a_release_in_the_store_before_anybody_is_asked(world, controller):
    _, poke = resolve(world)
    facts = poke().xcom_value
    stored = json.loads((world / "store" / "release" / facts["document"] / "release.json").read_text())
    (asked,) = controller.asked
    assert asked.body["release_digest"] == facts["digest"] == stored["digest"]
    assert asked.body["run_id"] == "run-1"
    assert asked.body["on_active"] == "refuse"
    assert [stage["percent"] for stage in asked.body["policy"]["stages"]] == [1, 5, 50, 100]
    weights = world / "store" / "checkpoint" / stored["checkpoint_sha256"] / "weights.bin"
    assert weights.read_text() == "2026-02"
    assert (facts["rollout"], facts["epoch"], facts["straight"]) == ("tiny-3", 3, False)


def test_a_retry_asks_with_the_same_words(world, controller):
    _, poke = resolve(world)
    poke()
    poke()
    first, second = (asked.body for asked in controller.asked)
    assert first == second


def test_the_form_reaches_the_release_and_its_policy(world, controller):
    form = {
        "checkpoint": "2026-01",
        "dwell_s": 7,
        "server_env": {"A": "b"},
        "retry_reason": "fixed",
        "review": None,
    }
    _, poke = resolve(world, params={**form, "precisions": None, "server_command": None})
    facts = poke().xcom_value
    body = controller.asked[0].body
    assert {stage["dwell_s"] for stage in body["policy"]["stages"]} == {7}
    assert body["retry_reason"] == "fixed"
    stored = json.loads((world / "store" / "release" / facts["document"] / "release.json").read_text())
    assert stored["spec"]["server"]["env"] == {"A": "b"}


@pytest.mark.parametrize(
    ("changes", "params", "words"),
    [
        pytest.param(
            {"model.source": "/nowhere"}, {}, ["model.source /nowhere", "put a checkpoint"], id="no-source"
        ),
        pytest.param(
            {}, {"checkpoint": "2025"}, ["params.checkpoint '2025'", "2026-02"], id="no-such-checkpoint"
        ),
        pytest.param(
            {}, {"review": [50]}, ["params.review = [50]", "review.before"], id="a-review-without-a-task"
        ),
        pytest.param({}, {"retry_resaon": "x"}, ["retry_resaon = 'x'", "retry_reason"], id="no-such-param"),
    ],
)
def test_bad_input_fails_for_good_with_its_name_and_the_next_step(world, controller, changes, params, words):
    _, poke = resolve(world, params=params, **changes)
    with pytest.raises(AirflowFailException) as caught:
        poke()
    assert all(word in str(caught.value) for word in words)
    assert controller.asked == []


def test_an_empty_source_is_not_an_old_release(tmp_path):
    with pytest.raises(FatalError, match="holds no checkpoint folder"):
        find_checkpoint(tmp_path, None)


ACTIVE = refusal(
    "active-rollout", "rollout tiny-2 of run 'nightly' is running", running={"rollout": "tiny-2"}
)


def test_a_second_run_is_refused_naming_the_one_that_runs(world, controller):
    controller.answers[BEGIN] = (409, ACTIVE)
    _, poke = resolve(world)
    with pytest.raises(AirflowFailException, match="tiny-2 of run 'nightly'"):
        poke()


def test_on_active_wait_looks_again_later_and_then_begins(world, controller):
    controller.answers[BEGIN] = [(409, ACTIVE), begun]
    _, poke = resolve(world, on_active="wait")
    assert not poke()
    assert poke().xcom_value["rollout"] == "tiny-3"
    assert controller.asked[0].body["on_active"] == "wait"


@pytest.mark.parametrize("on_active", ["refuse", "wait", "supersede"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refusal("already-stable", "this release was here before"), id="already-stable"),
        pytest.param(refusal("turned-back", "this release was here before"), id="turned-back"),
        pytest.param(
            refusal(
                "active-rollout",
                "this release was here before: it is being rolled out already",
                running={"rollout": "tiny-2"},
                same_release=True,
            ),
            id="being-rolled-out",
        ),
    ],
)
def test_nothing_new_ends_a_scheduled_run_green_and_fails_a_triggered_one(
    world, controller, answer, on_active
):
    controller.answers[BEGIN] = (409, answer)
    ti, poke = resolve(world, run_type="scheduled", on_active=on_active)
    assert poke()
    assert "this release was here before" in ti.xcoms["resolve", "skipped"]
    assert ("resolve", "return_value") not in ti.xcoms
    _, poke = resolve(world, on_active=on_active)
    with pytest.raises(AirflowFailException, match="this release was here before"):
        poke()


def test_a_skip_leaves_only_the_teardowns(world, controller):
    from plugins.promotion import build_dag
    from plugins.settings import Addresses

    controller.answers[BEGIN] = (409, refusal("already-stable", "nothing to do"))
    spec = parse({"model.source": str(world / "source")})
    dag = build_dag(spec, Addresses(namespace="n", store_volume={"emptyDir": {}}))
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        dag.get_task("resolve").poke(context(Ti(task_id="resolve"), run_type="scheduled"))
    assert set(skipped.value.tasks) == set(dag.task_ids) - {"resolve", "settle", "verdict"}


def test_a_controller_that_is_away_is_tried_again(world, controller):
    controller.answers[BEGIN] = (503, refusal("ledger", "locked"))
    _, poke = resolve(world)
    with pytest.raises(RetryableError):
        poke()


def test_a_cleared_resolve_does_not_take_up_a_rollout_that_has_ended(world, controller):
    def over(asked):
        return 200, {**begun(asked)[1], "state": "turned_back", "reason": "harm"}

    controller.answers[BEGIN] = over
    _, poke = resolve(world)
    with pytest.raises(AirflowFailException, match=r"turned_back: harm.*trigger a new run"):
        poke()


@pytest.mark.parametrize(
    "run_id", ["nightly", "manual__2026-11-24T03:47:29.12+00:00", "x" * 200, "ö" * 9, "-a-"]
)
def test_a_run_id_becomes_a_label_of_its_own(run_id):
    label = run_label(run_id)
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", label)
    assert (label == run_id) == bool(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", run_id))


def test_a_promotion_is_calibrated_on_what_was_accepted_where_it_asks_for_int8(world, controller):
    spec = {"recording": {"source": "recordings/tiny"}, "precisions": ["fp32", "int8"]}
    store = Store(world / "store")
    for kind, key in (("dataset", "a" * 64), ("calibration", "b" * 64)):
        with store.staged(kind, key) as draft:
            (draft.path / "file").write_text("x")
            draft.publish({"passed": True, "rules": dataset_rules(parse(spec))})
    Calibrations(store).accept("tiny", Accepted(dataset="a" * 64, calibration="b" * 64))
    _, asked = resolve(world, **spec)
    _, plain = resolve(world, params={"precisions": ["fp32"]}, **spec)
    documents = [
        json.loads((store.path("release", poke().xcom_value["document"]) / "release.json").read_text())
        for poke in (asked, plain)
    ]
    assert [document.get("calibrated_on") for document in documents] == [
        {"dataset": "a" * 64, "reuse": "b" * 64},
        None,
    ]
