"""Defaults and value checks of a pod's spec, wherever it stands: in a pod or in a template."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from local.cluster.affinity import placement_problems
from local.cluster.objects import Object, quantity

Problems = list[tuple[str, str]]

_LABEL: Final = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
_ENV: Final = re.compile(r"^[A-Za-z_.-][A-Za-z0-9_.-]*$")
FIELD_REFS: Final = frozenset(
    {"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"}
    | {"status.podIP", "status.hostIP"}
)
_SUBSCRIPT: Final = re.compile(r"^metadata\.(labels|annotations)\['[^']+'\]$")
PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")
XCOM_SIDECAR: Final = "airflow-xcom-sidecar"


def default_pod_spec(spec: Object) -> None:
    """Fills in what Kubernetes fills in; changes `spec`."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("securityContext", {})
    if spec.get("terminationGracePeriodSeconds") is None:
        spec["terminationGracePeriodSeconds"] = 30
    for _, container in all_containers(spec):
        _default_container(container)


def _default_container(container: Object) -> None:
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", "IfNotPresent")
    resources = container.setdefault("resources", {})
    if resources.get("limits"):
        resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")
    for name in PROBES:
        if container.get(name):
            probe = container[name]
            for field, value in (("periodSeconds", 10), ("timeoutSeconds", 1), ("failureThreshold", 3)):
                probe.setdefault(field, value)
            probe.setdefault("successThreshold", 1)


def all_containers(spec: Object) -> Iterator[tuple[str, Object]]:
    """(path in the spec, container), init containers first."""
    for group in ("initContainers", "containers"):
        containers = spec.get(group)
        for place, container in enumerate(containers if isinstance(containers, list) else []):
            if isinstance(container, dict):
                yield f"{group}[{place}]", container


def pod_spec_problems(spec: Object, path: str) -> Problems:
    """Every wrong value, by field path."""
    found: Problems = []
    if not spec.get("containers"):
        found.append((f"{path}.containers", "is required"))
    names = [container.get("name") for _, container in all_containers(spec)]
    found += [(f"{path}.containers", f"the name {name!r} is used twice") for name in sorted(_twice(names))]
    volumes = {volume.get("name"): volume for volume in spec.get("volumes") or []}
    for place, volume in enumerate(spec.get("volumes") or []):
        found += _volume_problems(volume, f"{path}.volumes[{place}]")
    found += placement_problems(spec, path)
    for where, container in all_containers(spec):
        found += _container_problems(container, f"{path}.{where}", set(volumes))
    grace = spec["terminationGracePeriodSeconds"]
    if not isinstance(grace, int) or grace < 0:
        found.append((f"{path}.terminationGracePeriodSeconds", f"{grace!r} is not seconds of at least 0"))
    return found


def _twice(names: list[Any]) -> set[str]:
    return {str(name) for name in names if names.count(name) > 1}


def _volume_problems(volume: Object, path: str) -> Problems:
    kinds = [key for key, value in volume.items() if key != "name" and value is not None]
    if not _LABEL.match(str(volume.get("name", ""))):
        return [
            (f"{path}.name", f"{volume.get('name')!r} is not a name of lowercase letters, digits and '-'")
        ]
    if len(kinds) != 1:
        return [
            (path, f"names {len(kinds)} volume types ({', '.join(kinds) or 'none'}); exactly one is needed")
        ]
    return []


def _container_problems(container: Object, path: str, volumes: set[str]) -> Problems:
    found: Problems = []
    if not _LABEL.match(str(container.get("name", ""))):
        found.append(
            (f"{path}.name", f"{container.get('name')!r} is not a name of lowercase letters, digits, '-'")
        )
    if not container.get("image"):
        found.append((f"{path}.image", "is required"))
    for field in ("command", "args"):
        value = container.get(field) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            found.append((f"{path}.{field}", f"{value!r} is not a list of strings"))
    for place, env in enumerate(container.get("env") or []):
        found += _env_problems(env, f"{path}.env[{place}]")
    for place, mount in enumerate(container.get("volumeMounts") or []):
        found += _mount_problems(mount, f"{path}.volumeMounts[{place}]", volumes)
    found += _resource_problems(container["resources"], f"{path}.resources")
    for name in PROBES:
        if container.get(name):
            found += _probe_problems(container[name], f"{path}.{name}")
    return found


def _mount_problems(mount: Object, path: str, volumes: set[str]) -> Problems:
    found: Problems = []
    if mount.get("name") not in volumes:
        found.append((f"{path}.name", f"{mount.get('name')!r} is no volume of the pod"))
    if not str(mount.get("mountPath", "")).startswith("/"):
        found.append((f"{path}.mountPath", f"{mount.get('mountPath')!r} is not absolute"))
    if ".." in str(mount.get("subPath", "")).split("/"):
        found.append((f"{path}.subPath", "must not contain '..'"))
    return found


def _env_problems(env: Object, path: str) -> Problems:
    if not _ENV.match(str(env.get("name", ""))):
        return [(f"{path}.name", f"{env.get('name')!r} is not a variable name")]
    if env.get("value") is not None and not isinstance(env["value"], str):
        return [(f"{path}.value", f"{env['value']!r} is not a string")]
    field = ((env.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
    if field is not None and field not in FIELD_REFS and not _SUBSCRIPT.match(field):
        return [
            (f"{path}.valueFrom.fieldRef.fieldPath", f"{field!r} is none of {', '.join(sorted(FIELD_REFS))}")
        ]
    return []


def _resource_problems(resources: Object, path: str) -> Problems:
    found: Problems = []
    amounts: dict[str, dict[str, Decimal]] = {"requests": {}, "limits": {}}
    for group, read in amounts.items():
        for name, value in (resources.get(group) or {}).items():
            try:
                read[name] = quantity(value)
            except ValueError as error:
                found.append((f"{path}.{group}.{name}", str(error)))
    for name, limit in amounts["limits"].items():
        if amounts["requests"].get(name, limit) > limit:
            found.append((f"{path}.requests.{name}", f"is above the limit {resources['limits'][name]}"))
    return found


def _probe_problems(probe: Object, path: str) -> Problems:
    kinds = [name for name in ("httpGet", "tcpSocket", "exec") if probe.get(name)]
    if len(kinds) != 1:
        return [(path, f"names {len(kinds)} handlers; exactly one of httpGet, tcpSocket, exec is needed")]
    if kinds[0] != "exec" and probe[kinds[0]].get("port") is None:
        return [(f"{path}.{kinds[0]}.port", "is required")]
    numbers = ("periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold")
    return [
        (f"{path}.{name}", f"{probe[name]!r} is not a whole number of at least 1")
        for name in numbers
        if not isinstance(probe[name], int) or probe[name] < 1
    ]
