"""`Accept: …;as=Table`: what `kubectl get` prints. The server decides the columns, as in Kubernetes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from local.cluster.objects import Object, is_deleting, is_ready, parse_time
from local.cluster.resources import Resource

Cells = list[Any]
_WIDE: Final = 1  # the priority of a column that only `-o wide` shows


def age(stamp: str | None) -> str:
    """How long ago, as kubectl writes it: 5s, 3m12s, 4h, 2d."""
    if not stamp:
        return "<unknown>"
    seconds = max(0, int((datetime.now(UTC) - parse_time(stamp)).total_seconds()))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 600:
        rest = f"{seconds % 60}s" if seconds % 60 else ""
        return f"{seconds // 60}m{rest}"
    if seconds < 3 * 3600:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 48 * 3600 else f"{seconds // 86400}d"


def _age(obj: Object) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _name(obj: Object) -> str:
    return obj["metadata"]["name"]


def pod_state(pod: Object) -> str:
    """The STATUS column: a waiting or failing container's reason before the phase."""
    status = pod.get("status") or {}
    if is_deleting(pod):
        return "Terminating"
    for place, one in enumerate(status.get("initContainerStatuses") or []):
        state = one["state"]
        if state.get("terminated", {}).get("exitCode") == 0:
            continue
        reason = (state.get("terminated") or state.get("waiting") or {}).get("reason", "")
        total = len(pod["spec"]["initContainers"])
        return f"Init:{reason}" if reason and reason != "PodInitializing" else f"Init:{place}/{total}"
    for one in status.get("containerStatuses") or []:
        state = one["state"].get("waiting") or one["state"].get("terminated") or {}
        if state.get("reason") and state["reason"] != "Completed":
            return state["reason"]
    if status.get("phase") == "Succeeded":
        return "Completed"
    return status.get("reason") or status.get("phase", "Unknown")


def _pod(pod: Object) -> Cells:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    ready = sum(one["ready"] for one in statuses)
    restarts = sum(one["restartCount"] for one in statuses)
    total = len(pod["spec"]["containers"])
    address = (pod.get("status") or {}).get("podIP", "<none>")
    node = pod["spec"].get("nodeName", "<none>")
    return [
        _name(pod),
        f"{ready}/{total}",
        pod_state(pod),
        str(restarts),
        _age(pod),
        address,
        node,
        "<none>",
        "<none>",
    ]


def _node(node: Object) -> Cells:
    state = "Ready" if is_ready(node) else "NotReady"
    if node["spec"].get("unschedulable"):
        state += ",SchedulingDisabled"
    info = node["status"]["nodeInfo"]
    address = node["status"]["addresses"][0]["address"]
    wide = [address, "<none>", info["osImage"], info["kernelVersion"], info["containerRuntimeVersion"]]
    return [_name(node), state, "<none>", _age(node), info["kubeletVersion"], *wide]


def _selector(selector: Object | None) -> str:
    return ",".join(f"{key}={value}" for key, value in (selector or {}).items()) or "<none>"


def _template(obj: Object) -> list[str]:
    containers = obj["spec"]["template"]["spec"]["containers"]
    names = ",".join(one["name"] for one in containers)
    return [
        names,
        ",".join(one["image"] for one in containers),
        _selector(obj["spec"]["selector"].get("matchLabels")),
    ]


def _deployment(obj: Object) -> Cells:
    status = obj.get("status") or {}
    ready = f"{status.get('readyReplicas', 0)}/{obj['spec']['replicas']}"
    counts = [status.get("updatedReplicas", 0), status.get("availableReplicas", 0)]
    return [_name(obj), ready, *counts, _age(obj), *_template(obj)]


def _replica_set(obj: Object) -> Cells:
    status = obj.get("status") or {}
    counts = [obj["spec"]["replicas"], status.get("replicas", 0), status.get("readyReplicas", 0)]
    return [_name(obj), *counts, _age(obj), *_template(obj)]


def _service(obj: Object) -> Cells:
    spec = obj["spec"]
    ports = ",".join(f"{one['port']}/{one['protocol']}" for one in spec.get("ports") or []) or "<none>"
    selector = _selector(spec.get("selector"))
    return [_name(obj), spec["type"], spec["clusterIP"], "<none>", ports, _age(obj), selector]


def _endpoints(obj: Object) -> Cells:
    pairs = [
        f"{address['ip']}:{port['port']}"
        for subset in obj.get("subsets") or []
        for address in subset.get("addresses") or []
        for port in subset.get("ports") or []
    ]
    more = f" + {len(pairs) - 3} more..." if len(pairs) > 3 else ""
    return [_name(obj), (",".join(pairs[:3]) + more) or "<none>", _age(obj)]


def _slice(obj: Object) -> Cells:
    ports = ",".join(str(one["port"]) for one in obj.get("ports") or []) or "<unset>"
    addresses = ",".join(address for one in obj.get("endpoints") or [] for address in one["addresses"])
    return [_name(obj), obj["addressType"], ports, addresses or "<unset>", _age(obj)]


def _event(obj: Object) -> Cells:
    about = obj["involvedObject"]
    seen = age(obj.get("lastTimestamp") or obj["metadata"].get("creationTimestamp"))
    return [seen, obj["type"], obj["reason"], f"{about['kind'].lower()}/{about['name']}", obj["message"]]


def _config_map(obj: Object) -> Cells:
    return [_name(obj), len(obj.get("data") or {}) + len(obj.get("binaryData") or {}), _age(obj)]


def _namespace(obj: Object) -> Cells:
    return [_name(obj), obj["status"]["phase"], _age(obj)]


_TEMPLATE: Final = ("Containers*", "Images*", "Selector*")
_NODE_WIDE: Final = ("Internal-IP*", "External-IP*", "OS-Image*", "Kernel-Version*", "Container-Runtime*")
_KINDS: Final[dict[str, tuple[tuple[str, ...], Callable[[Object], Cells]]]] = {
    "Pod": (
        ("Name", "Ready", "Status", "Restarts", "Age", "IP*", "Node*", "Nominated Node*", "Readiness Gates*"),
        _pod,
    ),
    "Node": (
        ("Name", "Status", "Roles", "Age", "Version", *_NODE_WIDE),
        _node,
    ),
    "Deployment": (("Name", "Ready", "Up-to-date", "Available", "Age", *_TEMPLATE), _deployment),
    "ReplicaSet": (("Name", "Desired", "Current", "Ready", "Age", *_TEMPLATE), _replica_set),
    "Service": (("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector*"), _service),
    "Endpoints": (("Name", "Endpoints", "Age"), _endpoints),
    "EndpointSlice": (("Name", "AddressType", "Ports", "Endpoints", "Age"), _slice),
    "Event": (("Last Seen", "Type", "Reason", "Object", "Message"), _event),
    "ConfigMap": (("Name", "Data", "Age"), _config_map),
    "Namespace": (("Name", "Status", "Age"), _namespace),
}


def table(resource: Resource, objects: list[Object], version: str, include: str = "Metadata") -> Object:
    """The Table of `objects`. `include`: Metadata, Object or None, as the query asks."""
    columns, cells = _KINDS[resource.kind]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": [_column(title) for title in columns],
        "rows": [{"cells": cells(obj), "object": _included(obj, include)} for obj in objects],
    }


def _column(title: str) -> Object:
    return {
        "name": title.removesuffix("*"),
        "type": "string",
        "format": "name" if title == "Name" else "",
        "description": "",
        "priority": _WIDE if title.endswith("*") else 0,
    }


def _included(obj: Object, include: str) -> Object | None:
    if include == "None":
        return None
    if include == "Object":
        return obj
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
