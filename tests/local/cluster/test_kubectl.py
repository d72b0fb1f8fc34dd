"""Contract with kubectl: every one that this machine has answers the commands that people type."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tests.local.cluster.conftest import kubectls
from tests.local.cluster.kube import Kube, deployment, pod, service

Kubectl = Callable[..., str]


@pytest.fixture(params=kubectls() or ["none"])
def kubectl(request: pytest.FixtureRequest, kube: Kube) -> Kubectl:
    if request.param == "none":
        missing(os.environ)

    def run(*words: str, code: int = 0, given: object = None) -> str:
        argv = [request.param, "--kubeconfig", str(kube.kubeconfig), "--namespace", kube.namespace, *words]
        text = None if given is None else json.dumps(given)
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")

    return run


def missing(environ: Mapping[str, str]) -> NoReturn:
    """Without kubectl: skipped on a person's machine, a failure where every promise has to be shown."""
    reason = "no kubectl on PATH: `make kubectl` installs Debian's kubernetes-client, or says how to get it"
    if environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def test_without_kubectl_a_person_may_go_on_and_ci_may_not() -> None:
    with pytest.raises(pytest.skip.Exception, match="no kubectl on PATH"):
        missing({})
    with pytest.raises(pytest.fail.Exception, match="no kubectl on PATH"):
        missing({"CI": "true"})


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def test_get_nodes_prints_a_table_and_describe_its_labels(kubectl: Kubectl) -> None:
    head, *rows = lines(kubectl("get", "nodes"))
    assert head == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert rows[0][1] == "Ready"
    described = kubectl("describe", "node", rows[0][0])
    assert "kubernetes.io/os=linux" in described
    assert "Allocatable:" in described


def test_create_get_logs_describe_and_delete_a_pod(kubectl: Kubectl, kube: Kube) -> None:
    assert "created" in kubectl(
        "create", "-f", "-", given={"apiVersion": "v1", "kind": "Pod", **pod("k", "print('said')")}
    )
    kube.await_phase("k", "Succeeded")
    head, row = lines(kubectl("get", "pods"))
    assert head == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert row[:4] == ["k", "0/1", "Completed", "0"]
    assert kubectl("logs", "k") == "said\n"
    described = kubectl("describe", "pod", "k")
    for text in ("Status:", "Succeeded", "Exit Code:", "Scheduled", "Started container main"):
        assert text in described
    assert "Started" in kubectl("get", "events")
    assert kubectl("get", "pod", "k", "-o", "jsonpath={.status.phase}") == "Succeeded"
    assert "deleted" in kubectl("delete", "pod", "k")
    assert "not found" in kubectl("get", "pod", "k", code=1)


def test_logs_follow_until_the_container_ends(kubectl: Kubectl, kube: Kube) -> None:
    kube.create_pod(pod("f", "import time\nfor i in range(4): print(i); time.sleep(0.2)"))
    kube.await_phase("f", "Running", "Succeeded")
    assert kubectl("logs", "-f", "f").split() == ["0", "1", "2", "3"]


def test_apply_scale_roll_and_describe_a_deployment(kubectl: Kubectl, kube: Kube) -> None:
    made = {"apiVersion": "apps/v1", "kind": "Deployment", **deployment("web", 1)}
    kubectl("apply", "-f", "-", given=made)
    kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "Service", **service("web")})
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web")
    kubectl("scale", "deployment", "web", "--replicas=2")
    kube.await_endpoints("web", lambda found: len(found) == 2)
    kubectl("set", "env", "deployment/web", "NEW=1")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web")
    head, row = lines(kubectl("get", "deployments"))
    assert head == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert row[:4] == ["web", "2/2", "2", "2"]
    described = kubectl("describe", "deployment", "web")
    assert "2 desired | 2 updated | 2 total | 2 available" in described
    assert "ScalingReplicaSet" in described
    assert "Endpoints:" in kubectl("describe", "service", "web")
    assert ":8000" in kubectl("get", "endpoints", "web")
    # Old pods may still be draining, so there are at least the two new ones.
    running = [line[0] for line in lines(kubectl("get", "pods", "-l", "app=web", "--no-headers"))]
    assert len(running) >= 2
    kubectl("delete", "deployment,service", "web")
    for name in running:
        kube.await_gone(name)
    assert "web" not in kubectl("get", "deployments,services")


def test_a_change_to_an_applied_manifest_is_merged(kubectl: Kubectl, kube: Kube) -> None:
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}}
    kubectl("apply", "-f", "-", given=made)
    kubectl("apply", "-f", "-", given={**made, "data": {"a": "9"}})
    assert kube.core.read_namespaced_config_map("c", kube.namespace).data == {"a": "9"}


def test_what_is_not_served_is_an_error_that_names_it(kubectl: Kubectl, kubeconfig: Path) -> None:
    if "127.0.0.1" not in kubeconfig.read_text():
        pytest.skip("a real cluster serves more than the emulator")
    manifest = {"apiVersion": "v1", "kind": "Pod", **pod("no", "print(1)", hostNetwork=True)}
    assert "spec.hostNetwork" in kubectl("create", "-f", "-", code=1, given=manifest)
