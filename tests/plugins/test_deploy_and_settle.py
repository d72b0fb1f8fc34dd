"""The candidate comes beside stable, and every end of a run leaves traffic where the ledger says."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from airflow.sdk.exceptions import AirflowFailException

from plugins.hooks.cluster import Cluster
from plugins.hooks.registry import CANDIDATE, CHAMPION, PREVIOUS, Registry, RegistryHook
from plugins.operators.deploy import DeployOperator
from plugins.operators.settle import SettleOperator
from plugins.operators.verdict import VerdictOperator
from plugins.runs import RunFacts
from plugins.settings import Addresses
from sluice.errors import RetryableError
from tests.plugins import pictures
from tests.plugins.pictures import EPOCH, ROLLOUT
from tests.plugins.runtime import Ti, answered, context
from tests.plugins.small_server import READY
from tests.plugins.stand import refusal
from tests.plugins.test_cluster import workload
from tests.sluice.specs import parse

CHANGES = {
    "targets.0.selector": {"kubernetes.io/os": "linux"},
    "server": {
        "image": "python:3.11-slim",
        "command": ["python", "-c", READY],
        "resources": {"cpu": "10m", "memory": "128Mi"},
    },
    "review": {"before": ["deploy"], "timeout_s": 60},
}
NAME = "tiny-v2-cpu-avx2"
HERE = f"/v1/rollouts/{ROLLOUT}"
GET, LEASE, ATTACH = ("GET", HERE), ("POST", f"{HERE}/lease"), ("POST", f"{HERE}/candidate")
RETREAT, HOLD, PROMOTE = (("POST", f"{HERE}/{name}") for name in ("retreat", "hold", "promote"))
SERVICE = ("GET", "/v1/services/tiny")


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    """Three versions of the service, in a registry on SQLite."""
    folder = tmp_path_factory.mktemp("mlflow")
    made = Registry(f"sqlite:///{folder / 'mlflow.db'}")
    made.client.create_registered_model("tiny")
    for _ in range(3):
        made.client.create_model_version("tiny", source=str(folder))
    return made


@pytest.fixture
def registry(mlflow, monkeypatch):
    """The registry behind Airflow's connection: version 1 is champion, version 2 the candidate."""
    monkeypatch.setattr(RegistryHook, "get_conn", lambda hook: mlflow)
    mlflow.client.set_registered_model_alias("tiny", PREVIOUS, "1")
    mlflow.client.delete_registered_model_alias("tiny", PREVIOUS)
    for alias, version in ((CHAMPION, "1"), (CANDIDATE, "2")):
        mlflow.client.set_registered_model_alias("tiny", alias, version)
    return mlflow


@pytest.fixture
def run(store, controller, kube, registry, tmp_path, monkeypatch):
    """A registered version 2, approved by a person, and a controller that knows the rollout."""
    monkeypatch.setenv("SLUICE_STORE_VOLUME", json.dumps({"hostPath": {"path": str(tmp_path)}}))
    facts = RunFacts(
        service="tiny",
        digest="cd" * 32,
        document=store(CHANGES),
        rollout=ROLLOUT,
        epoch=EPOCH,
        straight=False,
        run_label="run-1",
    )
    controller.answers = {GET: (200, pictures.rollout()), LEASE: (200, {}), ATTACH: (200, {})}
    registered = {"version": "2", "card": "c", "engines": {"cpu-avx2": "fp32"}, "missing": []}
    return Ti(
        task_id="deploy",
        xcoms={
            ("resolve", "return_value"): facts.to_xcom(),
            ("register", "return_value"): registered,
            ("review_deploy", "response"): answered("Approve", "ada"),
        },
    )


def deploy(run):
    return DeployOperator(task_id="deploy").execute(context(run))


def names(kube):
    return [item.metadata.name for item in kube.apps.list_namespaced_deployment(kube.namespace).items]


def test_the_controller_hears_of_a_candidate_once_it_is_ready(run, controller, kube):
    assert deploy(run)["version"] == "2"
    (asked,) = controller.calls(*ATTACH)
    assert asked.body == {
        "epoch": EPOCH,
        "version": "2",
        "signature": parse(CHANGES).signature.to_dict(),
        "workloads": [{"arch": "cpu-avx2", "deployment": NAME, "port": 8000}],
    }
    assert kube.apps.read_namespaced_deployment(NAME, kube.namespace).status.ready_replicas == 1


def test_a_signature_that_breaks_clients_stops_before_a_pod_is_made(run, controller, kube):
    signature = parse({**CHANGES, "model.outputs.0.name": "z"}).signature.to_dict()
    controller.answers[SERVICE] = (200, {"stable": {"version": "1", "signature": signature}})
    with pytest.raises(AirflowFailException, match=r"version 1 would break: output z: .*; output y: "):
        deploy(run)
    assert names(kube) == []
    assert controller.calls(*ATTACH) == []


