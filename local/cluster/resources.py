"""What is served: kinds, their names and subresources, and the discovery documents made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

_ALL: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind. `group` is empty for the core group; `generation`: its spec changes are counted."""

    plural: str
    kind: str
    singular: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    generation: bool = False
    categories: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As error messages name it: `pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACES: Final = Resource(
    plural="namespaces", kind="Namespace", singular="namespace", namespaced=False, short=("ns",)
)
NODES: Final = Resource(
    plural="nodes", kind="Node", singular="node", namespaced=False, short=("no",), subresources=("status",)
)
PODS: Final = Resource(
    plural="pods",
    kind="Pod",
    singular="pod",
    short=("po",),
    subresources=("status", "log"),
    categories=("all",),
)
EVENTS: Final = Resource(plural="events", kind="Event", singular="event", short=("ev",))
SERVICES: Final = Resource(
    plural="services", kind="Service", singular="service", short=("svc",), categories=("all",)
)
ENDPOINTS: Final = Resource(plural="endpoints", kind="Endpoints", singular="endpoints", short=("ep",))
CONFIGMAPS: Final = Resource(plural="configmaps", kind="ConfigMap", singular="configmap", short=("cm",))
DEPLOYMENTS: Final = Resource(
    plural="deployments",
    kind="Deployment",
    singular="deployment",
    group="apps",
    short=("deploy",),
    subresources=("status", "scale"),
    generation=True,
    categories=("all",),
)
REPLICASETS: Final = Resource(
    plural="replicasets",
    kind="ReplicaSet",
    singular="replicaset",
    group="apps",
    short=("rs",),
    subresources=("status", "scale"),
    generation=True,
    categories=("all",),
)
ENDPOINTSLICES: Final = Resource(
    plural="endpointslices", kind="EndpointSlice", singular="endpointslice", group="discovery.k8s.io"
)
RESOURCES: Final = (
    *(NAMESPACES, NODES, PODS, EVENTS, SERVICES, ENDPOINTS, CONFIGMAPS),
    *(DEPLOYMENTS, REPLICASETS, ENDPOINTSLICES),
)
BY_PLURAL: Final = {(one.group, one.plural): one for one in RESOURCES}
GROUPS: Final = tuple(dict.fromkeys(one.group for one in RESOURCES if one.group))

VERSION: Final[dict[str, str]] = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+sluice-local",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "python",
    "compiler": "cpython",
    "platform": "linux/amd64",
}


def api_versions(address: str) -> dict[str, Any]:
    """The answer of /api."""
    local = {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [local]}


def api_group(group: str) -> dict[str, Any]:
    """The answer of /apis/GROUP, and one line of /apis."""
    version = {"groupVersion": f"{group}/v1", "version": "v1"}
    return {"name": group, "versions": [version], "preferredVersion": version}


def api_groups() -> dict[str, Any]:
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [api_group(group) for group in GROUPS]}


def api_resources(group: str) -> dict[str, Any]:
    """The answer of /api/v1 and /apis/GROUP/v1."""
    lines: list[dict[str, Any]] = []
    for one in RESOURCES:
        if one.group != group:
            continue
        lines.append(_line(one))
        lines.extend(_subresource(one, name) for name in one.subresources)
    version = f"{group}/v1" if group else "v1"
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": lines}


def _line(one: Resource) -> dict[str, Any]:
    line = {
        "name": one.plural,
        "singularName": one.singular,
        "namespaced": one.namespaced,
        "kind": one.kind,
        "verbs": list(_ALL),
        "shortNames": list(one.short),
        "categories": list(one.categories),
    }
    return {key: value for key, value in line.items() if value != []}


def _subresource(one: Resource, name: str) -> dict[str, Any]:
    line = {
        "name": f"{one.plural}/{name}",
        "singularName": "",
        "namespaced": one.namespaced,
        "kind": one.kind,
    }
    if name == "log":
        return {**line, "verbs": ["get"]}
    if name == "scale":
        line |= {"kind": "Scale", "group": "autoscaling", "version": "v1"}
    return {**line, "verbs": ["get", "patch", "update"]}
