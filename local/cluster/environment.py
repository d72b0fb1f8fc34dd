"""What a container's process sees: argv, environment and working folder, made from the pod's spec.

There is no file system of its own. A volume is a folder of this machine, and its mountPath is replaced by
that folder wherever it stands as a path in command, args, workingDir and values of the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Final

from local.cluster.images import Image
from local.cluster.objects import Object, quantity

_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ConfigError(Exception):
    """The container cannot be created from its spec (CreateContainerConfigError); the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One process to start."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a container runs: `mounts` maps a mountPath to a folder or file of this machine."""

    pod: Object
    container: Object
    image: Image
    mounts: Mapping[str, Path]
    config_maps: Mapping[str, Object]
    node_address: str


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` by its value; `$$` is one `$`; an unknown name stays as it stands, as in Kubernetes."""

    def one(match: re.Match[str]) -> str:
        if match.group() == "$$":
            return "$"
        return env.get(match.group(1), match.group())

    return _REFERENCE.sub(one, text)


def relocate(text: str, mounts: Mapping[str, Path]) -> str:
    """`text` with each mountPath that stands as a whole path or as its beginning replaced."""
    if not mounts:
        return text
    longest_first = sorted(mounts, key=len, reverse=True)
    paths = "|".join(re.escape(path.rstrip("/")) for path in longest_first)
    pattern = re.compile(rf"(?<![\w./-])({paths})(?=/|$|[^\w.-])")
    by_path = {path.rstrip("/"): str(target) for path, target in mounts.items()}
    return pattern.sub(lambda match: by_path[match.group(1)], text)


def command(place: Place) -> Command:
    """Raises ConfigError when the spec names something that does not exist."""
    env = environment(place)
    own = place.container
    head = [expand(one, env) for one in own.get("command") or place.image.entrypoint]
    # As in Kubernetes, a command of the spec also drops the image's default arguments.
    tail = own.get("args") or (() if own.get("command") else place.image.cmd)
    argv = [*head, *(expand(one, env) for one in tail)]
    if not argv:
        raise ConfigError(f"image {own['image']} has no entrypoint and the container gives no command")
    folder = relocate(own["workingDir"], place.mounts) if own.get("workingDir") else place.image.cwd
    return Command(argv=tuple(relocate(one, place.mounts) for one in argv), env=env, cwd=Path(folder))


def environment(place: Place) -> dict[str, str]:
    """The whole environment: nothing of this machine's leaks in but a system PATH and HOME."""
    system = {
        "PATH": _SYSTEM_PATH,
        "HOME": "/tmp",  # noqa: S108 - a home that exists; nothing of ours is kept there
        "LANG": "C.UTF-8",
        "HOSTNAME": place.pod["metadata"]["name"],
    }
    env = {**system, **place.image.env}
    env["PATH"] = ":".join((*place.image.path, env["PATH"]))
    own: dict[str, str] = {}
    for source in place.container.get("envFrom") or []:
        own.update(_from_config_map(source, place))
    for one in place.container.get("env") or []:
        value = _from_source(one["valueFrom"], place) if one.get("valueFrom") else one.get("value") or ""
        if value is not None:
            own[one["name"]] = expand(value, {**env, **own})
    return {**env, **{name: relocate(value, place.mounts) for name, value in own.items()}}


def _from_config_map(source: Object, place: Place) -> dict[str, str]:
    ref = source["configMapRef"]
    found = place.config_maps.get(ref["name"])
    if found is None and not ref.get("optional"):
        raise ConfigError(f'configmap "{ref["name"]}" not found')
    return {source.get("prefix", "") + key: value for key, value in ((found or {}).get("data") or {}).items()}


def _from_source(source: Object, place: Place) -> str | None:
    if ref := source.get("configMapKeyRef"):
        data = (place.config_maps.get(ref["name"]) or {}).get("data") or {}
        if ref["key"] not in data and not ref.get("optional"):
            raise ConfigError(f"couldn't find key {ref['key']} in ConfigMap {ref['name']}")
        return data.get(ref["key"])
    if ref := source.get("resourceFieldRef"):
        return _resource(ref, place.container)
    return _field(source["fieldRef"]["fieldPath"], place)


def _field(path: str, place: Place) -> str:
    meta, spec = place.pod["metadata"], place.pod["spec"]
    if match := re.match(r"^metadata\.(labels|annotations)\['([^']+)'\]$", path):
        return (meta.get(match.group(1)) or {}).get(match.group(2), "")
    known = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": spec["nodeName"],
        "spec.serviceAccountName": spec["serviceAccountName"],
        "status.podIP": (place.pod.get("status") or {}).get("podIP", ""),
        "status.hostIP": place.node_address,
    }
    return known[path]


def _resource(ref: Object, container: Object) -> str:
    group, _, name = ref["resource"].partition(".")
    amount = (container["resources"].get(group) or {}).get(name)
    if amount is None:
        raise ConfigError(f"resourceFieldRef {ref['resource']}: the container sets no {ref['resource']}")
    number = quantity(amount) / quantity(ref.get("divisor") or 1)
    return str(int(number.to_integral_value(rounding=ROUND_CEILING)))