@pytest.mark.parametrize(("task", "key"), [("review_deploy", "response"), ("register", "return_value")])
def test_a_task_that_was_merely_marked_as_done_deploys_nothing(run, kube, task, key):
    del run.xcoms[task, key]
    with pytest.raises(AirflowFailException, match=f"{task}.*marked as success"):
        deploy(run)
    assert names(kube) == []


# --- settle


def settle(run, *, keep_s=3_600, **states):
    run.task_id, run.states = "settle", states
    settled = SettleOperator(task_id="settle", spec=parse({**CHANGES, "keep_turned_back_s": keep_s})).execute(
        context(run)
    )
    run.xcoms["settle", "return_value"] = settled
    return settled["outcome"]


def cluster(kube):
    return Cluster(kube.api, Addresses(namespace=kube.namespace, store_volume={"emptyDir": {}}))


def aliases(registry):
    return {alias: registry.alias("tiny", alias) for alias in (CHAMPION, PREVIOUS, CANDIDATE)}


def stable_is(version):
    return (200, {"stable": {"version": version}, "rollout": None})


PROMOTED = pictures.rollout(
    state="promoted",
    stable={
        "version": "1",
        "workloads": [{"arch": "sm_80", "deployment": "tiny-v1-sm-80", "port": 8000}],
    },
    verdict=pictures.verdict(),
    reason="the watch passed",
    ended_at="t",
)


def verdict(run):
    return VerdictOperator(task_id="verdict").execute(context(run))


def test_every_gate_passed_is_promoted_and_the_previous_version_retired(run, controller, kube, registry):
    cluster(kube).apply(workload(version="1"))
    controller.answers |= {PROMOTE: (200, PROMOTED), SERVICE: stable_is("2")}
    assert settle(run, passed="success") == "promoted"
    assert [asked.body for asked in controller.calls(*PROMOTE)] == [{"epoch": EPOCH}]
    assert names(kube) == []
    assert aliases(registry) == {CHAMPION: "2", PREVIOUS: "1", CANDIDATE: None}
    assert "the watch passed" in run.xcoms["settle", "note"]
    assert verdict(run) == "promoted: the watch passed"


def test_an_older_run_that_is_settled_again_takes_nothing_from_the_version_that_is_stable_by_now(
    run, controller, kube, registry
):
    """Version 2 was promoted long ago, then version 3: `champion` follows the controller, not the cleared task."""
    registry.promote("tiny", "2")
    registry.promote("tiny", "3")
    controller.answers |= {GET: (200, PROMOTED), SERVICE: stable_is("3")}
    assert settle(run, passed="success") == "promoted"
    assert aliases(registry) == {CHAMPION: "3", PREVIOUS: "2", CANDIDATE: None}


def test_a_previous_version_that_is_stable_again_keeps_its_pods(run, controller, kube):
    cluster(kube).apply(workload(version="1"))
    controller.answers |= {GET: (200, PROMOTED), SERVICE: stable_is("1")}
    assert settle(run, passed="success") == "promoted"
    assert names(kube) == ["tiny-v1-sm-80"]


def test_a_promotion_waits_for_a_fresh_pass(run, controller):
    controller.answers[PROMOTE] = (409, refusal("no-fresh-pass", "stale", verdict={"action": "hold"}))
    with pytest.raises(RetryableError, match="not promoted yet"):
        settle(run, passed="success")


def test_a_failed_task_holds_the_rollout_and_moves_no_traffic(run, controller):
    controller.answers[HOLD] = (
        200,
        pictures.rollout(percent=5.0, held={"since": "t", "by": "b", "reason": "why"}),
    )
    assert settle(run, gate_5="failed", passed="upstream_failed") == "held"
    (asked,) = controller.calls(*HOLD)
    assert asked.body["reason"].startswith("gate_5 failed")
    assert asked.body["by"] == "airflow:promote__tiny:run-1:settle"
    assert controller.calls(*RETREAT) == controller.calls(*PROMOTE) == []
    with pytest.raises(AirflowFailException, match="held: 5 % of the traffic stays"):
        verdict(run)


ENDS = [
    pytest.param({"passed": "skipped"}, {}, "cancelled", id="a-person-ended-it"),
    pytest.param(
        {"passed": "upstream_failed"},
        {"percent": 0, "stage": None, "state": "preparing"},
        "abandoned",
        id="no-share-yet",
    ),
]


@pytest.mark.parametrize(("states", "changes", "goal"), ENDS)
def test_traffic_goes_back_with_the_outcome_that_fits(run, controller, states, changes, goal):
    controller.answers[GET] = (200, pictures.rollout(**changes))
    controller.answers[RETREAT] = lambda asked: (
        200,
        pictures.rollout(state=goal, reason=asked.body["reason"]),
    )
    assert settle(run, **states) == goal
    assert [asked.body["outcome"] for asked in controller.calls(*RETREAT)] == [goal]
    with pytest.raises(AirflowFailException, match=goal):
        verdict(run)


