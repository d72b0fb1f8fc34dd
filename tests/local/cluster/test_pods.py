"""Contract of pods, on the emulator and with `-m cluster` on a real cluster: life, logs, failure, deletion."""

from __future__ import annotations

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from tests.local.cluster.kube import PYTHON, Kube, pod


def main(state: client.V1Pod) -> client.V1ContainerStatus:
    return state.status.container_statuses[0]


def test_a_watch_sees_a_pod_from_its_creation_to_its_success_in_order(kube: Kube) -> None:
    version = kube.core.list_namespaced_pod(kube.namespace).metadata.resource_version
    kube.create_pod(pod("good", "print('done')"))
    seen = []
    watcher = watch.Watch()
    for event in watcher.stream(
        kube.core.list_namespaced_pod, kube.namespace, resource_version=version, timeout_seconds=60
    ):
        seen.append((event["type"], event["object"].status.phase))
        if event["object"].status.phase == "Succeeded":
            watcher.stop()
    phases = list(dict.fromkeys(phase for _, phase in seen))
    assert seen[0] == ("ADDED", "Pending")
    assert phases in (["Pending", "Running", "Succeeded"], ["Pending", "Succeeded"])
    assert main(kube.pod("good")).state.terminated.reason == "Completed"


def test_a_failing_pod_carries_its_exit_code_and_the_tail_of_its_log_as_message(kube: Kube) -> None:
    code = "import sys; print('noise'); sys.exit('error: disk is full; free 1 GiB')"
    kube.create_pod(pod("bad", code, container={"terminationMessagePolicy": "FallbackToLogsOnError"}))
    ended = main(kube.await_phase("bad", "Failed", "Succeeded")).state.terminated
    assert (ended.exit_code, ended.reason) == (1, "Error")
    assert ended.message.rstrip().endswith("error: disk is full; free 1 GiB")


