"""The fields that this cluster honours. A field outside this page with a value that means something is refused.

Each entry says what becomes of a field: a nested dict or one-item list describes what is in it; ANY takes
every value; `Only` takes the listed ones; UNENFORCED takes it and answers with a `Warning` header, because
it can only restrict a correct program (a security context, a CPU limit). Absent, empty, false and zero values
of any other field are what Kubernetes does by default and pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

ANY: Final = "any"
UNENFORCED: Final = "unenforced"
Schema = Any  # dict of schemas | list of one schema | ANY | UNENFORCED | Only


@dataclass(frozen=True, slots=True)
class Only:
    """The values that are honoured; another one is refused."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One field that is refused or not enforced."""

    path: str
    kind: Literal["refused", "unenforced"]
    why: str


_HTTP: Final = {"path": ANY, "port": ANY, "host": ANY, "scheme": Only(("HTTP",)), "httpHeaders": ANY}
_EXEC: Final = {"command": ANY}
_PROBE: Final = {
    "httpGet": _HTTP,
    "tcpSocket": {"port": ANY, "host": ANY},
    "exec": _EXEC,
    **dict.fromkeys(("initialDelaySeconds", "periodSeconds", "timeoutSeconds"), ANY),
    **dict.fromkeys(("successThreshold", "failureThreshold", "terminationGracePeriodSeconds"), ANY),
}
_SECURITY: Final = {
    **dict.fromkeys(("runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup"), UNENFORCED),
    **dict.fromkeys(("fsGroupChangePolicy", "supplementalGroups", "seccompProfile"), UNENFORCED),
    "readOnlyRootFilesystem": UNENFORCED,
    "allowPrivilegeEscalation": UNENFORCED,
    "capabilities": {"drop": UNENFORCED},
}
_ENV: Final = {
    "name": ANY,
    "value": ANY,
    "valueFrom": {
        "fieldRef": {"fieldPath": ANY, "apiVersion": ANY},
        "configMapKeyRef": {"name": ANY, "key": ANY, "optional": ANY},
        "resourceFieldRef": {"resource": ANY, "containerName": ANY, "divisor": ANY},
    },
}
_CONTAINER: Final = {
    **dict.fromkeys(("name", "image", "command", "args", "workingDir", "imagePullPolicy"), ANY),
    "env": [_ENV],
    "envFrom": [{"prefix": ANY, "configMapRef": {"name": ANY, "optional": ANY}}],
    "ports": [{"containerPort": ANY, "name": ANY, "protocol": Only(("TCP",))}],
    "resources": {"requests": ANY, "limits": ANY},
    "volumeMounts": [{"name": ANY, "mountPath": ANY, "subPath": ANY, "readOnly": UNENFORCED}],
    "livenessProbe": _PROBE,
    "readinessProbe": _PROBE,
    "startupProbe": _PROBE,
    "lifecycle": {"preStop": {"exec": _EXEC, "httpGet": _HTTP, "sleep": {"seconds": ANY}}},
    "terminationMessagePath": ANY,
    "terminationMessagePolicy": Only(("File", "FallbackToLogsOnError")),
    "securityContext": _SECURITY,
}
_VOLUME: Final = {
    "name": ANY,
    "hostPath": {
        "path": ANY,
        "type": Only(("", "Directory", "DirectoryOrCreate", "File", "FileOrCreate")),
    },
    "emptyDir": {"medium": UNENFORCED, "sizeLimit": UNENFORCED},
    "configMap": {
        "name": ANY,
        "items": [{"key": ANY, "path": ANY}],
        "optional": ANY,
        "defaultMode": UNENFORCED,
    },
    "persistentVolumeClaim": {"claimName": ANY, "readOnly": UNENFORCED},
}
POD_SPEC: Final = {
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "volumes": [_VOLUME],
    "restartPolicy": Only(("Always", "OnFailure", "Never")),
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": ANY}]
            },
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": ANY, "preference": {"matchExpressions": ANY}}
            ],
        }
    },
    **dict.fromkeys(("nodeName", "nodeSelector", "tolerations"), ANY),
    **dict.fromkeys(("terminationGracePeriodSeconds", "activeDeadlineSeconds"), ANY),
    "automountServiceAccountToken": Only((False,)),
    "enableServiceLinks": Only((False,)),
    "serviceAccountName": Only(("default",)),
    "serviceAccount": Only(("default",)),
    "imagePullSecrets": UNENFORCED,
    "dnsPolicy": Only(("ClusterFirst", "Default")),
    "schedulerName": Only(("default-scheduler",)),
    "preemptionPolicy": Only(("PreemptLowerPriority",)),
    "securityContext": _SECURITY,
}
_TEMPLATE: Final = {"metadata": ANY, "spec": POD_SPEC}
DEPLOYMENT_SPEC: Final = {
    **dict.fromkeys(("replicas", "selector", "progressDeadlineSeconds", "revisionHistoryLimit"), ANY),
    "template": _TEMPLATE,
    "strategy": {
        "type": Only(("RollingUpdate", "Recreate")),
        "rollingUpdate": {"maxSurge": ANY, "maxUnavailable": ANY},
    },
}
REPLICA_SET_SPEC: Final = {"replicas": ANY, "selector": ANY, "template": _TEMPLATE}
SERVICE_SPEC: Final = {
    "selector": ANY,
    "ports": [
        {"name": ANY, "port": ANY, "targetPort": ANY, "protocol": Only(("TCP",)), "appProtocol": ANY},
    ],
    "type": Only(("ClusterIP",)),
    "clusterIP": ANY,
    "clusterIPs": ANY,
    "publishNotReadyAddresses": ANY,
    "sessionAffinity": Only(("None",)),
    "internalTrafficPolicy": Only(("Cluster",)),
    "ipFamilies": Only((["IPv4"],)),
    "ipFamilyPolicy": Only(("SingleStack",)),
}
METADATA: Final = {
    **dict.fromkeys(("name", "generateName", "namespace", "labels", "annotations", "uid", "generation"), ANY),
    **dict.fromkeys(("resourceVersion", "creationTimestamp", "selfLink", "managedFields"), ANY),
    **dict.fromkeys(("deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences"), ANY),
}
SPECS: Final[dict[str, Schema]] = {
    "pods": POD_SPEC,
    "deployments": DEPLOYMENT_SPEC,
    "replicasets": REPLICA_SET_SPEC,
    "services": SERVICE_SPEC,
}