@pytest.mark.parametrize(
    ("who", "words"), [("ada", "ada answered Reject"), (None, "nobody answered in time")]
)
def test_a_rejection_retreats_as_rejected_and_names_who(run, controller, who, words):
    run.xcoms["review_deploy", "response"] = answered("Reject", who)
    controller.answers[RETREAT] = lambda asked: (
        200,
        pictures.rollout(state="rejected", reason=asked.body["reason"]),
    )
    assert settle(run, passed="skipped") == "rejected"
    assert words in controller.calls(*RETREAT)[0].body["reason"]


def test_what_the_guard_did_already_is_only_written_down(run, controller, kube):
    """Turned back by the controller itself: no call moves anything, and the pods stay to be looked at."""
    deploy(run)
    attached = {"version": "2", "workloads": [{"arch": "cpu-avx2", "deployment": NAME, "port": 8000}]}
    over = pictures.rollout(state="turned_back", reason="harm: 9 of 9", candidate=attached, ended_at="t")
    controller.answers[GET] = (200, over)
    assert settle(run, gate_5="failed", passed="upstream_failed") == "turned_back"
    assert [
        asked
        for asked in controller.asked
        if asked.method == "POST" and asked.path.endswith(("retreat", "hold"))
    ] == []
    kept = kube.apps.read_namespaced_deployment(NAME, kube.namespace).metadata.annotations
    assert "sluice.dev/delete-after" in kept
    with pytest.raises(AirflowFailException, match="turned_back: harm: 9 of 9"):
        verdict(run)


@pytest.mark.parametrize(("keep_s", "left"), [(60, ["tiny-v1-sm-80", NAME]), (0, ["tiny-v1-sm-80"])])
def test_pods_that_never_became_ready_go_the_way_of_those_of_a_version_that_was_turned_back(
    run, controller, kube, monkeypatch, keep_s, left
):
    """`deploy` fails after it made them and before it could record them: nobody else will ever ask for them."""
    monkeypatch.setattr("plugins.operators.deploy.READY_TIMEOUT_S", 0.0)
    cluster(kube).apply(workload(version="1"))
    with pytest.raises(RetryableError, match="not ready after 0 s"):
        deploy(run)
    preparing = {"percent": 0, "stage": None, "state": "preparing"}
    controller.answers |= {
        GET: (200, pictures.rollout(**preparing)),
        RETREAT: (200, pictures.rollout(**preparing | {"state": "abandoned", "reason": "r"})),
        SERVICE: stable_is("1"),
    }
    assert settle(run, keep_s=keep_s, deploy="failed", passed="upstream_failed") == "abandoned"
    assert sorted(names(kube)) == left
    assert cluster(kube).sweep("tiny", now=datetime.now(UTC) + timedelta(seconds=61)) == left[1:]
    assert names(kube) == ["tiny-v1-sm-80"]


def test_a_rollout_that_resolve_began_before_it_died_is_found_again(run, controller):
    run.xcoms.pop(("resolve", "return_value"))
    theirs = pictures.rollout(percent=0, stage=None, state="preparing", run_id="run-1")
    controller.answers[SERVICE] = (200, {"stable": None, "rollout": theirs})
    controller.answers[RETREAT] = (200, pictures.rollout(state="abandoned", reason="r"))
    assert settle(run, resolve="failed", passed="upstream_failed") == "abandoned"


@pytest.mark.parametrize(
    ("skipped", "outcome"), [("nothing to promote: stable already", "skipped"), (None, "failed")]
)
def test_without_a_rollout_only_a_said_skip_is_green(run, controller, skipped, outcome):
    run.xcoms.pop(("resolve", "return_value"))
    if skipped:
        run.xcoms["resolve", "skipped"] = skipped
    other = pictures.rollout(run_id="somebody-else")
    controller.answers[SERVICE] = (200, {"stable": None, "rollout": other})
    assert settle(run, passed="skipped") == outcome
    assert {asked.method for asked in controller.asked} == {"GET"}
    if skipped:
        assert verdict(run) == f"skipped: {skipped}"
    else:
        with pytest.raises(AirflowFailException, match="no rollout was begun"):
            verdict(run)


def test_a_run_that_settle_did_not_reach_is_red(run):
    with pytest.raises(AirflowFailException, match="settle recorded nothing"):
        verdict(run)


def test_settling_twice_says_the_same(run, controller):
    controller.answers[GET] = (200, pictures.rollout(state="cancelled", reason="by hand", ended_at="t"))
    first = settle(run, passed="skipped")
    assert settle(run, passed="skipped") == first
