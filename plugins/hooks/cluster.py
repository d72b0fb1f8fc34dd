"""The part of Kubernetes that serves versions: Deployments and Services, through the official client.

Problem: a retry must not undo what the controller scaled meanwhile, and a pod that can never start must not be
waited for until a time limit. Invariants: `apply` is idempotent and sets the number of replicas only when it creates;
`await_ready` ends early, with the pod's own words, on what waiting cannot mend (an image that a registry does not give
counts as such only after a while: its next answer may be another); deleting what is gone is fine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from plugins.settings import KUBERNETES_CONN_ID, Addresses
from plugins.workloads import SERVICE_LABEL, VERSION_LABEL, Workload, deployment, service
from sluice.errors import FatalError, RetryableError

DELETE_AFTER: Final = "sluice.dev/delete-after"  # annotation: when a turned-back version's pods may go
HOPELESS: Final = frozenset({"InvalidImageName", "CreateContainerConfigError"})
NO_IMAGE: Final = frozenset({"ErrImagePull", "ImagePullBackOff"})
IMAGE_PATIENCE_S: Final = 60.0  # Kubernetes tries about three times in it
MANY_RESTARTS: Final = 4
POLL_S: Final = 1.0


def connect(addresses: Addresses, conn_id: str = KUBERNETES_CONN_ID) -> Cluster:
    """The cluster behind an Airflow connection of type kubernetes."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    return Cluster(KubernetesHook(conn_id=conn_id, in_cluster=False).get_conn(), addresses)


class Cluster:
    """The part of Kubernetes that serves versions. `api`: an ApiClient of the official package."""

    def __init__(self, api: Any, addresses: Addresses) -> None:
        from kubernetes import client  # here: a parsed DAG need not pay for it

        self._apps, self._core = client.AppsV1Api(api), client.CoreV1Api(api)
        self._absent = client.ApiException
        self._addresses = addresses
        self._namespace = addresses.namespace

    def apply(self, workload: Workload) -> str:
        """Create the Deployment and Service, or bring them up to date. Returns what was done."""
        wanted = deployment(workload, self._addresses)
        self._create_or_patch(
            service(workload, self._addresses),
            self._core.create_namespaced_service,
            self._core.patch_namespaced_service,
        )
        without_replicas = {**wanted, "spec": {k: v for k, v in wanted["spec"].items() if k != "replicas"}}
        return self._create_or_patch(
            wanted,
            self._apps.create_namespaced_deployment,
            self._apps.patch_namespaced_deployment,
            patch=without_replicas,
        )

    def _create_or_patch(
        self,
        body: dict[str, Any],
        create: Callable[..., Any],
        patch_call: Callable[..., Any],
        patch: dict[str, Any] | None = None,
    ) -> str:
        try:
            create(self._namespace, body)
            return "created"
        except self._absent as error:
            if error.status != 409:
                raise kubernetes_error(error, f"{body['kind']} {body['metadata']['name']}") from error
        try:
            patch_call(body["metadata"]["name"], self._namespace, patch or body)
        except self._absent as error:
            raise kubernetes_error(error, f"{body['kind']} {body['metadata']['name']}") from error
        return "updated"

    def await_ready(
        self,
        workloads: Sequence[Workload],
        *,
        timeout_s: float,
        say: Callable[[str], None],
        image_patience_s: float = IMAGE_PATIENCE_S,
    ) -> None:
        """Wait until every Deployment has all its replicas ready, with a line at each change."""
        deadline, said, images = time.monotonic() + timeout_s, "", MissingImages(image_patience_s)
        while True:
            states = {workload.name: self._replicas(workload) for workload in workloads}
            obstacles = [obstacle for workload in workloads for obstacle in self._obstacles(workload, images)]
            line = ", ".join(f"{name}: {ready}/{wanted} ready" for name, (ready, wanted) in states.items())
            line += f" ({'; '.join(obstacles)})" if obstacles else ""
            if line != said:
                said = line
                say(line)
            if all(ready >= wanted > 0 for ready, wanted in states.values()):
                return
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"not ready after {timeout_s:.0f} s: {line}",
                    f"kubectl -n {self._namespace} describe pods -l {SERVICE_LABEL}={workloads[0].service}",
                )
            time.sleep(POLL_S)

    def _replicas(self, workload: Workload) -> tuple[int, int]:
        try:
            found = self._apps.read_namespaced_deployment(workload.name, self._namespace)
        except self._absent as error:
            raise kubernetes_error(error, f"Deployment {workload.name}") from error
        seen = found.status.observed_generation or 0
        fresh = found.metadata.generation is None or seen >= found.metadata.generation
        return ((found.status.ready_replicas or 0) if fresh else 0, found.spec.replicas or 0)

    def _obstacles(self, workload: Workload, images: MissingImages) -> list[str]:
        """Why pods do not start yet, each reason once. FatalError, with the container's words, if they never will."""
        selector = ",".join(f"{name}={value}" for name, value in workload.selector.items())
        found: list[str] = []
        for pod in self._core.list_namespaced_pod(self._namespace, label_selector=selector).items:
            for status in pod.status.container_statuses or ():
                waiting = status.state.waiting if status.state else None
                reason = waiting.reason if waiting else None
                container = f"{pod.metadata.name}/{status.name}"
                missing = images.given_up(container, reason, now_s=time.monotonic())
                if missing or reason in HOPELESS or status.restart_count >= MANY_RESTARTS:
                    raise FatalError(
                        f"pod {pod.metadata.name}: {reason or 'restarts'} ({_last_words(status)})",
                        f"kubectl -n {self._namespace} logs {pod.metadata.name} --previous",
                    )
                found += [reason] if reason else []
            for condition in pod.status.conditions or ():
                if condition.type == "PodScheduled" and condition.status == "False":
                    found.append(condition.message or condition.reason or "not scheduled")
        return list(dict.fromkeys(found))

    def of_version(self, service_name: str, version: str) -> list[str]:
        """The names of a version's Deployments, by their labels: ready or not, told to the controller or not."""
        found = self._list(f"{SERVICE_LABEL}={service_name},{VERSION_LABEL}={version}")
        return [item.metadata.name for item in found]

    def _list(self, selector: str) -> list[Any]:
        try:
            return self._apps.list_namespaced_deployment(self._namespace, label_selector=selector).items
        except self._absent as error:
            raise kubernetes_error(error, f"Deployments of {selector}") from error

    def delete(self, name: str) -> None:
        """Delete the Deployment and the Service of this name; absent is fine."""
        for call in (self._apps.delete_namespaced_deployment, self._core.delete_namespaced_service):
            try:
                call(name, self._namespace)
            except self._absent as error:
                if error.status != 404:
                    raise kubernetes_error(error, name) from error

    def keep_until(self, name: str, *, keep_s: float, now: datetime) -> None:
        """Write on a Deployment when it may go; absent is fine."""
        stamp = (now + timedelta(seconds=keep_s)).astimezone(UTC).isoformat(timespec="seconds")
        try:
            self._apps.patch_namespaced_deployment(
                name, self._namespace, {"metadata": {"annotations": {DELETE_AFTER: stamp}}}
            )
        except self._absent as error:
            if error.status != 404:
                raise kubernetes_error(error, name) from error

    def sweep(self, service_name: str, *, now: datetime) -> list[str]:
        """Delete what an earlier run kept to be looked at and whose time is over. Returns the names."""
        gone = []
        for item in self._list(f"{SERVICE_LABEL}={service_name}"):
            stamp = (item.metadata.annotations or {}).get(DELETE_AFTER)
            if stamp and datetime.fromisoformat(stamp) <= now:
                self.delete(item.metadata.name)
                gone.append(item.metadata.name)
        return gone


