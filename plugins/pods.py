"""The pods of a run: what one KubernetesPodOperator is told, for each step.

Problem: a pod that asks for nothing starves its node, one that may do anything owns it, one without limits never
ends. Invariant: every pod of a run gets its image, its command of the contract, resources, security contexts, the
store at one place, a time limit and labels from here, and nothing else; no pod answers by XCom: its receipt is in
the store, where the next task verifies it by digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from kubernetes.client import V1VolumeMount

from plugins.runs import BUILD
from plugins.settings import KUBERNETES_CONN_ID, STORE_MOUNT, Addresses
from sluice.errors import EXIT_FATAL, EXIT_USAGE, EXIT_WRONG_DEVICE
from sluice.plan import TENSORRT, TENSORRT_RTX
from sluice.spec import Target

RUN_LABEL: Final = "sluice.dev/run"
GPU: Final = "nvidia.com/gpu"  # the resource of NVIDIA's device plugin, and the taint of nodes that have one
DOCUMENT: Final = "{{ ti.xcom_pull(task_ids='resolve')['document'] }}"
RUN: Final = "{{ ti.xcom_pull(task_ids='resolve')['run_label'] }}"
EXPORTER_RESOURCES: Final[Mapping[str, str]] = {"cpu": "500m", "memory": "4Gi"}
POD_RETRIES: Final = 3
RETRY_DELAY: Final = timedelta(seconds=20)
STEP_TIMEOUT: Final = timedelta(hours=2)  # of export, validation and calibration
BUILD_TIMEOUT: Final = timedelta(hours=6)  # of one engine
STARTUP_TIMEOUT_S: Final = 900  # a node may have to be started and the image pulled

POD_SECURITY: Final[Mapping[str, Any]] = {
    "runAsNonRoot": True,
    "runAsUser": 65_532,
    "runAsGroup": 65_532,
    "fsGroup": 65_532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


class PodRetryPolicy(RetryPolicy):
    """Whether a failed pod is worth another try: its exit code says so (see `sluice.errors`)."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any = None
    ) -> RetryDecision:
        """Exit codes 2, 3 and 5 fail at once; anything else (4, a lost node, an eviction) uses the task's retries.

        Whatever is decided says why: the operator's own error has no word of an eviction or of too little memory.
        """
        task = context["task"] if context else None
        pod, container = getattr(task, "remote_pod", None), getattr(task, "base_container_name", "base")
        code = exit_code(pod, container)
        words = str(exception) if pod is None else last_words(pod, container)
        if code in (EXIT_USAGE, EXIT_FATAL):
            return RetryDecision.fail(f"the pod ended with exit code {code}, a retry cannot mend it: {words}")
        if code == EXIT_WRONG_DEVICE:  # the scheduler goes by labels: it would pick the same node again
            why = f"{_place(pod)} is not what its label says, and a retry would land there again"
            return RetryDecision.fail(f"the pod ended with exit code {code}, {why}: {words}")
        ended = "no exit code is known" if code is None else f"the pod ended with exit code {code}"
        tries = "no try is left" if try_number > max_tries else "it is tried again"
        return RetryDecision.retry(reason=f"{ended}, {tries}: {words}")


def exit_code(pod: Any, container: str) -> int | None:
    """The exit code of `container` in a V1Pod; None when it has not ended or is not known."""
    ended = _ended(pod, container)
    return None if ended is None else int(ended.exit_code)


def last_words(pod: Any, container: str) -> str:
    """Why a V1Pod ended: its last `error:` line, else what Kubernetes says of it, and its last line: a container that
    was killed leaves a line of its work, which is no reason."""
    ended, status = _ended(pod, container), pod.status
    said = ((ended and ended.message) or "").strip().splitlines()
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if errors:
        return errors[-1]
    reason = (
        ended.reason if ended and ended.reason != "Error" else None
    )  # which Kubernetes says of any exit code
    facts = (status and status.reason, status and status.message, reason, said[-1] if said else None)
    return ", ".join(fact for fact in facts if fact) or "it left no message; see its log and its events"


def _ended(pod: Any, container: str) -> Any:
    statuses = pod.status.container_statuses if pod is not None and pod.status else None
    for status in statuses or ():
        if status.name == container and status.state and status.state.terminated:
            return status.state.terminated
    return None


def _place(pod: Any) -> str:
    labels = ", ".join(f"{name}={value}" for name, value in sorted((pod.spec.node_selector or {}).items()))
    return f"node {pod.spec.node_name} ({labels})"