def test_the_message_file_wins_over_the_log(kube: Kube) -> None:
    code = "import os; open(os.environ['WHERE'], 'w').write('from the file'); print('from the log'); exit(4)"
    container = {
        "env": [{"name": "WHERE", "value": "/dev/termination-log"}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    kube.create_pod(pod("told", code, container=container))
    ended = main(kube.await_phase("told", "Failed")).state.terminated
    assert (ended.exit_code, ended.message) == (4, "from the file")


def test_logs_can_be_followed_from_the_start_to_the_end_of_the_container(kube: Kube) -> None:
    code = "import time\nfor i in range(4): print('line', i); time.sleep(0.2)"
    kube.create_pod(pod("talker", code))
    kube.await_phase("talker", "Running", "Succeeded")
    assert kube.follow("talker").read().decode().splitlines() == [f"line {i}" for i in range(4)]


def test_logs_are_cut_by_lines_and_carry_timestamps(kube: Kube) -> None:
    kube.create_pod(pod("lines", "print('a'); print('b'); print('c')"))
    kube.await_phase("lines", "Succeeded")
    assert kube.log("lines", tail_lines=2) == "b\nc\n"
    stamp, text = kube.log("lines", tail_lines=1, timestamps=True).split(" ", 1)
    assert (text, stamp[10], stamp[-1]) == ("c\n", "T", "Z")
    assert kube.log("lines", since_seconds=3600) == "a\nb\nc\n"


def test_a_progress_bar_is_one_line_of_the_log_read_at_once_or_followed(kube: Kube) -> None:
    """Each carriage return ended a line once: what follows it has no stamp to cut off, and the answer broke there."""
    bar = "\r 10 % of it all\r100 % of it\x0b\x0c all\n"
    code = f"import sys, time; print('up'); time.sleep(0.5); sys.stdout.write({bar!r}); print('done')"
    kube.create_pod(pod("bar", code))
    kube.await_phase("bar", "Running", "Succeeded")
    assert kube.follow("bar").read().decode() == f"up\n{bar}done\n"
    assert kube.log("bar") == f"up\n{bar}done\n"
    assert kube.log("bar", tail_lines=2) == f"{bar}done\n"


def test_the_log_of_a_pod_that_has_not_started_is_400(kube: Kube) -> None:
    kube.create_pod(pod("waits", "print(1)", nodeSelector={"sluice.dev/none": "here"}))
    with pytest.raises(ApiException) as caught:
        kube.log("waits")
    assert caught.value.status == 400


def test_a_deleted_pod_gets_sigterm_and_its_grace(kube: Kube) -> None:
    code = (
        "import signal, time\n"
        "def end(*_):\n    time.sleep(0.3); print('drained'); raise SystemExit\n"
        "signal.signal(signal.SIGTERM, end); print('up')\nwhile True: time.sleep(0.1)"
    )
    kube.create_pod(pod("drains", code, terminationGracePeriodSeconds=20))
    kube.await_phase("drains", "Running")
    answer = kube.follow("drains")
    lines = answer.stream(decode_content=True)
    assert next(lines).startswith(b"up")
    deleted = kube.core.delete_namespaced_pod("drains", kube.namespace)
    assert deleted.metadata.deletion_timestamp is not None
    assert b"drained" in b"".join(lines)
    kube.await_gone("drains")


def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace(kube: Kube) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"
    kube.create_pod(pod("deaf", code))
    kube.await_phase("deaf", "Running")
    kube.core.delete_namespaced_pod("deaf", kube.namespace, grace_period_seconds=1)
    kube.await_gone("deaf")


def test_a_pod_over_its_memory_limit_is_oom_killed_with_137(kube: Kube) -> None:
    code = (
        "import time; hold = bytearray(300 << 20); hold[::4096] = b'x' * len(hold[::4096]); time.sleep(600)"
    )
    resources = {"limits": {"memory": "100Mi"}}
    kube.create_pod(pod("hungry", code, container={"resources": resources}))
    ended = main(kube.await_phase("hungry", "Failed", "Succeeded")).state.terminated
    assert (ended.reason, ended.exit_code) == ("OOMKilled", 137)


def test_a_crashing_container_is_restarted_with_back_off(kube: Kube) -> None:
    kube.create_pod(pod("crash", "exit(7)", restartPolicy="Always"))
    waits = kube.await_pod(
        "crash",
        lambda one: (
            (
                main(one).restart_count >= 1
                and main(one).state.waiting
                and main(one).state.waiting.reason == "CrashLoopBackOff"
            )
            if one.status.container_statuses
            else False
        ),
    )
    assert main(waits).last_state.terminated.exit_code == 7
    kube.await_pod("crash", lambda one: main(one).restart_count >= 2)
    assert kube.await_event("BackOff", "crash").type == "Warning"


def test_on_failure_restarts_until_the_container_succeeds(kube: Kube) -> None:
    code = "import os, sys; p = os.environ['F']; n = os.path.exists(p); open(p, 'w').close(); sys.exit(0 if n else 1)"
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}], "env": [{"name": "F", "value": "/v/once"}]}
    kube.create_pod(
        pod(
            "again", code, container=mount, restartPolicy="OnFailure", volumes=[{"name": "v", "emptyDir": {}}]
        )
    )
    assert main(kube.await_phase("again", "Succeeded")).restart_count == 1


def test_an_unknown_image_ends_in_image_pull_back_off(kube: Kube) -> None:
    kube.create_pod(pod("noimage", "print(1)", container={"image": "registry.invalid/none:1"}))

    def backs_off(one: client.V1Pod) -> bool:
        states = one.status.container_statuses
        return bool(
            states and states[0].state.waiting and states[0].state.waiting.reason == "ImagePullBackOff"
        )

    assert kube.await_pod("noimage", backs_off).status.phase == "Pending"


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"nodeSelector": {"sluice.dev/arch": "sm_0"}}, id="selector"),
        pytest.param(
            {
                "container": {
                    "resources": {"requests": {"nvidia.com/gpu": "512"}, "limits": {"nvidia.com/gpu": "512"}}
                }
            },
            id="gpus",
        ),
        pytest.param({"container": {"resources": {"requests": {"memory": "900Ti"}}}}, id="memory"),
        pytest.param({"container": {"resources": {"requests": {"cpu": "100k"}}}}, id="cpu"),
    ],
)
def test_a_pod_that_fits_no_node_is_unschedulable_and_says_so(kube: Kube, spec: dict) -> None:
    kube.create_pod(pod("wide", "print(1)", **spec))
    event = kube.await_event("FailedScheduling", "wide")
    assert "nodes are available" in event.message
    conditions = {one.type: one for one in kube.pod("wide").status.conditions}
    assert (conditions["PodScheduled"].status, conditions["PodScheduled"].reason) == (
        "False",
        "Unschedulable",
    )
    assert kube.pod("wide").status.phase == "Pending"