class MissingImages:
    """Since when each container has waited for an image that the registry does not give.

    Between two tries a container may show as merely creating; only one that started has got its image.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since_s: dict[str, float] = {}

    def given_up(self, container: str, reason: str | None, *, now_s: float) -> bool:
        """Note why `container` waits (None: it does not); True once its image was missing for the whole patience."""
        if reason in NO_IMAGE:
            return now_s - self._since_s.setdefault(container, now_s) >= self._patience_s
        if reason != "ContainerCreating":
            self._since_s.pop(container, None)
        return False


def kubernetes_error(error: Any, what: str) -> Exception:
    """An ApiException as one of ours: 4xx is our fault, anything else may pass."""
    status = error.status or 0
    said = " ".join(str(error.body or error.reason or error).split())[:400]
    if 400 <= status < 500 and status not in (408, 409, 429):
        return FatalError(
            f"Kubernetes refused {what} ({status}): {said}", "correct the spec or the rights of Airflow"
        )
    return RetryableError(
        f"Kubernetes could not serve {what} ({status}): {said}", "the task tries again by itself"
    )


def _last_words(status: Any) -> str:
    ended = (status.state.terminated if status.state else None) or (
        status.last_state.terminated if status.last_state else None
    )
    waiting = status.state.waiting if status.state else None
    if ended is not None:
        words = (ended.message or ended.reason or "").strip().splitlines()
        return f"exit code {ended.exit_code}" + (f": {words[-1]}" if words else "")
    return (waiting.message or waiting.reason) if waiting is not None else "no reason given"