def step(
    task_id: str,
    *,
    service: str,
    image: str,
    command: Sequence[str],
    addresses: Addresses,
    resources: Mapping[str, str] = EXPORTER_RESOURCES,
    timeout: timedelta = STEP_TIMEOUT,
) -> dict[str, Any]:
    """The keyword arguments of the KubernetesPodOperator of one step of a run of `service`."""
    return {
        **common(task_id, service=service, addresses=addresses, timeout=timeout),
        "image": image,
        "cmds": list(command),
        "arguments": ["--store", STORE_MOUNT, "--release", DOCUMENT],
        "container_resources": requirements(resources),
    }


def build(*, service: str, addresses: Addresses) -> dict[str, Any]:
    """What all build pods share: the part that is not mapped."""
    return {
        **common(BUILD, service=service, addresses=addresses, timeout=BUILD_TIMEOUT),
        "cmds": ["python", "-m", "build_images.engine_builder"],
        "map_index_template": "{{ task.arguments[-1] }}",  # the arch
    }


def build_target(target: Target) -> dict[str, Any]:
    """What one target of the spec adds to `build`: where the pod may run, and with what.

    An optional target that cannot be built is skipped; `register` says so and goes on without it.
    """
    resources = target.resources.model_dump()
    if target.backend == TENSORRT:  # it times its candidates: nobody else may use the GPU meanwhile
        resources[GPU] = "1"
    return {
        "image": target.image,
        "node_selector": dict(target.selector),
        "tolerations": tolerations(target),
        "container_resources": requirements(resources),
        "arguments": ["--store", STORE_MOUNT, "--release", DOCUMENT, "--target", target.arch],
        "skip_on_exit_code": [EXIT_FATAL, EXIT_WRONG_DEVICE] if target.optional else None,
    }


def common(task_id: str, *, service: str, addresses: Addresses, timeout: timedelta) -> dict[str, Any]:
    """What every pod of a run has: store, limits, security, labels, and how Airflow follows it."""
    return {
        "task_id": task_id,
        "kubernetes_conn_id": KUBERNETES_CONN_ID,
        "in_cluster": False,
        "namespace": addresses.namespace,
        "name": f"{service}-{task_id}".replace("_", "-"),
        "labels": {RUN_LABEL: RUN, "sluice.dev/service": service, "sluice.dev/step": task_id},
        **_disks(addresses),
        "security_context": dict(POD_SECURITY),
        "container_security_context": dict(CONTAINER_SECURITY),
        "automount_service_account_token": False,
        "termination_message_policy": "FallbackToLogsOnError",  # the last `error:` line becomes the task's error
        "do_xcom_push": False,
        "get_logs": True,
        "log_events_on_failure": True,
        "log_pod_spec_on_failure": False,  # it would print the environment
        "on_finish_action": "delete_succeeded_pod",  # a failed pod stays to be looked at
        "startup_timeout_seconds": STARTUP_TIMEOUT_S,
        "startup_check_interval_seconds": 1,
        "base_container_status_polling_interval": 1,
        "execution_timeout": timeout,
        "retries": POD_RETRIES,
        "retry_delay": RETRY_DELAY,
        "retry_policy": PodRetryPolicy(),
    }


def _disks(addresses: Addresses) -> dict[str, Any]:
    """The store, and a scratch folder, because the root file system is read-only. The operator wants models here."""
    volumes = [{"name": "store", **addresses.store_volume}, {"name": "scratch", "emptyDir": {}}]
    pod = PodGenerator.deserialize_model_dict({"spec": {"containers": [], "volumes": volumes}})
    return {
        "volumes": pod.spec.volumes,
        "volume_mounts": [
            V1VolumeMount(name="store", mount_path=STORE_MOUNT),
            V1VolumeMount(name="scratch", mount_path="/tmp"),  # noqa: S108
        ],
    }


def requirements(resources: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Requests and limits of a container. Memory and devices are limited to what is asked; CPU is not capped."""
    limits = {name: amount for name, amount in resources.items() if name != "cpu"}
    return {"requests": dict(resources), "limits": limits}


def tolerations(target: Target) -> list[dict[str, str]]:
    """Nodes kept free for one architecture, or for GPUs, carry a taint of that name."""
    arch = {"key": "sluice.dev/arch", "operator": "Equal", "value": target.arch, "effect": "NoSchedule"}
    gpu = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
    return [arch, gpu] if target.backend in (TENSORRT, TENSORRT_RTX) else [arch]
