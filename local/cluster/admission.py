"""What happens to an object before it is stored: refusals, defaults, the rules on changing it.

Order: fields that this cluster does not honour (501), values that are wrong (422, all at once), defaults.
Every refusal names the field; what is taken but not enforced comes back as warnings.
"""

from __future__ import annotations

import re
from typing import Final

from local.cluster import errors, schema
from local.cluster.affinity import selector_problems
from local.cluster.objects import Object, copy, labels_of, random_suffix
from local.cluster.podspec import XCOM_SIDECAR, all_containers, default_pod_spec, pod_spec_problems
from local.cluster.resources import DEPLOYMENTS, ENDPOINTS, PODS, REPLICASETS, SERVICES, Resource
from local.cluster.rollout import amount
from local.cluster.selectors import selector_test

Problems = list[tuple[str, str]]

_NAME: Final = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
_LABEL_VALUE: Final = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")
_LABEL_KEY: Final = re.compile(r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
_OPEN_PATHS: Final = ("tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds")


def admit(resource: Resource, obj: Object, namespace: str, old: Object | None) -> list[str]:
    """Completes `obj` in place for storing; returns warnings. Raises 400, 422, 501 (module docstring)."""
    _identify(resource, obj, namespace)
    warnings = _refuse(resource, obj)
    _default(resource, obj, old)
    name = obj["metadata"]["name"]
    if found := [*_metadata_problems(obj["metadata"]), *_problems(resource, obj, old)]:
        raise errors.invalid(resource.kind, name, found)
    return warnings


def _identify(resource: Resource, obj: Object, namespace: str) -> None:
    for field, wanted in (("kind", resource.kind), ("apiVersion", resource.api_version)):
        if obj.setdefault(field, wanted) != wanted:
            raise errors.bad_request(f"{field} {obj[field]!r} does not match {wanted!r} of the address")
    meta = obj.setdefault("metadata", {})
    if resource.namespaced and (meta.get("namespace") or namespace) != namespace:
        text = f"the namespace of the object ({meta['namespace']}) does not match that of the request ({namespace})"
        raise errors.bad_request(text)
    if resource.namespaced:
        meta["namespace"] = namespace
    if not meta.get("name") and meta.get("generateName"):
        meta["name"] = meta["generateName"] + random_suffix()
    if not meta.get("name"):
        raise errors.invalid(resource.kind, "", [("metadata.name", "name or generateName is required")])


def _refuse(resource: Resource, obj: Object) -> list[str]:
    findings = list(schema.check(obj["metadata"], schema.METADATA, "metadata"))
    if resource.plural in schema.SPECS:
        findings += schema.check(obj.get("spec") or {}, schema.SPECS[resource.plural], "spec")
    refused = [one.why for one in findings if one.kind == "refused"]
    names = {container.get("name") for _, container in all_containers(obj.get("spec") or {})}
    if resource is PODS and XCOM_SIDECAR in names:
        # The operator ends that sidecar by `kill -2 $(pgrep -f sh)`: here, every shell of this machine.
        refused.append(
            f"container {XCOM_SIDECAR} (set do_xcom_push=False and read the result from the store)"
        )
    if refused:
        raise errors.not_implemented(f"{resource.kind} {obj['metadata']['name']}: " + "; ".join(refused))
    return sorted({one.why for one in findings if one.kind == "unenforced"})


def _default(resource: Resource, obj: Object, old: Object | None) -> None:
    if resource is PODS:
        default_pod_spec(obj.setdefault("spec", {}))
    elif resource in (DEPLOYMENTS, REPLICASETS):
        _default_workload(resource, obj)
    elif resource is SERVICES:
        _default_service(obj, old)
    elif resource is ENDPOINTS:
        obj.setdefault("subsets", [])


def _default_workload(resource: Resource, obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if spec.get("replicas") is None:
        spec["replicas"] = 1
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    default_pod_spec(template.setdefault("spec", {}))
    if resource is DEPLOYMENTS:
        strategy = spec.setdefault("strategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.get("rollingUpdate") or {}
            strategy["rollingUpdate"] = {"maxSurge": "25%", "maxUnavailable": "25%", **rolling}
        spec.setdefault("progressDeadlineSeconds", 600)
        spec.setdefault("revisionHistoryLimit", 10)


def _default_service(obj: Object, old: Object | None) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if old is not None:
        spec.setdefault("clusterIP", old["spec"]["clusterIP"])
        spec.setdefault("clusterIPs", old["spec"]["clusterIPs"])
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))


def _metadata_problems(meta: Object) -> Problems:
    found: Problems = []
    if not _NAME.match(meta["name"]):
        found.append(("metadata.name", f"{meta['name']!r} is not lowercase letters, digits, '-' and '.'"))
    found += label_problems(meta.get("labels"), "metadata.labels")
    for key, value in (meta.get("annotations") or {}).items():
        if not isinstance(value, str):
            found.append((f"metadata.annotations.{key}", f"{value!r} is not a string"))
    return found


def label_problems(labels: object, path: str) -> Problems:
    if labels is not None and not isinstance(labels, dict):
        return [(path, f"{labels!r} is not an object")]
    found: Problems = []
    for key, value in (labels or {}).items():
        if not _LABEL_KEY.match(key):
            found.append((path, f"{key!r} is not a label key"))
        if not isinstance(value, str) or not _LABEL_VALUE.match(value):
            found.append(
                (f"{path}.{key}", f"{value!r} is not a label value (at most 63 of letters, digits, '-_.')")
            )
    return found


def _problems(resource: Resource, obj: Object, old: Object | None) -> Problems:
    if resource is PODS:
        return pod_spec_problems(obj["spec"], "spec") + ([] if old is None else _pod_change(obj, old))
    if resource in (DEPLOYMENTS, REPLICASETS):
        return _workload_problems(obj, old)
    if resource is SERVICES:
        return _service_problems(obj, old)
    return []


def _pod_change(obj: Object, old: Object) -> Problems:
    """A pod's spec is fixed but for a few fields, as in Kubernetes; an image change would need a restart."""
    new_spec, old_spec = copy(obj["spec"]), copy(old["spec"])
    for path in _OPEN_PATHS:
        new_spec.pop(path, None)
        old_spec.pop(path, None)
    changed = sorted(key for key in {*new_spec, *old_spec} if new_spec.get(key) != old_spec.get(key))
    return [(f"spec.{key}", f"may not change; only {', '.join(_OPEN_PATHS)} may") for key in changed]


def _workload_problems(obj: Object, old: Object | None) -> Problems:
    spec = obj["spec"]
    found = pod_spec_problems(spec["template"]["spec"], "spec.template.spec")
    found += label_problems(labels_of(spec["template"]), "spec.template.metadata.labels")
    if not isinstance(spec["replicas"], int) or spec["replicas"] < 0:
        found.append(("spec.replicas", f"{spec['replicas']!r} is not a whole number of at least 0"))
    if not spec.get("selector"):
        found.append(("spec.selector", "is required and must not be empty"))
    elif wrong := list(selector_problems(spec["selector"], "spec.selector")):
        found += wrong
    elif not selector_test(spec["selector"])(labels_of(spec["template"])):
        found.append(("spec.template.metadata.labels", "the selector does not match the template's labels"))
    if old is not None and old["spec"]["selector"] != spec.get("selector"):
        found.append(("spec.selector", "is immutable; make another object"))
    rolling = (spec.get("strategy") or {}).get("rollingUpdate") or {}
    for name, value in rolling.items():
        try:
            amount(value, 1, up=True)
        except ValueError as error:
            found.append((f"spec.strategy.rollingUpdate.{name}", str(error)))
    if spec["template"]["spec"].get("restartPolicy") != "Always":
        found.append(("spec.template.spec.restartPolicy", "must be Always"))
    return found


def _service_problems(obj: Object, old: Object | None) -> Problems:
    spec = obj["spec"]
    found = label_problems(spec.get("selector"), "spec.selector")
    if not isinstance(spec.get("clusterIP") or "", str):
        found.append(("spec.clusterIP", f"{spec['clusterIP']!r} is not an address"))
    if not spec.get("ports") and spec.get("clusterIP") != "None":
        found.append(("spec.ports", "is required"))
    names = [port.get("name", "") for port in spec.get("ports") or []]
    if len(names) != len(set(names)):
        found.append(("spec.ports", "each port needs its own name"))
    for place, port in enumerate(spec.get("ports") or []):
        if not isinstance(port.get("port"), int) or not 0 < port["port"] < 65536:
            found.append((f"spec.ports[{place}].port", f"{port.get('port')!r} is not in 1..65535"))
    if old is not None and old["spec"]["clusterIP"] != spec["clusterIP"]:
        found.append(("spec.clusterIP", "is immutable"))
    return found
