"""Contract of the API itself: versions, conflicts, selectors, patches, refusals that Kubernetes makes too."""

from __future__ import annotations

from typing import Any

import kubernetes_asyncio
import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from tests.local.cluster.kube import Kube, pod


def config_map(kube: Kube, name: str, **data: str) -> client.V1ConfigMap:
    return kube.core.create_namespaced_config_map(kube.namespace, {"metadata": {"name": name}, "data": data})


def refused(call: Any, *args: Any, **kwargs: Any) -> ApiException:
    with pytest.raises(ApiException) as caught:
        call(*args, **kwargs)
    return caught.value


def test_a_put_with_an_old_resource_version_conflicts(kube: Kube) -> None:
    first = config_map(kube, "cas", a="1")
    second = kube.core.read_namespaced_config_map("cas", kube.namespace)
    second.data = {"a": "2"}
    kube.core.replace_namespaced_config_map("cas", kube.namespace, second)
    first.data = {"a": "3"}
    error = refused(kube.core.replace_namespaced_config_map, "cas", kube.namespace, first)
    assert (error.status, '"reason":"Conflict"' in error.body.replace(" ", "")) == (409, True)
    assert kube.core.read_namespaced_config_map("cas", kube.namespace).data == {"a": "2"}


def test_a_patch_that_names_an_old_resource_version_conflicts(kube: Kube) -> None:
    old = config_map(kube, "casp", a="1").metadata.resource_version
    kube.core.patch_namespaced_config_map("casp", kube.namespace, {"data": {"a": "2"}})
    patch = {"metadata": {"resourceVersion": old}, "data": {"a": "3"}}
    assert refused(kube.core.patch_namespaced_config_map, "casp", kube.namespace, patch).status == 409


def test_a_second_object_of_the_same_name_is_409_and_a_missing_one_404(kube: Kube) -> None:
    config_map(kube, "one")
    assert refused(config_map, kube, "one").status == 409
    assert refused(kube.core.read_namespaced_config_map, "none", kube.namespace).status == 404
    assert refused(kube.core.delete_namespaced_config_map, "none", kube.namespace).status == 404


def test_nothing_is_created_in_a_namespace_that_does_not_exist(kube: Kube) -> None:
    error = refused(kube.core.create_namespaced_pod, "no-such-namespace", pod("x", "1"))
    assert error.status == 404


@pytest.mark.parametrize(
    ("selector", "want"),
    [
        ("tier=a", {"p1"}),
        ("tier!=a", {"p2", "p3"}),
        ("tier", {"p1", "p2"}),
        ("!tier", {"p3"}),
        ("tier in (a,b)", {"p1", "p2"}),
        ("tier notin (a)", {"p2", "p3"}),
        ("common=yes,tier!=b", {"p1", "p3"}),
    ],
)
def test_label_selectors(kube: Kube, selector: str, want: set[str]) -> None:
    for name, labels in (("p1", {"tier": "a"}), ("p2", {"tier": "b"}), ("p3", {})):
        body = {"metadata": {"name": name, "labels": {**labels, "common": "yes"}}}
        kube.core.create_namespaced_config_map(kube.namespace, body)
    mine = f"common=yes,{selector}"
    found = kube.core.list_namespaced_config_map(kube.namespace, label_selector=mine).items
    assert {one.metadata.name for one in found} == want


def test_a_selector_that_cannot_be_read_is_400(kube: Kube) -> None:
    assert refused(kube.core.list_namespaced_pod, kube.namespace, label_selector="a==b==c").status == 400
    assert (
        refused(kube.core.list_namespaced_pod, kube.namespace, field_selector="spec.nonsense=1").status == 400
    )


def test_field_selectors_find_pods_by_phase(kube: Kube) -> None:
    kube.create_pod(pod("ends", "print(1)"))
    kube.create_pod(pod("waits", "print(1)", nodeSelector={"sluice.dev/none": "x"}))
    kube.await_phase("ends", "Succeeded")
    found = kube.core.list_namespaced_pod(kube.namespace, field_selector="status.phase!=Succeeded").items
    assert [one.metadata.name for one in found] == ["waits"]


def test_a_watch_with_a_selector_sees_objects_enter_and_leave_it(kube: Kube) -> None:
    config_map(kube, "moves")
    listed = kube.core.list_namespaced_config_map(kube.namespace)
    for value in ("in", "out"):
        kube.core.patch_namespaced_config_map(
            "moves", kube.namespace, {"metadata": {"labels": {"place": value}}}
        )
    seen = []
    watcher = watch.Watch()
    for event in watcher.stream(
        kube.core.list_namespaced_config_map,
        kube.namespace,
        label_selector="place=in",
        resource_version=listed.metadata.resource_version,
        timeout_seconds=60,
    ):
        seen.append(event["type"])
        if len(seen) == 2:
            watcher.stop()
    assert seen == ["ADDED", "DELETED"]


