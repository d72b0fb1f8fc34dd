"""Versions in a cluster: the manifests whole, and what `Cluster` does to the emulated one."""

from datetime import UTC, datetime, timedelta

import pytest
from kubernetes import client

from plugins.hooks.cluster import IMAGE_PATIENCE_S, Cluster, MissingImages
from plugins.settings import Addresses
from plugins.workloads import Workload, deployment, service
from sluice.errors import FatalError, RetryableError
from tests.plugins.environment import VOLUME
from tests.plugins.small_server import READY
from tests.plugins.stand import Stand
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


def test_an_image_that_stays_away_ends_the_wait(cluster):
    version = workload(image="nobody/knows:1")
    cluster.apply(version)
    with pytest.raises(FatalError, match=r"ImagePull.*nobody/knows:1"):
        cluster.await_ready([version], timeout_s=60, say=lambda line: None, image_patience_s=0.5)


def test_a_registry_that_answers_again_is_waited_for(cluster, kube):
    """One hiccup of it must not fail a deployment for good."""
    version = workload(image="nobody/knows:1")
    said = []

    def say(line):
        said.append(line)
        if "ImagePull" in line:  # the image appears: the emulated cluster has it under another name
            there = [{"name": "server", "image": "python:3.11-slim"}]
            change = {"spec": {"template": {"spec": {"containers": there}}}}
            kube.apps.patch_namespaced_deployment(version.name, kube.namespace, change)

    cluster.apply(version)
    cluster.await_ready([version], timeout_s=60, say=say)
    assert any("ImagePull" in line for line in said)


PATIENCE = [
    pytest.param(["ErrImagePull", "ImagePullBackOff", "ErrImagePull"], [0, 59, 60], True, id="for-a-minute"),
    pytest.param(
        ["ErrImagePull", "ContainerCreating", "ErrImagePull"], [0, 30, 60], True, id="between-tries"
    ),
    pytest.param(["ErrImagePull", "ImagePullBackOff"], [0, 59], False, id="not-yet-a-minute"),
    pytest.param(["ErrImagePull", None, "ErrImagePull"], [0, 30, 60], False, id="it-had-started-meanwhile"),
]


@pytest.mark.parametrize(("reasons", "at_s", "given_up"), PATIENCE)
def test_an_image_is_given_up_once_it_stayed_away_for_a_minute(reasons, at_s, given_up):
    images = MissingImages(IMAGE_PATIENCE_S)
    said = [images.given_up("pod/server", why, now_s=now_s) for why, now_s in zip(reasons, at_s, strict=True)]
    assert said == [*[False] * (len(reasons) - 1), given_up]


def test_a_name_that_is_no_image_ends_the_wait_at_once():
    """No registry is asked for it, so none can answer better later. The emulated cluster takes any name."""
    version = workload(image="No Image:1")
    waiting = {"reason": "InvalidImageName", "message": "couldn't parse image name"}
    status = {"name": "server", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    pod = {
        "metadata": {"name": "p"},
        "status": {"containerStatuses": [{**status, "state": {"waiting": waiting}}]},
    }
    addresses = Addresses(namespace="n", store_volume=VOLUME)
    with Stand() as stand:
        stand.answers = {
            ("GET", f"/apis/apps/v1/namespaces/n/deployments/{version.name}"): (
                200,
                {**deployment(version, addresses), "status": {}},
            ),
            ("GET", "/api/v1/namespaces/n/pods"): (200, {"items": [pod]}),
        }
        api = client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{stand.port}"))
        with pytest.raises(FatalError, match=r"pod p: InvalidImageName \(couldn't parse image name\)"):
            Cluster(api, addresses).await_ready([version], timeout_s=60, say=lambda line: None)


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
