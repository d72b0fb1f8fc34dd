"""Deployments and replica sets: so many pods of this template, and from one template to the next."""

from __future__ import annotations

from datetime import UTC, datetime

from local.cluster.controller import Controller
from local.cluster.objects import (
    Object,
    condition,
    copy,
    is_deleting,
    is_ready,
    is_terminal,
    key_of,
    labels_of,
    now_text,
    owner_of,
    parse_time,
    random_suffix,
    set_condition,
)
from local.cluster.recorder import Recorder
from local.cluster.resources import DEPLOYMENTS, PODS, REPLICASETS, Resource
from local.cluster.rollout import Sizes, amount, plan, template_hash
from local.cluster.store import Change, Store

_HASH = "pod-template-hash"
_REVISION = "deployment.kubernetes.io/revision"


def owned(store: Store, resource: Resource, owner: Object) -> list[Object]:
    """The objects in the owner's namespace whose controller it is."""
    uid = owner["metadata"]["uid"]
    found = store.list(resource, owner["metadata"]["namespace"])
    return [one for one in found if (owner_of(one) or {}).get("uid") == uid]


def reference(owner: Object) -> Object:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _set_status(status: Object, counts: dict[str, int]) -> None:
    """Zero counts are left out, as Kubernetes does, except `replicas`."""
    for name, count in counts.items():
        if count or name == "replicas":
            status[name] = count
        else:
            status.pop(name, None)


class ReplicaSets(Controller):
    """Key: namespace/name."""

    def __init__(self, store: Store, recorder: Recorder) -> None:
        super().__init__(store)
        self._recorder = recorder

    def interest(self, change: Change) -> None:
        if change.resource is REPLICASETS and change.type != "DELETED":
            self.enqueue("/".join(key_of(change.obj)))
        elif change.resource is PODS:
            owner = owner_of(change.obj)
            if owner is not None and owner["kind"] == "ReplicaSet":
                self.enqueue(f"{change.obj['metadata']['namespace']}/{owner['name']}")

    def reconcile(self, key: str) -> None:
        namespace, name = key.split("/")
        own = self.store.find(REPLICASETS, namespace, name)
        if own is None:
            return
        pods = [pod for pod in owned(self.store, PODS, own) if not is_deleting(pod) and not is_terminal(pod)]
        lacking = own["spec"]["replicas"] - len(pods)
        for _ in range(lacking):
            self._create(own)
        for pod in sorted(pods, key=_expendable)[: max(0, -lacking)]:
            delete_pod(self.store, pod)
            text = f"Deleted pod: {pod['metadata']['name']}"
            self._recorder.record(own, "replicaset-controller", "Normal", "SuccessfulDelete", text)
        self._status(own)

    def _create(self, own: Object) -> None:
        meta, template = own["metadata"], own["spec"]["template"]
        name = f"{meta['name']}-{random_suffix()}"
        pod = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                **copy(template["metadata"]),
                "name": name,
                "generateName": f"{meta['name']}-",
                "namespace": meta["namespace"],
                "ownerReferences": [reference(own)],
            },
            "spec": copy(template["spec"]),
            "status": {"phase": "Pending"},
        }
        self.store.create(PODS, pod)
        self._recorder.record(
            own, "replicaset-controller", "Normal", "SuccessfulCreate", f"Created pod: {name}"
        )

    def _status(self, own: Object) -> None:
        pods = [pod for pod in owned(self.store, PODS, own) if not is_deleting(pod) and not is_terminal(pod)]
        ready = sum(is_ready(pod) for pod in pods)
        counts = {"replicas": len(pods), "fullyLabeledReplicas": len(pods)}
        counts |= {"readyReplicas": ready, "availableReplicas": ready}

        def write(obj: Object) -> None:
            status = obj["status"] = copy(obj.get("status") or {})
            status["observedGeneration"] = obj["metadata"]["generation"]
            _set_status(status, counts)

        self.store.mutate(REPLICASETS, *key_of(own), write)


