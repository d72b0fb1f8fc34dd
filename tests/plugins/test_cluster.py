"""Versions in a cluster: the manifests whole, and what `Cluster` does to the emulated one."""

from datetime import UTC, datetime, timedelta

import pytest
from kubernetes import client

from plugins.hooks.cluster import Cluster
from plugins.settings import Addresses
from plugins.workloads import Workload, deployment, service
from sluice.errors import FatalError, RetryableError
from tests.plugins.environment import VOLUME
from tests.plugins.small_server import READY
from tests.sluice.specs import SHA, parse


def workload(*, version="2", replicas=1, code=READY, arch="sm_80", selector=None, **server):
    spec = parse(
        {
            "targets.0.arch": arch,
            "targets.0.selector": selector or {"kubernetes.io/os": "linux"},
            "server": {
                "image": "python:3.11-slim",
                "command": ["python", "-c", code],
                "resources": {"cpu": "10m", "memory": "128Mi"},
                **server,
            },
        }
    )
    target = spec.targets[0]
    return Workload(
        service="tiny", version=version, target=target, server=spec.server, engine_key=SHA, replicas=replicas
    )


def test_the_deployment_whole():
    """Names, labels, arguments, probe, mounts and security are the contract's."""
    made = deployment(workload(env={"B": "2", "A": "1"}), Addresses(namespace="n", store_volume=VOLUME))
    labels = {"sluice.dev/service": "tiny", "sluice.dev/version": "2", "sluice.dev/target": "sm_80"}
    assert made["metadata"] == {"name": "tiny-v2-sm-80", "namespace": "n", "labels": labels}
    assert made["spec"]["selector"] == {"matchLabels": labels}
    assert made["spec"]["replicas"] == 1
    pod = made["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["volumes"] == [{"name": "store", **VOLUME}, {"name": "scratch", "emptyDir": {}}]
    (container,) = pod["containers"]
    engine = f"/var/lib/sluice/store/engine/{SHA}"
    wanted = [
        "--engine",
        engine,
        "--model",
        "tiny",
        "--version",
        "2",
        "--host",
        "$(POD_IP)",
        "--port",
        "8000",
    ]
    assert container["args"] == wanted
    assert container["env"] == [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "A", "value": "1"},
        {"name": "B", "value": "2"},
    ]
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8000}
    assert container["resources"] == {
        "requests": {"cpu": "10m", "memory": "128Mi"},
        "limits": {"memory": "128Mi"},
    }
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["name"]: mount.get("readOnly") for mount in container["volumeMounts"]} == {
        "store": True,
        "scratch": None,
    }


def test_the_service_has_the_deployments_name_and_labels():
    made = service(workload(port=9000), Addresses(namespace="n", store_volume=VOLUME))
    assert made["metadata"]["name"] == "tiny-v2-sm-80"
    assert made["spec"]["selector"] == made["metadata"]["labels"]
    assert made["spec"]["ports"] == [{"name": "http", "port": 9000, "targetPort": 9000}]


@pytest.fixture
def cluster(kube, tmp_path):
    volume = {"hostPath": {"path": str(tmp_path)}}
    return Cluster(kube.api, Addresses(namespace=kube.namespace, store_volume=volume))


def test_a_version_is_created_becomes_ready_and_is_found_by_its_service(cluster, kube):
    said = []
    version = workload(replicas=2)
    assert cluster.apply(version) == "created"
    cluster.await_ready([version], timeout_s=60, say=said.append)
    assert said[-1] == "tiny-v2-sm-80: 2/2 ready"
    assert len(kube.await_endpoints("tiny-v2-sm-80", lambda found: len(found) == 2)) == 2


def test_a_retry_does_not_undo_what_the_controller_scaled(cluster, kube):
    version = workload()
    cluster.apply(version)
    kube.apps.patch_namespaced_deployment_scale(version.name, kube.namespace, {"spec": {"replicas": 3}})
    assert cluster.apply(version) == "updated"
    assert kube.apps.read_namespaced_deployment(version.name, kube.namespace).spec.replicas == 3


def test_a_pod_that_cannot_start_ends_the_wait_with_its_own_last_words(cluster):
    version = workload(code="import sys; sys.exit('error: no engine for this machine; build one')")
    cluster.apply(version)
    with pytest.raises(FatalError, match=r"exit code 1: error: no engine for this machine.*--previous"):
        cluster.await_ready([version], timeout_s=60, say=lambda line: None)


def test_an_image_that_does_not_exist_ends_the_wait(cluster):
    version = workload(image="nobody/knows:1")
    cluster.apply(version)
    with pytest.raises(FatalError, match="ImagePull"):
        cluster.await_ready([version], timeout_s=60, say=lambda line: None)


def test_a_pod_that_is_merely_slow_is_worth_another_try(cluster):
    version = workload(code="import time; time.sleep(600)")
    cluster.apply(version)
    with pytest.raises(RetryableError, match=r"0/1 ready.*describe pods"):
        cluster.await_ready([version], timeout_s=0, say=lambda line: None)


def test_a_pod_without_a_node_says_so_while_it_waits(cluster):
    version = workload(version="3", selector={"sluice.dev/arch": "sm_0"})
    cluster.apply(version)

    class Said(Exception):
        """The line that was waited for."""

    def say(line):
        if "node" in line:
            raise Said(line)

    with pytest.raises(Said, match="0/1 ready"):
        cluster.await_ready([version], timeout_s=60, say=say)


def test_what_kubernetes_refuses_says_so(kube):
    nowhere = Cluster(kube.api, Addresses(namespace="no-such-namespace", store_volume=VOLUME))
    with pytest.raises(FatalError, match=r"Kubernetes refused Service tiny-v2-sm-80 \(404\)"):
        nowhere.apply(workload())


def names(kube):
    return sorted(item.metadata.name for item in kube.apps.list_namespaced_deployment(kube.namespace).items)


def test_a_turned_back_version_stays_for_its_time_and_is_swept_by_a_later_run(cluster, kube):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for version in ("1", "2"):
        cluster.apply(workload(version=version))
    cluster.keep_until("tiny-v2-sm-80", keep_s=60, now=now)
    cluster.keep_until("gone-already", keep_s=60, now=now)
    assert cluster.sweep("tiny", now=now + timedelta(seconds=59)) == []
    assert cluster.sweep("other", now=now + timedelta(hours=1)) == []
    assert cluster.sweep("tiny", now=now + timedelta(seconds=60)) == ["tiny-v2-sm-80"]
    assert names(kube) == ["tiny-v1-sm-80"]


def test_deleting_takes_the_service_along_and_what_is_gone_is_fine(cluster, kube):
    cluster.apply(workload())
    for _ in range(2):
        cluster.delete("tiny-v2-sm-80")
    assert names(kube) == []
    with pytest.raises(client.ApiException) as absent:
        kube.core.read_namespaced_service("tiny-v2-sm-80", kube.namespace)
    assert absent.value.status == 404