def check(value: Any, schema: Schema, path: str) -> Iterator[Finding]:
    """Everything in `value` that the schema refuses or does not enforce."""
    if isinstance(schema, str) and schema == ANY:
        return
    if isinstance(schema, dict) and isinstance(value, dict):
        for key, item in value.items():
            yield from _check_field(item, schema.get(key), f"{path}.{key}")
    elif isinstance(schema, list) and isinstance(value, list):
        for place, item in enumerate(value):
            yield from check(item, schema[0], f"{path}[{place}]")
    elif isinstance(schema, dict | list):
        wanted = "an object" if isinstance(schema, dict) else "a list"
        yield Finding(path=path, kind="refused", why=f"{path} = {value!r} where {wanted} is expected")


def _check_field(value: Any, schema: Schema | None, path: str) -> Iterator[Finding]:
    if isinstance(schema, Only):
        if value is not None and value not in schema.values:
            known = " or ".join(repr(one) for one in schema.values)
            yield Finding(path=path, kind="refused", why=f"{path} = {value!r} (only {known})")
    elif schema == UNENFORCED:
        if value is not None:
            yield Finding(path=path, kind="unenforced", why=path)
    elif schema is None:
        if value not in (None, False, "", 0, [], {}):
            yield Finding(path=path, kind="refused", why=f"{path} = {value!r}")
    elif value is not None:
        yield from check(value, schema, path)
