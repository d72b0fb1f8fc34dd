"""Nodes: this machine as one node, or as many as the --nodes file draws.

    [{"name": "a10", "labels": {"sluice.dev/arch": "sm_86"},
      "allocatable": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"},
      "taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}]

Without a file: node `local` with this machine's arch and CPU labels as Node Feature Discovery writes them.
Its cores and memory are offered OVERCOMMIT times, because requests on one machine are for placing, not for
sharing: memory limits are enforced per container, CPU goes by the operating system.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from local.cluster.objects import Object, now_text, quantity
from sluice.cpu import cpu_arch, parse_cpuinfo
from sluice.errors import FatalError

OVERCOMMIT: Final = 4
_FIELDS: Final = {"name": str, "labels": dict, "allocatable": dict, "taints": list}
# /proc/cpuinfo's words, by those of Node Feature Discovery (feature.node.kubernetes.io/cpu-cpuid.<NAME>)
_CPUID: Final[Mapping[str, str]] = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA3",
    "avx_vnni": "AVXVNNI",
    **{f"avx512{one}": f"AVX512{one.upper()}" for one in ("f", "bw", "cd", "dq", "vl")},
    "avx512_vnni": "AVX512VNNI",
    "avx512_bf16": "AVX512BF16",
    "avx512_fp16": "AVX512FP16",
    "amx_int8": "AMXINT8",
    "amx_bf16": "AMXBF16",
    "amx_tile": "AMXTILE",
}


def load(path: Path | None) -> list[Object]:
    """The Node objects. Raises FatalError naming node and field."""
    if path is None:
        return [node("local", {}, {}, [])]
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FatalError(f"nodes file {path}: {error}", "give --nodes a readable JSON file") from error
    if not isinstance(document, list) or not document:
        raise FatalError(
            f"nodes file {path} holds no list of nodes", "write [{name, labels, allocatable, taints}]"
        )
    return [_read(entry) for entry in document]


def _read(entry: Any) -> Object:
    step = 'write {"name": "n", "labels": {}, "allocatable": {}, "taints": []}'
    if not isinstance(entry, dict) or not entry.get("name"):
        raise FatalError(f"node {entry!r} has no name", step)
    for name, value in entry.items():
        if name not in _FIELDS or not isinstance(value, _FIELDS[name]):
            raise FatalError(
                f"node {entry['name']}: field {name} = {value!r} is unknown or of a wrong type", step
            )
    try:
        for value in entry.get("allocatable", {}).values():
            quantity(value)
    except ValueError as error:
        raise FatalError(f"node {entry['name']}: allocatable: {error}", step) from error
    return node(entry["name"], entry.get("labels", {}), entry.get("allocatable", {}), entry.get("taints", []))


def node(name: str, labels: Object, allocatable: Object, taints: list[Object]) -> Object:
    """A ready Node; what is not given is this machine's."""
    amounts = {
        "cpu": str((os.cpu_count() or 1) * OVERCOMMIT),
        "memory": _memory(),
        "pods": "250",
        **allocatable,
    }
    amounts = {key: str(value) for key, value in amounts.items()}
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": {**machine_labels(name), **labels}, "annotations": {}},
        "spec": {"taints": taints} if taints else {},
        "status": {
            "capacity": dict(amounts),
            "allocatable": dict(amounts),
            "conditions": _conditions(),
            "addresses": [
                {"type": "InternalIP", "address": "127.0.0.1"},
                {"type": "Hostname", "address": name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
            "nodeInfo": _info(),
            "images": [],
        },
    }


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{pages * OVERCOMMIT // 2**20}Mi"


def machine_labels(name: str) -> dict[str, str]:
    """What this machine is, as labels."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = parse_cpuinfo(cpuinfo)
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine,
        "sluice.dev/arch": cpu_arch(flags),
    }
    feature = "feature.node.kubernetes.io/cpu"
    labels |= {f"{feature}-cpuid.{label}": "true" for flag, label in _CPUID.items() if flag in flags}
    for line in cpuinfo.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        wanted = {"vendor_id": "vendor_id", "cpu family": "family", "model": "id"}.get(key)
        if wanted:
            labels.setdefault(f"{feature}-model.{wanted}", value)
    return labels


def _conditions() -> list[Object]:
    now = now_text()
    pressure = ("MemoryPressure", "DiskPressure", "PIDPressure")
    kinds = [
        *((kind, "False", f"KubeletHasNo{kind}") for kind in pressure),
        ("Ready", "True", "KubeletReady"),
    ]
    return [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": "",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        for kind, status, reason in kinds
    ]


def _info() -> Object:
    return {
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        "kernelVersion": platform.release(),
        "osImage": platform.platform(),
        "containerRuntimeVersion": "process://1",
        "kubeletVersion": "v1.32.0+sluice-local",
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": platform.machine(),
    }