def test_a_watch_from_a_forgotten_version_is_410(kube: Kube) -> None:
    watcher = watch.Watch()

    def read() -> None:
        list(
            watcher.stream(
                kube.core.list_namespaced_pod, kube.namespace, resource_version="1", timeout_seconds=60
            )
        )

    assert refused(read).status == 410


async def test_the_asynchronous_client_lists_watches_and_reads_logs(kube: Kube) -> None:
    """The client of Airflow's triggerer and of the rollout controller."""
    await kubernetes_asyncio.config.load_kube_config(str(kube.kubeconfig))
    async with kubernetes_asyncio.client.ApiClient() as api:
        core = kubernetes_asyncio.client.CoreV1Api(api)
        version = (await core.list_namespaced_pod(kube.namespace)).metadata.resource_version
        await core.create_namespaced_pod(kube.namespace, pod("async", "print('heard')"))
        watcher, phases = kubernetes_asyncio.watch.Watch(), []
        async with watcher.stream(
            core.list_namespaced_pod, kube.namespace, resource_version=version, timeout_seconds=60
        ) as stream:
            async for event in stream:
                phases.append(event["object"].status.phase)
                if phases[-1] == "Succeeded":
                    break
        assert (phases[0], phases[-1]) == ("Pending", "Succeeded")
        answer = await core.read_namespaced_pod_log("async", kube.namespace, _preload_content=False)
        assert await answer.read() == b"heard\n"


def test_a_watch_ends_after_its_timeout(kube: Kube) -> None:
    watcher = watch.Watch()
    assert list(watcher.stream(kube.core.list_namespaced_pod, kube.namespace, timeout_seconds=1)) == []


def test_the_three_kinds_of_patch(kube: Kube) -> None:
    config_map(kube, "patched", a="1", b="2")
    kube.core.patch_namespaced_config_map("patched", kube.namespace, {"data": {"a": None, "c": "3"}})
    assert kube.core.read_namespaced_config_map("patched", kube.namespace).data == {"b": "2", "c": "3"}
    kube.core.patch_namespaced_config_map(
        "patched", kube.namespace, [{"op": "replace", "path": "/data/b", "value": "9"}]
    )
    assert kube.core.read_namespaced_config_map("patched", kube.namespace).data == {"b": "9", "c": "3"}
    wrong = [{"op": "test", "path": "/data/b", "value": "0"}]
    assert refused(kube.core.patch_namespaced_config_map, "patched", kube.namespace, wrong).status == 422


def test_labels_of_a_pod_may_change_and_its_command_may_not(kube: Kube) -> None:
    kube.create_pod(pod("fixed", "print(1)", nodeSelector={"sluice.dev/none": "x"}))
    kube.core.patch_namespaced_pod("fixed", kube.namespace, {"metadata": {"labels": {"seen": "yes"}}})
    assert kube.pod("fixed").metadata.labels["seen"] == "yes"
    change = {"spec": {"containers": [{"name": "main", "command": ["false"]}]}}
    assert refused(kube.core.patch_namespaced_pod, "fixed", kube.namespace, change).status == 422


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"containers": []}, "spec.containers"),
        ({"container": {"volumeMounts": [{"name": "none", "mountPath": "/x"}]}}, "volumeMounts"),
        ({"container": {"resources": {"limits": {"memory": "lots"}}}}, "lots"),
        (
            {"container": {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}}},
            "requests",
        ),
        (
            {
                "container": {
                    "readinessProbe": {"httpGet": {"path": "/", "port": 1}, "exec": {"command": ["x"]}}
                }
            },
            "Probe",
        ),
    ],
)
def test_wrong_values_are_refused_naming_the_field(kube: Kube, change: dict, field: str) -> None:
    error = refused(kube.create_pod, pod("wrong", "print(1)", **change))
    assert error.status in (400, 422)
    assert field in error.body


def test_a_deployment_whose_selector_misses_its_template_is_refused(kube: Kube) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    body = {
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "c"}}, "template": template},
    }
    assert refused(kube.apps.create_namespaced_deployment, kube.namespace, body).status == 422


def test_nodes_say_what_they_are_and_what_they_can_hold(kube: Kube) -> None:
    node = kube.core.list_node().items[0]
    assert node.metadata.labels["kubernetes.io/os"] == "linux"
    assert {"cpu", "memory"} <= set(node.status.allocatable)


def test_deleting_by_collection_and_selector(kube: Kube) -> None:
    for name in ("x1", "x2", "y1"):
        body = {"metadata": {"name": name, "labels": {"set": name[0]}}}
        kube.core.create_namespaced_config_map(kube.namespace, body)
    kube.core.delete_collection_namespaced_config_map(kube.namespace, label_selector="set=x")
    left = {one.metadata.name for one in kube.core.list_namespaced_config_map(kube.namespace).items}
    assert left - {"kube-root-ca.crt"} == {"y1"}
