"""Volumes of a pod as folders of this machine."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path

from local.cluster.objects import Object


class VolumeError(Exception):
    """The volume cannot be set up (FailedMount); the text says why. The kubelet tries again."""


def set_up(
    pod: Object, folder: Path, claims: Mapping[str, Path], config_map: Callable[[str], Object | None]
) -> dict[str, Path]:
    """{volume name: folder or file}. `folder`: the pod's own, for emptyDir and configMap."""
    found: dict[str, Path] = {}
    for volume in pod["spec"].get("volumes") or []:
        own = folder / "volumes" / volume["name"]
        if "hostPath" in volume:
            found[volume["name"]] = _host_path(volume["hostPath"])
        elif "persistentVolumeClaim" in volume:
            found[volume["name"]] = _claim(volume["persistentVolumeClaim"]["claimName"], claims)
        elif "configMap" in volume:
            _config_map(volume["configMap"], own, config_map)
            found[volume["name"]] = own
        else:
            own.mkdir(parents=True, exist_ok=True)
            found[volume["name"]] = own
    return found


def mounts(container: Object, volumes: Mapping[str, Path]) -> dict[str, Path]:
    """{mountPath: target} of one container."""
    found: dict[str, Path] = {}
    for mount in container.get("volumeMounts") or []:
        target = volumes[mount["name"]]
        if mount.get("subPath"):
            target = target / mount["subPath"]
            if not target.exists():
                target.mkdir(parents=True)
        found[mount["mountPath"]] = target
    return found


def _host_path(source: Object) -> Path:
    path, kind = Path(source["path"]), source.get("type", "")
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch()
    fits = path.is_file() if kind == "File" else path.is_dir() if kind == "Directory" else path.exists()
    if not fits:
        raise VolumeError(f"hostPath {path} is no {kind or 'file or directory'} on this machine")
    return path


def _claim(name: str, claims: Mapping[str, Path]) -> Path:
    if name not in claims:
        known = ", ".join(sorted(claims)) or "none"
        raise VolumeError(
            f'persistentvolumeclaim "{name}" not found; start with --claim {name}=DIR (known: {known})'
        )
    return claims[name]


def _config_map(source: Object, folder: Path, config_map: Callable[[str], Object | None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = config_map(source["name"])
    if found is None:
        if source.get("optional"):
            return
        raise VolumeError(f'configmap "{source["name"]}" not found')
    data = {key: value.encode() for key, value in (found.get("data") or {}).items()}
    data |= {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    for item in items:
        if item["key"] not in data:
            raise VolumeError(f"configmap references non-existent config key: {item['key']}")
        path = folder / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[item["key"]])
