"""What only the emulator has: refusals of what it cannot do, faults on request, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.local.cluster.kube import (
    POD_IP,
    SERVER,
    SERVICE_PORT,
    Emulator,
    Kube,
    alive,
    deployment,
    pod,
    service,
)

LONG = "import time; print('up'); time.sleep(600)"


@pytest.fixture
def breakable(emulator: Emulator) -> Iterator[Emulator]:
    yield emulator
    emulator.clear()


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"hostNetwork": True}, "spec.hostNetwork"),
        ({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}, "spec.volumes[0].nfs"),
        ({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}, "spec.volumes[0].secret"),
        ({"affinity": {"podAntiAffinity": {"x": 1}}}, "spec.affinity.podAntiAffinity"),
        ({"topologySpreadConstraints": [{"maxSkew": 1}]}, "spec.topologySpreadConstraints"),
        ({"runtimeClassName": "nvidia"}, "spec.runtimeClassName"),
        ({"serviceAccountName": "builder"}, "spec.serviceAccountName"),
        ({"container": {"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}}, "lifecycle.postStart"),
        ({"container": {"securityContext": {"privileged": True}}}, "securityContext.privileged"),
        ({"container": {"livenessProbe": {"grpc": {"port": 1}}}}, "livenessProbe.grpc"),
        ({"container": {"ports": [{"containerPort": 1, "protocol": "UDP"}]}}, "protocol"),
        ({"container": {"tty": True}}, "containers[0].tty"),
        ({"container": {"nonsense": 1}}, "containers[0].nonsense"),
        ({"container": {"name": "airflow-xcom-sidecar"}}, "do_xcom_push=False"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    emulator: Emulator, spec: dict[str, Any], named: str
) -> None:
    status, answer = emulator.call("POST", "/api/v1/namespaces/default/pods", pod("no", "1", **spec))
    assert (status, answer["reason"]) == (501, "NotImplemented")
    assert named in answer["message"]


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("GET", "/api/v1/namespaces/default/secrets", "secrets of v1"),
        ("GET", "/apis/batch/v1/namespaces/default/jobs", "jobs of batch/v1"),
        ("POST", "/api/v1/namespaces/default/pods/x/exec", "pods/exec"),
        ("POST", "/api/v1/namespaces/default/pods/x/eviction", "pods/eviction"),
        ("DELETE", "/api/v1/nodes/local", "deleting nodes"),
        ("PUT", "/api/v1/namespaces/default/pods/x?dryRun=All", "dryRun"),
    ],
)
def test_kinds_and_verbs_that_are_not_served_are_501(
    emulator: Emulator, method: str, path: str, named: str
) -> None:
    status, answer = emulator.call(method, path, None if method == "GET" else {})
    assert (status, answer["kind"]) == (501, "Status")
    assert named in answer["message"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dryRun": ["All"]}, "dryRun"),
        ({"propagationPolicy": "Orphan"}, "propagationPolicy Orphan"),
        ({"propagationPolicy": "Sideways"}, "propagationPolicy Sideways"),
        ({"gentleness": 3}, "gentleness"),
    ],
)
def test_a_deletion_that_asks_for_what_is_not_honoured_deletes_nothing(
    emulator: Emulator, local: Kube, options: dict[str, Any], named: str
) -> None:
    """kubectl sends a dry run in the body, where nobody looked: it deleted."""
    local.core.create_namespaced_config_map(local.namespace, {"metadata": {"name": "kept"}})
    path = f"/api/v1/namespaces/{local.namespace}/configmaps/kept"
    status, answer = emulator.call("DELETE", path, options)
    assert (status, answer["reason"]) == (501, "NotImplemented")
    assert named in answer["message"]
    assert emulator.call("GET", path)[0] == 200


def test_what_is_taken_and_not_enforced_comes_with_a_warning(local: Kube) -> None:
    security = {"runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
    body = pod("hard", "print(1)", container={"securityContext": security})
    _, status, headers = local.core.create_namespaced_pod_with_http_info(local.namespace, body)
    warnings = headers["Warning"]
    assert status == 201
    assert "runAsNonRoot" in warnings
    assert "capabilities.drop" in warnings


def test_mounted_paths_are_replaced_in_arguments_and_variables_only_as_whole_paths(
    local: Kube, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f").write_text("deep")
    container = {
        "args": ["--file=/data/sub/f", "/database/x", "/data"],
        "env": [{"name": "WHERE", "value": "/data:/other/data"}],
        "volumeMounts": [{"name": "v", "mountPath": "/data"}],
    }
    code = "import os, sys; print(*sys.argv[1:], os.environ['WHERE'])"
    volume = {"name": "v", "hostPath": {"path": str(tmp_path), "type": "Directory"}}
    local.create_pod(pod("paths", code, container=container, volumes=[volume]))
    local.await_phase("paths", "Succeeded")
    want = [f"--file={tmp_path}/sub/f", "/database/x", str(tmp_path), f"{tmp_path}:/other/data"]
    assert local.log("paths").split() == want


def test_a_host_path_that_is_missing_keeps_the_pod_pending_and_says_so(local: Kube, tmp_path: Path) -> None:
    volume = {"name": "v", "hostPath": {"path": str(tmp_path / "none"), "type": "Directory"}}
    local.create_pod(pod("nomount", "print(1)", volumes=[volume]))
    assert str(tmp_path / "none") in local.await_event("FailedMount", "nomount").message
    (tmp_path / "none").mkdir()
    local.await_phase("nomount", "Succeeded")


def test_jobs_that_ask_for_no_cpu_are_nice_and_all_else_is_not(local: Kube) -> None:
    code = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"
    local.create_pod(pod("job", code))
    local.create_pod(pod("asks", code, container={"resources": {"requests": {"cpu": "100m"}}}))
    for name, want in (("job", 10), ("asks", 0)):
        local.await_phase(name, "Succeeded")
        assert int(local.log(name)) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + want)


def test_nothing_of_this_machines_environment_leaks_into_a_container(local: Kube) -> None:
    local.create_pod(pod("clean", "import os; print(sorted(os.environ))"))
    local.await_phase("clean", "Succeeded")
    assert set(eval(local.log("clean"))) <= {  # noqa: S307 - the repr of a list of names that we printed
        *("HOME", "HOSTNAME", "LANG", "LC_CTYPE", "PATH", "SLUICE_CONTAINER_ID"),
    }


def test_children_that_leave_the_process_group_die_with_their_container(local: Kube) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print(child.pid)"
    )
    local.create_pod(pod("runaway", code))
    local.await_phase("runaway", "Succeeded")
    assert not alive(int(local.log("runaway")))


def test_a_service_address_forwards_to_a_ready_pod(local: Kube) -> None:
    local.core.create_namespaced_service(local.namespace, service("front"))
    local.apps.create_namespaced_deployment(local.namespace, deployment("front", 1))
    local.await_endpoints("front", lambda found: len(found) == 1)
    address = local.core.read_namespaced_service("front", local.namespace).spec.cluster_ip
    with urllib.request.urlopen(f"http://{address}:{SERVICE_PORT}/", timeout=60) as answer:
        assert answer.read() == b"ok"


def test_a_service_whose_port_cannot_be_opened_is_refused_by_name_and_not_left_behind(
    emulator: Emulator, local: Kube
) -> None:
    """A port below 1024 is the usual one, for whoever is not root; here a port that somebody else has."""
    path = f"/api/v1/namespaces/{local.namespace}/services"
    with socket.create_server(("127.9.9.9", 0)) as taken:
        body = service("shut")
        port = body["spec"]["ports"][0]["port"] = taken.getsockname()[1]
        body["spec"]["clusterIP"] = "127.9.9.9"
        status, answer = emulator.call("POST", path, body)
    assert (status, answer["details"]["causes"][0]["field"]) == (422, "spec.ports[0].port")
    assert f"{port} cannot be opened on 127.9.9.9 (" in answer["message"]
    assert "choose another" in answer["message"]
    assert emulator.call("GET", f"{path}/shut")[0] == 404
    assert emulator.call("POST", path, body)[0] == 201, "nothing of the first try holds the address"


def test_twelve_serving_pods_of_one_port_become_ready_together(local: Kube) -> None:
    local.core.create_namespaced_service(local.namespace, service("many"))
    local.apps.create_namespaced_deployment(local.namespace, deployment("many", 12))
    assert len(local.await_endpoints("many", lambda found: len(found) == 12)) == 12


# Faults on request


def test_fault_unschedulable_arch_keeps_new_pods_pending_until_cleared(
    breakable: Emulator, local: Kube
) -> None:
    arch = local.core.list_node().items[0].metadata.labels["sluice.dev/arch"]
    breakable.fault(fault="unschedulable", arch=arch)
    local.create_pod(pod("held", "print(1)"))
    assert "a fault that was asked for" in local.await_event("FailedScheduling", "held").message
    breakable.clear()
    local.await_phase("held", "Succeeded")


def test_fault_image_pull_error(breakable: Emulator, local: Kube) -> None:
    breakable.fault(fault="image-pull-error", image="python:*")
    local.create_pod(pod("nopull", "print(1)"))
    assert "Failed to pull" in local.await_event("Failed", "nopull").message
    breakable.clear()
    local.await_phase("nopull", "Succeeded")


def test_fault_kill_ends_a_container_with_137_and_the_reason_asked_for(
    breakable: Emulator, local: Kube
) -> None:
    local.create_pod(pod("victim", LONG))
    local.await_phase("victim", "Running")
    assert breakable.fault(fault="kill", selector="app=victim", reason="OOMKilled")["pods"] == 1
    ended = local.await_phase("victim", "Failed").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")


def test_fault_evict_fails_the_pod_and_its_deployment_replaces_it(breakable: Emulator, local: Kube) -> None:
    local.apps.create_namespaced_deployment(local.namespace, deployment("moved", 1))
    local.await_deployment("moved", lambda one: one.status.ready_replicas == 1)
    victim = (
        local.core.list_namespaced_pod(local.namespace, label_selector="app=moved").items[0].metadata.name
    )
    breakable.fault(fault="evict", selector="app=moved")
    assert local.await_phase(victim, "Failed").status.reason == "Evicted"
    local.await_deployment("moved", lambda one: one.status.ready_replicas == 1)


def test_fault_watch_expired_answers_410_as_often_as_asked(breakable: Emulator) -> None:
    breakable.fault(fault="watch-expired", resource="pods", count=1)
    path = "/api/v1/namespaces/default/pods?watch=true&timeoutSeconds=1"
    assert breakable.call("GET", path)[0] == 410
    assert breakable.call("GET", "/_faults")[1] == {"faults": []}


def test_fault_errors_answers_500_as_often_as_asked_and_only_below_its_path(breakable: Emulator) -> None:
    breakable.fault(fault="errors", count=2, path="/api/v1/nodes")
    codes = [
        breakable.call("GET", path)[0] for path in ("/api/v1/nodes", "/api/v1/pods", *(["/api/v1/nodes"] * 2))
    ]
    assert codes == [500, 200, 500, 200]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"fault": "meteor"}, "meteor"),
        ({"fault": "kill"}, "selector"),
        ({"fault": "errors", "often": 3}, "often"),
        ({"fault": "errors", "count": 0}, "count"),
    ],
)
def test_a_wrong_fault_is_refused_by_field(emulator: Emulator, body: dict[str, Any], named: str) -> None:
    status, answer = emulator.call("POST", "/_faults", body)
    assert status == 400
    assert named in answer["message"]


def test_a_momentary_fault_that_meets_no_pod_is_404(emulator: Emulator) -> None:
    assert emulator.call("POST", "/_faults", {"fault": "kill", "selector": "app=nobody"})[0] == 404


# Start and end


def started_pid(cluster: Emulator, kube: Kube) -> int:
    kube.create_pod(pod("lives", "import os, time; print(os.getpid()); time.sleep(600)"))
    kube.await_phase("lives", "Running")
    return int(next(kube.follow("lives").stream(decode_content=True)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_kills_every_pod_process(tmp_path: Path, number: signal.Signals) -> None:
    with Emulator(tmp_path) as cluster:
        kube = Kube(cluster.kubeconfig, "default")
        pid = started_pid(cluster, kube)
        assert cluster.stop(number) == 0
        assert not alive(pid)


def test_after_kill_9_the_next_start_on_the_folder_ends_what_was_left(tmp_path: Path) -> None:
    cluster = Emulator(tmp_path).start()
    pid = started_pid(cluster, Kube(cluster.kubeconfig, "default"))
    cluster.stop(signal.SIGKILL)
    assert alive(pid)
    with cluster:
        assert "ended 1 processes" in cluster.output
        assert not alive(pid)
        assert cluster.call("GET", "/api/v1/pods")[1]["items"] == []


def test_a_stranger_with_a_remembered_pid_is_left_alone(tmp_path: Path) -> None:
    cluster = Emulator(tmp_path)
    cluster.state.mkdir()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        entry = {"pid": stranger.pid, "started": 1, "boot": boot, "container": "uid/main/0"}
        (cluster.state / "processes.jsonl").write_text(json.dumps(entry) + "\n")
        with cluster:
            assert "ended" not in cluster.output
            assert alive(stranger.pid)


def test_two_clusters_on_one_folder_are_refused_and_two_folders_share_no_address(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Emulator(tmp_path) as first, Emulator(tmp_path / "other") as second:
        with pytest.raises(RuntimeError, match="another local cluster runs on"):
            Emulator(tmp_path).start()
        kubes = [Kube(one.kubeconfig, "default") for one in (first, second)]
        blocks = set()
        for kube in kubes:
            kube.create_pod(
                pod("where", SERVER, container={"env": [POD_IP, {"name": "SICK", "value": "/none"}]})
            )
            blocks.add(kube.await_phase("where", "Running").status.pod_ip.split(".")[1])
        assert len(blocks) == 2


def test_nodes_of_a_file_place_by_arch_gpu_and_taint(tmp_path: Path) -> None:
    nodes = [
        {"name": "a10", "labels": {"sluice.dev/arch": "sm_86"}, "allocatable": {"nvidia.com/gpu": "1"}},
        {
            "name": "h100",
            "labels": {"sluice.dev/arch": "sm_90"},
            "allocatable": {"nvidia.com/gpu": "8"},
            "taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        },
    ]
    (tmp_path / "nodes.json").write_text(json.dumps(nodes))
    with Emulator(tmp_path, "--nodes", str(tmp_path / "nodes.json")) as cluster:
        kube = Kube(cluster.kubeconfig, "default")
        gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
        tolerates = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        hopper = {"sluice.dev/arch": "sm_90"}
        kube.create_pod(pod("first", LONG, container=gpu))
        assert kube.await_phase("first", "Running").spec.node_name == "a10"
        kube.create_pod(pod("second", LONG, container=gpu))
        message = kube.await_event("FailedScheduling", "second").message
        assert "1 Insufficient nvidia.com/gpu" in message
        assert "untolerated taint {nvidia.com/gpu: }" in message
        kube.create_pod(pod("third", LONG, container=gpu, nodeSelector=hopper, tolerations=tolerates))
        assert kube.await_phase("third", "Running").spec.node_name == "h100"
        kube.core.delete_namespaced_pod("first", "default", grace_period_seconds=0)
        assert kube.await_phase("second", "Running").spec.node_name == "a10"


def test_a_claim_is_the_folder_that_the_command_line_gives_it(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "f").write_text("kept")
    with Emulator(tmp_path, "--claim", f"store={tmp_path / 'store'}") as cluster:
        kube = Kube(cluster.kubeconfig, "default")
        container = {"args": ["/store/f"], "volumeMounts": [{"name": "v", "mountPath": "/store"}]}
        volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "store"}}]
        kube.create_pod(
            pod("claims", "import sys; print(open(sys.argv[1]).read())", container=container, volumes=volumes)
        )
        kube.await_phase("claims", "Succeeded")
        assert kube.log("claims") == "kept\n"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--claim", "x"), "NAME=DIR"),
        (("--nodes", "/nonexistent.json"), "/nonexistent.json"),
    ],
)
def test_a_wrong_command_line_ends_with_one_line_that_names_it(
    tmp_path: Path, flags: tuple[str, ...], named: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        Emulator(tmp_path, *flags).start()
    last = str(caught.value).strip().splitlines()[-1]
    assert last.removeprefix("no cluster: ").startswith("error: ")
    assert named in last