def test_required_node_affinity_places_like_a_selector(kube: Kube) -> None:
    def affinity(operator: str) -> dict:
        term = {"matchExpressions": [{"key": "kubernetes.io/os", "operator": operator, "values": ["linux"]}]}
        required = {"nodeSelectorTerms": [term]}
        return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}

    kube.create_pod(pod("fits", "print(1)", affinity=affinity("In")))
    kube.create_pod(pod("fitsnot", "print(1)", affinity=affinity("NotIn")))
    kube.await_phase("fits", "Succeeded")
    kube.await_event("FailedScheduling", "fitsnot")


def test_init_containers_run_first_and_share_a_volume(kube: Kube) -> None:
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}], "env": [{"name": "F", "value": "/v/word"}]}
    write = {"name": "first", "image": PYTHON, **mount}
    write["command"] = ["python", "-c", "import os; open(os.environ['F'], 'w').write('hello')"]
    body = pod(
        "two",
        "import os; print(open(os.environ['F']).read())",
        container=mount,
        initContainers=[write],
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    kube.create_pod(body)
    kube.await_phase("two", "Succeeded")
    assert kube.log("two") == "hello\n"


def test_a_failing_init_container_fails_the_pod_and_the_rest_never_runs(kube: Kube) -> None:
    bad = {"name": "first", "image": PYTHON, "command": ["python", "-c", "exit(3)"]}
    kube.create_pod(pod("half", "print('ran')", initContainers=[bad]))
    ended = kube.await_phase("half", "Failed")
    assert ended.status.init_container_statuses[0].state.terminated.exit_code == 3
    assert ended.status.container_statuses[0].state.waiting.reason == "PodInitializing"


def test_the_environment_knows_the_pod_and_references_expand(kube: Kube) -> None:
    def field(path: str) -> dict:
        return {"fieldRef": {"fieldPath": path}}

    env = [
        {"name": "NAME", "valueFrom": field("metadata.name")},
        {"name": "IP", "valueFrom": field("status.podIP")},
        {"name": "LABEL", "valueFrom": field("metadata.labels['app']")},
        {"name": "BOTH", "value": "$(NAME)-$$(NAME)-$(NONE)"},
    ]
    code = "import os, sys; print(*(os.environ[n] for n in ('NAME', 'LABEL', 'BOTH', 'IP')), sys.argv[1])"
    kube.create_pod(pod("env", code, container={"env": env, "args": ["arg=$(NAME)"]}))
    ended = kube.await_phase("env", "Succeeded")
    assert kube.log("env").split() == ["env", "env", "env-$(NAME)-$(NONE)", ended.status.pod_ip, "arg=env"]


def test_config_maps_come_as_variables_and_as_files(kube: Kube) -> None:
    kube.core.create_namespaced_config_map(
        kube.namespace, {"metadata": {"name": "conf"}, "data": {"KEY": "42", "f": "text"}}
    )
    container = {
        "env": [
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "KEY"}}},
            {"name": "FILE", "value": "/etc/conf/f"},
        ],
        "volumeMounts": [{"name": "conf", "mountPath": "/etc/conf"}],
    }
    code = "import os; print(os.environ['KEY'], open(os.environ['FILE']).read())"
    kube.create_pod(
        pod("conf", code, container=container, volumes=[{"name": "conf", "configMap": {"name": "conf"}}])
    )
    kube.await_phase("conf", "Succeeded")
    assert kube.log("conf") == "42 text\n"


def test_a_missing_config_map_holds_the_container_back_until_it_is_there(kube: Kube) -> None:
    env = [{"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]
    kube.create_pod(pod("late", "import os; print(os.environ['KEY'])", container={"env": env}))
    kube.await_event("Failed", "late")
    kube.core.create_namespaced_config_map(kube.namespace, {"metadata": {"name": "late"}, "data": {"k": "v"}})
    kube.await_phase("late", "Succeeded")


def test_an_active_deadline_ends_the_pod(kube: Kube) -> None:
    kube.create_pod(pod("slow", "import time; time.sleep(600)", activeDeadlineSeconds=1))
    assert kube.await_phase("slow", "Failed").status.reason == "DeadlineExceeded"
