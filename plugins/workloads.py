"""The Deployment and Service of one version on one architecture, as Kubernetes gets them.

Problem: the controller finds a version's pods by names and labels alone. Invariant: names, labels, arguments and
the mount of the store are those of the contract; an engine is mounted read-only and named by its digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from plugins.pods import CONTAINER_SECURITY, POD_SECURITY, requirements, tolerations
from plugins.settings import STORE_MOUNT, Addresses
from sluice.spec import Server, Target

SERVICE_LABEL: Final = "sluice.dev/service"
VERSION_LABEL: Final = "sluice.dev/version"
TARGET_LABEL: Final = "sluice.dev/target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One version on one architecture."""

    service: str
    version: str
    target: Target
    server: Server
    engine_key: str
    replicas: int

    @property
    def name(self) -> str:
        """Of the Deployment and of the Service."""
        return f"{self.service}-v{self.version}-{self.target.arch}".replace("_", "-")

    @property
    def selector(self) -> dict[str, str]:
        return {SERVICE_LABEL: self.service, VERSION_LABEL: self.version, TARGET_LABEL: self.target.arch}

    def for_controller(self) -> dict[str, Any]:
        return {"arch": self.target.arch, "deployment": self.name, "port": self.server.port}


def deployment(workload: Workload, addresses: Addresses) -> dict[str, Any]:
    """The Deployment: the spec's server command, with the arguments of `serving.runtime` appended."""
    spec = {
        "replicas": workload.replicas,
        "selector": {"matchLabels": workload.selector},
        "template": {
            "metadata": {"labels": workload.selector},
            "spec": {
                "containers": [_container(workload)],
                "nodeSelector": dict(workload.target.selector),
                "tolerations": tolerations(workload.target),
                "securityContext": dict(POD_SECURITY),
                "automountServiceAccountToken": False,
                "volumes": [{"name": "store", **addresses.store_volume}, {"name": "scratch", "emptyDir": {}}],
            },
        },
    }
    metadata = {"name": workload.name, "namespace": addresses.namespace, "labels": workload.selector}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def service(workload: Workload, addresses: Addresses) -> dict[str, Any]:
    """The Service of the same name; the controller watches its Endpoints."""
    port = workload.server.port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": workload.name, "namespace": addresses.namespace, "labels": workload.selector},
        "spec": {
            "selector": workload.selector,
            "ports": [{"name": "http", "port": port, "targetPort": port}],
        },
    }


def _container(workload: Workload) -> dict[str, Any]:
    server, mount = workload.server, {"name": "store", "mountPath": STORE_MOUNT, "readOnly": True}
    arguments = (
        *("--engine", f"{STORE_MOUNT}/engine/{workload.engine_key}"),
        *("--model", workload.service, "--version", workload.version),
        *("--host", "$(POD_IP)", "--port", str(server.port)),
    )
    env = [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    env += [{"name": name, "value": value} for name, value in sorted(dict(server.env).items())]
    probe = {"path": "/v2/health/ready", "port": server.port}
    return {
        "name": "server",
        "image": server.image,
        "command": list(server.command),
        "args": list(arguments),
        "env": env,
        "ports": [{"name": "http", "containerPort": server.port}],
        "readinessProbe": {"httpGet": probe, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 3},
        "resources": requirements(server.resources.model_dump()),
        "securityContext": dict(CONTAINER_SECURITY),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount, {"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108
    }
