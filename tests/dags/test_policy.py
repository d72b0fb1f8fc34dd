"""What holds for every DAG of the repository: limits, rights, and who may end a run how."""

from datetime import timedelta

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.serialization.serialized_objects import DagSerialization

from plugins.operators.open_stage import OpenStageOperator
from plugins.promotion import build_dag
from plugins.sensors.gate import GateSensor
from plugins.settings import Addresses
from tests.sluice.specs import PINNED, parse

ADDRESSES = Addresses(namespace="n", store_volume={"emptyDir": {}})
REVIEWED = {"review": {"before": ["deploy", 5, 100], "timeout_s": 7, "assigned_users": ["ada", "bob"]}}


def build(**changes):
    return build_dag(parse(changes), ADDRESSES)


@pytest.fixture(scope="session")
def dags(bag):
    """The repository's DAGs and one that asks for every review."""
    return [*bag.dags.values(), build(**REVIEWED)]


@pytest.fixture(scope="session")
def promotions(dags):
    """Those that move traffic."""
    return [dag for dag in dags if dag.dag_id.startswith("promote__")]


def pods(dag):
    """(task id, what the pod operator is told), mapped ones once for each of their pods."""
    for task in dag.tasks:
        if isinstance(task, KubernetesPodOperator):
            yield task.task_id, vars(task)
        elif getattr(task, "operator_class", None) is KubernetesPodOperator:
            for values in task.expand_input.value:
                yield task.task_id, {**task.partial_kwargs, **values}


def test_the_repositorys_dags_have_no_import_errors(bag):
    assert bag.import_errors == {}
    assert {"promote__minilm", "calibrate__minilm"} <= set(bag.dags)


def test_every_pod_has_resources_limits_and_as_few_rights_as_possible(dags):
    seen = [(task, told) for dag in dags for task, told in pods(dag)]
    assert {task for task, _ in seen} == {
        *("export", "validate_numerics", "calibrate", "build"),
        *("gather", "drift"),
    }
    for task, told in seen:
        for part in ("requests", "limits"):
            assert told["container_resources"][part]["memory"], task
        assert told["execution_timeout"] > timedelta(0), task
        assert told["security_context"]["runAsNonRoot"] is True, task
        rights = told["container_security_context"]
        assert (rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"]) == (False, True), task
        assert rights["capabilities"] == {"drop": ["ALL"]}, task
        assert told["automount_service_account_token"] is False, task
        assert told["do_xcom_push"] is False, task
        assert told["termination_message_policy"] == "FallbackToLogsOnError", task
        assert told["on_finish_action"] == "delete_succeeded_pod", task
        assert told["retries"] >= 1, task
        assert set(told["labels"]) >= {"sluice.dev/run", "sluice.dev/service"}, task


def test_every_build_pod_is_placed_by_a_selector(dags):
    for dag in dags:
        assert all(told["node_selector"] for task, told in pods(dag) if task == "build")


def test_every_review_ends_by_itself_as_a_rejection(dags):
    reviews = [task for dag in dags for task in dag.tasks if isinstance(task, HITLOperator)]
    assert [task.task_id for task in reviews if task.dag_id == "promote__tiny"] == [
        "review_deploy",
        "review_5",
        "review_100",
    ]
    for task in reviews:
        assert isinstance(task, ApprovalOperator)
        assert task.defaults == ["Reject"]
        assert task.response_timeout > timedelta(0)
        assert task.ignore_downstream_trigger_rules
        assert not task.fail_on_reject


def test_no_run_has_a_time_limit_that_would_skip_its_teardowns(dags):
    for dag in dags:
        assert dag.dagrun_timeout is None
        moves = dag.dag_id.startswith("promote__")
        assert (dag.catchup, dag.max_active_runs) == (False, 2 if moves else 1)
        assert {"sluice", "promotion" if moves else "calibration"} <= set(dag.tags)


def test_the_page_of_a_dag_says_how_to_take_traffic_back_also_once_the_run_has_ended(promotions):
    for dag in promotions:
        page = " ".join(dag.doc_md.split())
        assert "while it goes on" in page
        assert "clear its failed task first" in page
        assert "POST /v1/rollouts/<id>/retreat" in page


def test_the_verdict_is_the_only_leaf_and_decides_the_run(promotions):
    for dag in promotions:
        leaves = [task for task in dag.tasks if not task.downstream_task_ids]
        assert [task.task_id for task in leaves] == ["verdict"]
        assert leaves[0].is_teardown
        assert leaves[0].on_failure_fail_dagrun
        assert dag.get_task("settle").is_teardown
        assert dag.get_task("verdict").upstream_task_ids == {"settle"}


def test_every_stage_is_opened_behind_its_review_and_left_through_its_gate(promotions):
    for dag in promotions:
        stages = [task for task in dag.topological_sort() if isinstance(task, OpenStageOperator)]
        gates = [task for task in dag.topological_sort() if isinstance(task, GateSensor)]
        assert [task.stage for task in stages] == [task.stage for task in gates] == list(range(len(stages)))
        before = "deploy"
        for opened, gate in zip(stages, gates, strict=True):
            review = f"review_{opened.percent}"
            behind = review if review in dag.task_ids else before
            assert opened.upstream_task_ids == {behind}
            if behind == review:
                assert dag.get_task(review).upstream_task_ids == {before}
            assert gate.upstream_task_ids == {opened.task_id}
            assert gate.retries >= 1  # a resumed sensor can be failed by a stale executor event
            before = gate.task_id
        assert dag.get_task("passed").upstream_task_ids == {before}


def test_nobody_but_the_assigned_may_answer():
    review = build(**REVIEWED).get_task("review_5")
    assert review.assigned_users == [{"id": "ada", "name": "ada"}, {"id": "bob", "name": "bob"}]
    assert build(review={"before": ["deploy"]}).get_task("review_deploy").assigned_users is None


def test_every_dag_survives_serialization(dags):
    for dag in dags:
        once = DagSerialization.to_dict(dag)
        again = DagSerialization.from_dict(once)
        assert again.task_dict.keys() == dag.task_dict.keys()
        assert DagSerialization.to_dict(dag) == once


def test_a_build_is_mapped_over_targets_and_named_by_arch():
    spec = parse(
        {
            "targets": [
                {"arch": arch, "backend": "tensorrt", "selector": {"a": arch}, "image": PINNED, "share": 0.5}
                for arch in ("sm_80", "sm_90")
            ]
        }
    )
    build_task = build_dag(spec, ADDRESSES).get_task("build")
    assert [told["arguments"][-1] for told in build_task.expand_input.value] == ["sm_80", "sm_90"]
    assert build_task.partial_kwargs["map_index_template"] == "{{ task.arguments[-1] }}"


def test_the_schedule_is_the_specs():
    assert build().schedule is None
    assert build(schedule="0 3 * * *").schedule == "0 3 * * *"
