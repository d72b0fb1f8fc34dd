"""The pod manifests, whole: what a cluster gets is what stands here."""

from types import SimpleNamespace

import pytest
from kubernetes import client

from plugins.pods import PodRetryPolicy, build, build_target, step
from plugins.settings import Addresses, AddressesError
from tests.plugins.environment import VOLUME
from tests.sluice.specs import PINNED, parse

ADDRESSES = Addresses(namespace="sluice", store_volume=VOLUME)
COMMON_POD = {
    "automountServiceAccountToken": False,
    "restartPolicy": "Never",
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "volumes": [{"name": "store", "hostPath": {"path": "/srv/sluice"}}, {"name": "scratch", "emptyDir": {}}],
}
COMMON_CONTAINER = {
    "name": "base",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
    "terminationMessagePolicy": "FallbackToLogsOnError",
    "volumeMounts": [
        {"name": "store", "mountPath": "/var/lib/sluice/store"},
        {"name": "scratch", "mountPath": "/tmp"},
    ],
}


def manifest(arguments):
    """The pod as it is sent, without the empty fields that the operator adds."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    operator = KubernetesPodOperator(**arguments, random_name_suffix=False)
    pod = client.ApiClient().sanitize_for_serialization(operator.build_pod_request_obj(dry_run=True))
    pod["metadata"]["labels"].pop("airflow_version")
    return filled(pod)


def filled(value):
    """Without what is empty or false, except what says no on purpose."""
    if isinstance(value, dict):
        said = {"automountServiceAccountToken", "allowPrivilegeEscalation", "emptyDir"}
        return {k: filled(v) for k, v in value.items() if k in said or v not in (None, False, [], {})}
    return [filled(item) for item in value] if isinstance(value, list) else value


def test_the_exporters_pod():
    arguments = step(
        "export",
        service="tiny",
        image="exporter:1",
        command=("python", "-m", "build_images.exporter", "export"),
        addresses=ADDRESSES,
    )
    labels = {
        "sluice.dev/run": "{{ ti.xcom_pull(task_ids='resolve')['run_label'] }}",
        "sluice.dev/service": "tiny",
        "sluice.dev/step": "export",
    }
    document = "{{ ti.xcom_pull(task_ids='resolve')['document'] }}"
    container = {
        **COMMON_CONTAINER,
        "image": "exporter:1",
        "command": ["python", "-m", "build_images.exporter", "export"],
        "args": ["--store", "/var/lib/sluice/store", "--release", document],
        "resources": {"requests": {"cpu": "500m", "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
    }
    assert manifest(arguments) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tiny-export", "namespace": "sluice", "labels": labels},
        "spec": {**COMMON_POD, "containers": [container]},
    }


@pytest.mark.parametrize(
    ("backend", "device"), [("tensorrt", {"nvidia.com/gpu": "1"}), ("tensorrt_rtx", {}), ("onnxruntime", {})]
)
def test_a_build_pod_runs_where_its_target_says_with_what_it_asks_for(backend, device):
    """And with one whole GPU where it times engines on it; the others build without."""
    spec = parse(
        {
            "targets.0.arch": "sm_80",
            "targets.0.backend": backend,
            "targets.0.image": PINNED,
            "targets.0.selector": {"nvidia.com/gpu.product": "A100"},
            "targets.0.resources": {"cpu": "4", "memory": "16Gi"},
        }
    )
    arguments = build(service="tiny", addresses=ADDRESSES)
    arguments.pop("map_index_template")
    pod = manifest({**arguments, **build_target(spec.targets[0])})["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "A100"}
    gpu = [] if backend == "onnxruntime" else ["nvidia.com/gpu"]
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["sluice.dev/arch", *gpu]
    (container,) = pod["containers"]
    assert container["args"][-2:] == ["--target", "sm_80"]
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "16Gi", **device},
        "limits": {"memory": "16Gi", **device},
    }


@pytest.mark.parametrize(("optional", "codes"), [(True, [3, 5]), (False, None)])
def test_only_an_optional_target_may_be_skipped_for_what_a_retry_cannot_mend(optional, codes):
    target = parse({"targets.0.optional": False}).targets[0].model_copy(update={"optional": optional})
    assert build_target(target)["skip_on_exit_code"] == codes


def ended(code, message=None, *, reason=None, **status):
    terminated = client.V1ContainerStateTerminated(exit_code=code, message=message, reason=reason)
    state = client.V1ContainerState(terminated=terminated)
    facts = {"name": "base", "image": "b", "image_id": "", "ready": False, "restart_count": 0}
    base = client.V1ContainerStatus(**facts, state=state)
    spec = client.V1PodSpec(
        containers=[], node_name="gpu-7", node_selector={"nvidia.com/gpu.product": "NVIDIA-L4"}
    )
    return client.V1Pod(spec=spec, status=client.V1PodStatus(container_statuses=[base], **status))


def decided(pod, try_number=1):
    task = SimpleNamespace(remote_pod=pod, base_container_name="base")
    return PodRetryPolicy().evaluate(RuntimeError("no answer"), try_number, 3, {"task": task})


LOST = client.V1Pod(
    spec=client.V1PodSpec(containers=[]), status=client.V1PodStatus(reason="Evicted", message="low on disk")
)


@pytest.mark.parametrize(
    ("pod", "action", "why"),
    [
        pytest.param(
            ended(3, "loading\nerror: no FP32"),
            "fail",
            "exit code 3, a retry cannot mend it: no FP32",
            id="the-model-or-the-spec-is-at-fault",
        ),
        pytest.param(
            ended(2, "usage: x", reason="Error"),
            "fail",
            "exit code 2, a retry cannot mend it: usage: x",
            id="usage",
        ),
        pytest.param(
            ended(5, "error: target sm_89 landed on sm_80 (A100)"),
            "fail",
            "node gpu-7 (nvidia.com/gpu.product=NVIDIA-L4) is not what its label says, and a retry would land there "
            "again: target sm_89 landed on sm_80 (A100)",
            id="the-scheduler-would-pick-the-same-node",
        ),
        pytest.param(ended(4, "error: no room"), "retry", "4, it is tried again: no room", id="retryable"),
        pytest.param(
            ended(137, "loading\nbuilding sm_80", reason="OOMKilled"),
            "retry",
            "137, it is tried again: OOMKilled, building sm_80",
            id="killed",
        ),
        pytest.param(
            LOST, "retry", "no exit code is known, it is tried again: Evicted, low on disk", id="evicted"
        ),
        pytest.param(ended(1), "retry", "it left no message; see its log", id="silent"),
        pytest.param(None, "retry", "no exit code is known, it is tried again: no answer", id="never-seen"),
    ],
)
def test_the_exit_code_says_whether_a_retry_makes_sense_and_the_reason_goes_with_it(pod, action, why):
    decision = decided(pod)
    assert decision.action.value == action
    assert why in decision.reason


def test_the_last_try_says_that_it_is_the_last_and_why_the_pod_ended():
    decision = decided(ended(4, "error: no room in /tmp"), try_number=4)
    assert decision.reason == "the pod ended with exit code 4, no try is left: no room in /tmp"


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"a": {}, "b": {}}', '{"hostPath": "/x"}'])
def test_a_store_volume_that_is_none_names_the_variable_and_an_example(text):
    env = {} if text is None else {"SLUICE_STORE_VOLUME": text}
    with pytest.raises(AddressesError, match=r"SLUICE_STORE_VOLUME.*persistentVolumeClaim"):
        Addresses.from_env(env)
