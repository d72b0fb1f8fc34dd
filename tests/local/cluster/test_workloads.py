"""Contract of deployments, services and endpoints, on the emulator and with `-m cluster` on a real cluster."""

from __future__ import annotations

import urllib.request
from typing import Any

from tests.local.cluster.kube import WAIT_S, Kube, deployment, service


def ready(count: int) -> Any:
    def test(one: Any) -> bool:
        status = one.status
        return (
            (status.ready_replicas or 0) == count
            and (status.replicas or 0) == count
            and (status.updated_replicas or 0) == count
            and status.observed_generation == one.metadata.generation
        )

    return test


def pods(kube: Kube, name: str) -> list[Any]:
    found = kube.core.list_namespaced_pod(kube.namespace, label_selector=f"app={name}").items
    return [one for one in found if one.metadata.deletion_timestamp is None]


def ask(kube: Kube, pod: str, path: str) -> int:
    """GET inside the cluster's network: through a pod, so that it works on a real one as well."""
    address = kube.pod(pod).status.pod_ip
    if address.startswith("127."):
        with urllib.request.urlopen(f"http://{address}:8000{path}", timeout=WAIT_S) as answer:
            return answer.status
    raise AssertionError("on a real cluster run the tests where pod addresses can be reached")


def test_only_ready_pods_are_endpoints_and_each_has_its_own_address(kube: Kube) -> None:
    kube.core.create_namespaced_service(kube.namespace, service("web"))
    kube.apps.create_namespaced_deployment(kube.namespace, deployment("web", 3))
    kube.await_deployment("web", ready(3))
    seen = kube.await_endpoints("web", lambda found: len(found) == 3)
    assert seen == {one.status.pod_ip for one in pods(kube, "web")}
    endpoints = kube.core.read_namespaced_endpoints("web", kube.namespace)
    assert [(one.name, one.port) for one in endpoints.subsets[0].ports] == [("http", 8000)]


def test_a_pod_that_fails_its_readiness_probe_leaves_the_endpoints_and_comes_back(kube: Kube) -> None:
    kube.core.create_namespaced_service(kube.namespace, service("ill"))
    kube.apps.create_namespaced_deployment(kube.namespace, deployment("ill", 2))
    kube.await_endpoints("ill", lambda found: len(found) == 2)
    victim = pods(kube, "ill")[0]
    ask(kube, victim.metadata.name, "/sicken")
    left = kube.await_endpoints("ill", lambda found: len(found) == 1)
    assert victim.status.pod_ip not in left
    assert kube.pod(victim.metadata.name).status.container_statuses[0].restart_count == 0
    ask(kube, victim.metadata.name, "/heal")
    kube.await_endpoints("ill", lambda found: len(found) == 2)


def test_a_pod_that_fails_its_liveness_probe_is_restarted(kube: Kube) -> None:
    probe = {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1, "failureThreshold": 1}
    kube.apps.create_namespaced_deployment(
        kube.namespace, deployment("dies", 1, livenessProbe=probe, readinessProbe=None)
    )
    kube.await_deployment("dies", ready(1))
    victim = pods(kube, "dies")[0].metadata.name
    # The server may not listen yet: this container is ready as soon as it runs.
    kube.await_pod(victim, lambda one: one.status.container_statuses[0].restart_count >= 0)
    restarted = kube.await_pod(victim, lambda one: one.status.container_statuses[0].restart_count >= 1)
    assert restarted.status.container_statuses[0].last_state.terminated is not None


def test_a_startup_probe_holds_the_others_back(kube: Kube) -> None:
    slow = "import os, time\nwhile not os.path.exists(os.environ['SICK']): time.sleep(0.05)\ntime.sleep(600)"
    make = (
        "import os, threading; threading.Timer(1.5, lambda: open(os.environ['SICK'], 'w').close()).start()\n"
    )
    never = {
        "exec": {
            "command": ["python", "-c", "import os, sys; sys.exit(not os.path.exists(os.environ['SICK']))"]
        }
    }
    startup = {**never, "periodSeconds": 1, "failureThreshold": 30, "timeoutSeconds": 10}
    liveness = {**never, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 10}
    body = deployment(
        "slow", 1, make + slow, startupProbe=startup, livenessProbe=liveness, readinessProbe=None
    )
    kube.apps.create_namespaced_deployment(kube.namespace, body)
    kube.await_deployment("slow", ready(1))
    states = pods(kube, "slow")[0].status.container_statuses
    assert (states[0].restart_count, states[0].started) == (0, True)


def test_scaling_by_the_subresource_adds_and_removes_pods(kube: Kube) -> None:
    kube.apps.create_namespaced_deployment(kube.namespace, deployment("size", 1))
    kube.await_deployment("size", ready(1))
    scale = kube.apps.read_namespaced_deployment_scale("size", kube.namespace)
    assert (scale.spec.replicas, scale.status.selector) == (1, "app=size")
    scale.spec.replicas = 3
    kube.apps.replace_namespaced_deployment_scale("size", kube.namespace, scale)
    kube.await_deployment("size", ready(3))
    kube.apps.patch_namespaced_deployment_scale("size", kube.namespace, {"spec": {"replicas": 0}})
    kube.await_deployment("size", ready(0))
    assert pods(kube, "size") == []


def test_a_new_template_replaces_every_pod_and_never_has_fewer_ready_than_asked(kube: Kube) -> None:
    body = deployment("roll", 3)
    body["spec"]["strategy"] = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    kube.core.create_namespaced_service(kube.namespace, service("roll"))
    kube.apps.create_namespaced_deployment(kube.namespace, body)
    kube.await_deployment("roll", ready(3))
    before = {one.metadata.name for one in pods(kube, "roll")}
    fewest = []
    env = [{"name": "SICK", "value": "/var/run/test/other"}]
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "main", "env": env}]}}}}
    changed = kube.apps.patch_namespaced_deployment("roll", kube.namespace, patch)

    def done(one: Any) -> bool:
        fewest.append(one.status.available_replicas or 0)
        return one.metadata.generation == changed.metadata.generation and ready(3)(one)

    kube.await_deployment("roll", done)
    after = pods(kube, "roll")
    assert before.isdisjoint(one.metadata.name for one in after)
    assert min(fewest) >= 3
    # A strategic merge: the other variable of the container is still there.
    names = {one.name for one in after[0].spec.containers[0].env}
    assert names == {"POD_IP", "SICK"}


def test_a_deleted_pod_of_a_deployment_is_replaced(kube: Kube) -> None:
    kube.apps.create_namespaced_deployment(kube.namespace, deployment("keep", 1))
    kube.await_deployment("keep", ready(1))
    victim = pods(kube, "keep")[0].metadata.name
    kube.core.delete_namespaced_pod(victim, kube.namespace, grace_period_seconds=1)
    kube.await_gone(victim)
    kube.await_deployment("keep", ready(1))
    assert victim not in {one.metadata.name for one in pods(kube, "keep")}


def test_deleting_a_deployment_deletes_its_replica_sets_and_pods(kube: Kube) -> None:
    kube.apps.create_namespaced_deployment(kube.namespace, deployment("gone", 2))
    kube.await_deployment("gone", ready(2))
    names = [one.metadata.name for one in pods(kube, "gone")]
    kube.apps.delete_namespaced_deployment("gone", kube.namespace)
    for name in names:
        kube.await_gone(name)
    assert kube.apps.list_namespaced_replica_set(kube.namespace).items == []