def _expendable(pod: Object) -> tuple[bool, bool, str]:
    """Which pods go first: unscheduled, then not ready, then the youngest (by name where equally old)."""
    stamp = pod["metadata"]["creationTimestamp"]
    youngest_first = "".join(chr(0x10FFFF - ord(letter)) for letter in stamp)
    return bool(pod["spec"].get("nodeName")), is_ready(pod), youngest_first


def delete_pod(store: Store, pod: Object, grace_s: int | None = None) -> Object:
    """Asks for a pod's graceful end, or removes it at once when nothing of it can run."""
    key = key_of(pod)
    if not pod["spec"].get("nodeName"):
        return store.remove(PODS, *key)
    wanted = pod["spec"]["terminationGracePeriodSeconds"] if grace_s is None else grace_s

    def mark(obj: Object) -> None:
        meta = obj["metadata"]
        if "deletionTimestamp" not in meta or wanted < meta["deletionGracePeriodSeconds"]:
            moment = datetime.fromtimestamp(datetime.now(UTC).timestamp() + wanted, UTC)
            meta["deletionTimestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
            meta["deletionGracePeriodSeconds"] = wanted

    return store.mutate(PODS, *key, mark)


class Deployments(Controller):
    """Key: namespace/name. One replica set per template; the newest is the one of the spec's template."""

    def __init__(self, store: Store, recorder: Recorder) -> None:
        super().__init__(store)
        self._recorder = recorder

    def interest(self, change: Change) -> None:
        obj = change.obj
        if change.resource is DEPLOYMENTS and change.type != "DELETED":
            self.enqueue("/".join(key_of(obj)))
        elif change.resource is REPLICASETS and (owner := owner_of(obj)):
            self.enqueue(f"{obj['metadata']['namespace']}/{owner['name']}")
        elif change.resource is PODS and change.type == "DELETED" and (owner := owner_of(obj)):
            replica_set = self.store.find(REPLICASETS, obj["metadata"]["namespace"], owner["name"])
            if replica_set is not None and (owner := owner_of(replica_set)):
                self.enqueue(f"{obj['metadata']['namespace']}/{owner['name']}")

    def reconcile(self, key: str) -> None:
        namespace, name = key.split("/")
        own = self.store.find(DEPLOYMENTS, namespace, name)
        if own is None:
            return
        sets = owned(self.store, REPLICASETS, own)
        digest = template_hash(own["spec"]["template"])
        new = next((one for one in sets if labels_of(one).get(_HASH) == digest), None)
        new = new or self._new_set(own, digest, sets)
        old = sorted((one for one in sets if one["metadata"]["uid"] != new["metadata"]["uid"]), key=_revision)
        spec = own["spec"]
        sizes = [self._sizes(one, spec["strategy"]) for one in (new, *old)]
        size, olds = plan(spec["replicas"], spec["strategy"], sizes[0], sizes[1:])
        for one, wanted in [(new, size), *zip(old, olds, strict=True)]:
            self._scale(own, one, wanted)
        idle = [
            one
            for one in old
            if not one["spec"]["replicas"] and not (one.get("status") or {}).get("replicas")
        ]
        for one in idle[: max(0, len(idle) - spec["revisionHistoryLimit"])]:
            self.store.remove(REPLICASETS, *key_of(one))
        self._status(own, new)

    def _new_set(self, own: Object, digest: str, sets: list[Object]) -> Object:
        meta = own["metadata"]
        revision = max((_revision(one) for one in sets), default=0) + 1
        template = copy(own["spec"]["template"])
        template["metadata"]["labels"] = {**(template["metadata"].get("labels") or {}), _HASH: digest}
        selector = copy(own["spec"]["selector"])
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), _HASH: digest}
        made = {
            "kind": "ReplicaSet",
            "apiVersion": "apps/v1",
            "metadata": {
                "name": f"{meta['name']}-{digest}",
                "namespace": meta["namespace"],
                "labels": template["metadata"]["labels"],
                "annotations": {_REVISION: str(revision)},
                "ownerReferences": [reference(own)],
            },
            "spec": {"replicas": 0, "selector": selector, "template": template},
            "status": {"replicas": 0},
        }
        return self.store.create(REPLICASETS, made)

    def _sizes(self, one: Object, strategy: Object) -> Sizes:
        """For Recreate an old pod counts until its last process is gone."""
        available = (one.get("status") or {}).get("availableReplicas", 0)
        if strategy["type"] == "Recreate":
            available = len(owned(self.store, PODS, one))
        return Sizes(wanted=one["spec"]["replicas"], available=available)

    def _scale(self, own: Object, one: Object, wanted: int) -> None:
        have = one["spec"]["replicas"]
        if have == wanted:
            return
        self.store.mutate(REPLICASETS, *key_of(one), lambda obj: obj["spec"].update(replicas=wanted))
        way = "up" if wanted > have else "down"
        text = f"Scaled {way} replica set {one['metadata']['name']} from {have} to {wanted}"
        self._recorder.record(own, "deployment-controller", "Normal", "ScalingReplicaSet", text)

    def _status(self, own: Object, new: Object) -> None:
        sets = owned(self.store, REPLICASETS, own)
        total = sum((one.get("status") or {}).get("replicas", 0) for one in sets)
        ready = sum((one.get("status") or {}).get("readyReplicas", 0) for one in sets)
        current = self.store.get(REPLICASETS, *key_of(new))
        updated = (current.get("status") or {}).get("replicas", 0)
        wanted = own["spec"]["replicas"]
        counts = {
            "replicas": total,
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        counts["unavailableReplicas"] = max(0, wanted - ready)
        complete = updated == total == wanted == ready

        def write(obj: Object) -> None:
            obj["metadata"].setdefault("annotations", {})[_REVISION] = str(_revision(current))
            status = obj["status"] = copy(obj.get("status") or {})
            moved = any(status.get(name, 0) != count for name, count in counts.items())
            status["observedGeneration"] = obj["metadata"]["generation"]
            _set_status(status, counts)
            self._conditions(obj, current, complete=complete, moved=moved, ready=ready)

        self.store.mutate(DEPLOYMENTS, *key_of(own), write)

    def _conditions(self, own: Object, new: Object, *, complete: bool, moved: bool, ready: int) -> None:
        conditions = own["status"].setdefault("conditions", [])
        wanted, strategy = own["spec"]["replicas"], own["spec"]["strategy"]
        missing = (strategy.get("rollingUpdate") or {}).get("maxUnavailable", 0)
        enough = ready >= wanted - amount(missing, wanted, up=False)
        word = "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"
        text = f"Deployment {'has' if enough else 'does not have'} minimum availability."
        available = {"type": "Available", "status": str(enough), "reason": word, "message": text}
        old = condition(own, "Available")
        available["lastUpdateTime"] = (
            old["lastUpdateTime"] if old and old["status"] == str(enough) else now_text()
        )
        set_condition(conditions, available)
        set_condition(conditions, self._progress(own, new, complete=complete, moved=moved))

    def _progress(self, own: Object, new: Object, *, complete: bool, moved: bool) -> Object:
        """Kubernetes' Progressing: done, going on, or for too long without a step."""
        name, limit = new["metadata"]["name"], own["spec"]["progressDeadlineSeconds"]
        old = condition(own, "Progressing")
        since = now_text() if old is None or moved else old["lastUpdateTime"]
        late = (datetime.now(UTC) - parse_time(since)).total_seconds() >= limit
        about = f'ReplicaSet "{name}"'
        if complete:
            status, reason, text = "True", "NewReplicaSetAvailable", f"{about} has successfully progressed."
        elif late:
            status, reason, text = "False", "ProgressDeadlineExceeded", f"{about} has timed out progressing."
        else:
            status, reason, text = "True", "ReplicaSetUpdated", f"{about} is progressing."
            if old is None or moved:
                self.enqueue_in(limit + 1, "/".join(key_of(own)))
        return {
            "type": "Progressing",
            "status": status,
            "reason": reason,
            "message": text,
            "lastUpdateTime": since,
        }


def _revision(one: Object) -> int:
    return int((one["metadata"].get("annotations") or {}).get(_REVISION, 0))
