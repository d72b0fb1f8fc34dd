"""What the verbs of the API do to objects: everything between an address and the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from local.cluster import errors, garbage, patches
from local.cluster.admission import admit
from local.cluster.cluster import Cluster
from local.cluster.errors import ApiError
from local.cluster.logs import LogQuery
from local.cluster.objects import Object, copy, is_deleting, key_of, labels_of
from local.cluster.resources import (
    DEPLOYMENTS,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    Resource,
)
from local.cluster.selectors import field_test, label_test
from local.cluster.watching import Selection

Query = Mapping[str, str]
Written = tuple[Object, list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an address names. `namespace` None: all, or a cluster-wide kind."""

    resource: Resource
    namespace: str | None
    name: str | None
    sub: str | None

    @property
    def key(self) -> tuple[str, str]:
        """Raises 400 when the address names no single object."""
        if not self.name or (self.resource.namespaced and self.namespace is None):
            raise errors.bad_request(f"the address names no single one of {self.resource.plural}")
        return self.namespace or "", self.name


class Verbs:
    """create, get, list, replace, patch, delete, log on one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._store = cluster.store

    def get(self, target: Target) -> Object:
        obj = self._store.get(target.resource, *target.key)
        return scale_of(obj) if target.sub == "scale" else obj

    def list(self, target: Target, query: Query) -> tuple[list[Object], str]:
        """(objects, version of the whole list)."""
        if query.get("continue"):
            raise errors.bad_request(
                "continue: this server answers every list in one piece and gives no token"
            )
        selection = self.selection(target, query)
        found = self._store.list(target.resource, target.namespace)
        return [obj for obj in found if selection.has(obj)], str(self._store.version)

    def selection(self, target: Target, query: Query) -> Selection:
        """Raises 400 for selectors that cannot be read, 422 for the streaming list."""
        if query.get("sendInitialEvents"):
            raise ApiError(422, "Invalid", "sendInitialEvents is forbidden: list first, then watch")
        labels = label_test(query.get("labelSelector", ""))
        fields = field_test(target.resource.plural, query.get("fieldSelector", ""))
        name = target.name

        def test(obj: Object) -> bool:
            named = name is None or obj["metadata"]["name"] == name
            return named and labels(labels_of(obj)) and fields(obj)

        return Selection(resource=target.resource, namespace=target.namespace, test=test)

    async def create(self, target: Target, body: Any, query: Query) -> Written:
        resource, dry = target.resource, _dry_run(query)
        if target.name:
            raise ApiError(
                405, "MethodNotAllowed", f"POST on {target.sub or target.name} is not a verb of this API"
            )
        obj = _object(body)
        namespace = target.namespace or ""
        if resource.namespaced:
            self._open_namespace(namespace)
        warnings = admit(resource, obj, namespace, None)
        self._prepare(resource, obj)
        if dry:
            return obj, warnings
        made = self._store.create(resource, obj) if resource is not SERVICES else await self._service(obj)
        return made, warnings

    async def _service(self, obj: Object) -> Object:
        """It listens before anybody sees it: what cannot be opened leaves no object behind."""
        await self._cluster.forwarder.open(obj)
        try:
            return self._store.create(SERVICES, obj)
        except ApiError:
            self._cluster.forwarder.close(obj)
            raise

    def _prepare(self, resource: Resource, obj: Object) -> None:
        """What only the server may say about a new object."""
        meta = obj["metadata"]
        for field in (
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "selfLink",
        ):
            meta.pop(field, None)
        if resource is PODS:
            node = obj["spec"].get("nodeName")
            if node and self._store.find(NODES, "", node) is None:
                raise errors.invalid("Pod", meta["name"], [("spec.nodeName", f"there is no node {node!r}")])
            obj["status"] = {"phase": "Pending"}
        elif resource in (DEPLOYMENTS, REPLICASETS):
            obj["status"] = {"replicas": 0} if resource is REPLICASETS else {}
        elif resource is NAMESPACES:
            meta["labels"] = {**(meta.get("labels") or {}), "kubernetes.io/metadata.name": meta["name"]}
            obj.setdefault("spec", {})
            obj["status"] = {"phase": "Active"}
        elif resource is SERVICES:
            obj["status"] = {"loadBalancer": {}}
        elif resource is NODES:
            raise errors.not_implemented("creating nodes (start with --nodes FILE)")
        elif resource is EVENTS:
            obj.setdefault("type", "Normal")

    def _open_namespace(self, namespace: str) -> None:
        found = self._store.find(NAMESPACES, "", namespace)
        if found is None:
            raise errors.not_found("namespaces", namespace)
        if is_deleting(found):
            text = f"namespace {namespace} is being terminated, so nothing new can be created in it"
            raise ApiError(403, "Forbidden", text)

    def replace(self, target: Target, body: Any, query: Query) -> Written:
        _no_dry_run(query)
        namespace, name = target.key
        old = self._store.get(target.resource, namespace, name)
        new = _object(body)
        if new.setdefault("metadata", {}).setdefault("name", name) != name:
            raise errors.bad_request(f"the name of the object ({new['metadata']['name']}) is not {name}")
        return self._put(target, old, new)

    def patch(self, target: Target, kind: str, body: Any, query: Query) -> Written:
        _no_dry_run(query)
        old = self._store.get(target.resource, *target.key)
        before = scale_of(old) if target.sub == "scale" else old
        new = patches.apply(kind, before, body)
        if not isinstance(new, dict) or "metadata" not in new:
            raise errors.bad_request("the patch leaves no object")
        return self._put(target, old, new)

    def _put(self, target: Target, old: Object, new: Object) -> Written:
        """Stores `new` in place of `old`: the whole object but its status, or just the subresource's part."""
        resource, name = target.resource, target.name or ""
        if target.sub == "scale":
            return scale_of(self._scale(resource, old, new)), []
        new["metadata"]["namespace"] = old["metadata"].get("namespace")
        if not resource.namespaced:
            new["metadata"].pop("namespace")
        if target.sub == "status":
            merged = {**copy(old), "status": new.get("status") or {}}
            merged["metadata"]["resourceVersion"] = new["metadata"].get("resourceVersion")
            return self._store.replace(resource, merged), []
        for field in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
            if field in old["metadata"]:
                new["metadata"].setdefault(field, old["metadata"][field])
        warnings = admit(resource, new, old["metadata"].get("namespace", ""), old)
        if "status" in old:
            new["status"] = copy(old["status"])
        if resource is SERVICES and new["spec"].get("ports") != old["spec"].get("ports"):
            raise errors.not_implemented(
                f"changing the ports of service {name} (delete it and create it again)"
            )
        return self._store.replace(resource, new), warnings

    def _scale(self, resource: Resource, old: Object, scale: Object) -> Object:
        wanted = (scale.get("spec") or {}).get("replicas", 0)
        if not isinstance(wanted, int) or wanted < 0:
            problem = ("spec.replicas", f"{wanted!r} is not a whole number of at least 0")
            raise errors.invalid("Scale", old["metadata"]["name"], [problem])
        new = copy(old)
        new["metadata"]["resourceVersion"] = (scale.get("metadata") or {}).get("resourceVersion")
        new["spec"]["replicas"] = wanted
        return self._store.replace(resource, new)

    def delete(self, target: Target, options: Object, query: Query) -> Object:
        _no_dry_run(query)
        _known_options(options)
        policy = options.get("propagationPolicy") or query.get("propagationPolicy") or "Background"
        policy = "Orphan" if options.get("orphanDependents") else policy  # its older name
        if policy not in {"Background", "Foreground"}:
            raise errors.not_implemented(f"propagationPolicy {policy}")
        grace = options.get("gracePeriodSeconds")
        if grace is None and "gracePeriodSeconds" in query:
            grace = int(query["gracePeriodSeconds"])
        if target.name is None:
            found, version = self.list(target, query)
            for obj in found:
                self._delete(target.resource, obj, grace)
            head = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version}
            return {**head, "metadata": {"resourceVersion": version}, "items": found}
        obj = self._store.get(target.resource, *target.key)
        _preconditions(target.resource, obj, options.get("preconditions") or {})
        return self._delete(target.resource, obj, grace)

    def _delete(self, resource: Resource, obj: Object, grace: int | None) -> Object:
        if resource is NODES:
            raise errors.not_implemented("deleting nodes (start with --nodes FILE)")
        if resource is NAMESPACES and obj["metadata"]["name"] in {"default", "kube-system"}:
            raise ApiError(403, "Forbidden", f"namespace {obj['metadata']['name']} may not be deleted")
        left = garbage.delete(self._store, resource, obj, grace)
        if resource in (PODS, NAMESPACES):
            return left
        meta = obj["metadata"]
        details = {"name": meta["name"], "group": resource.group, "kind": resource.plural, "uid": meta["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def log(self, target: Target, query: Query) -> AsyncIterator[bytes]:
        """The log of one container. Raises 400 and 404 before the first byte."""
        pod = self._store.get(PODS, *target.key)
        wanted = LogQuery.parse(dict(query))
        if query.get("stream", "All") != "All":
            raise errors.not_implemented(f"stream={query['stream']} (stdout and stderr are one log)")
        names = [one["name"] for one in pod["spec"]["containers"]]
        name = query.get("container") or names[0]
        if not query.get("container") and len(names) > 1:
            raise errors.bad_request(f"a container name must be specified, choose one of: {names}")
        worker = self._cluster.kubelet.worker(pod)
        container = worker.find(name) if worker else None
        known = [*names, *(one["name"] for one in pod["spec"].get("initContainers") or [])]
        if name not in known:
            raise errors.bad_request(f"container {name} is not valid for pod {target.name}; it has {known}")
        previous = query.get("previous") in {"true", "True", "1"}
        log = None if container is None else container.previous_log if previous else container.log
        if log is None:
            reason = "PodInitializing" if container is None else _waiting(container.state)
            text = f'container "{name}" in pod "{target.name}" is waiting to start: {reason}'
            if previous:
                text = f'previous terminated container "{name}" in pod "{target.name}" not found'
            raise errors.bad_request(text)
        return log.read(wanted)


def _waiting(state: Object) -> str:
    return (state.get("waiting") or {}).get("reason", "ContainerCreating")


def _object(body: Any) -> Object:
    if not isinstance(body, dict):
        raise errors.bad_request("the body must be one JSON object")
    return body


def _dry_run(query: Query) -> bool:
    if query.get("dryRun", "All") != "All":
        raise errors.bad_request(f"dryRun={query['dryRun']!r}; only All is a value of it")
    return "dryRun" in query


def _no_dry_run(query: Query) -> None:
    if _dry_run(query):
        raise errors.not_implemented("dryRun of this verb (of create it is)")


def _known_options(options: Object) -> None:
    """Of a deletion, in its body. Raises 501 for one that is not honoured, a dry run among them."""
    known = {"gracePeriodSeconds", "propagationPolicy", "orphanDependents", "preconditions"}
    for name, value in options.items():
        if value and name not in {"kind", "apiVersion", *known}:
            raise errors.not_implemented(f"the deletion's option {name} = {value!r}")


def _preconditions(resource: Resource, obj: Object, wanted: Object) -> None:
    for field in ("uid", "resourceVersion"):
        if wanted.get(field) and wanted[field] != obj["metadata"][field]:
            why = f"the precondition {field}={wanted[field]} does not hold, it is {obj['metadata'][field]}"
            raise errors.conflict(resource.qualified, key_of(obj)[1], why)


def scale_of(obj: Object) -> Object:
    """The Scale of a deployment or replica set."""
    meta = obj["metadata"]
    fields = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    labels = obj["spec"]["selector"].get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: meta[field] for field in fields},
        "spec": {"replicas": obj["spec"]["replicas"]},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
        },
    }
