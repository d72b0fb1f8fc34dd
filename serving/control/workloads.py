"""Which of a version's workloads serves which architecture's part of the line. Pure.

Problem: an architecture for which a version has no workload (an optional target without an engine) is served by the
version's first one, which then carries both parts. Invariants: who is on which part of the line never depends on what
was built; what is asked of a workload, and what its load is compared with, covers every part that it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Version = Mapping[str, Any]


def workload_for(version: Version, arch: str) -> Mapping[str, Any] | None:
    """The workload that serves an architecture's part of the line: its own, or else the version's first."""
    workloads = version.get("workloads") or []
    return next((w for w in workloads if w["arch"] == arch), workloads[0] if workloads else None)


def workloads_for(version: Version, archs: Iterable[str]) -> list[Mapping[str, Any]]:
    """The workloads that serve these architectures, each once."""
    distinct: list[Mapping[str, Any]] = []
    for arch in archs:
        workload = workload_for(version, arch)
        if workload is not None and workload not in distinct:
            distinct.append(workload)
    return distinct


def load_groups(archs: Iterable[str], *versions: Version) -> list[list[str]]:
    """Architectures in groups that share no workload under any version: a load is known per group, not below it."""
    groups: list[list[str]] = []
    for arch in archs:
        joined = [g for g in groups if any(_shared(v, arch, other) for v in versions for other in g)]
        groups = [g for g in groups if g not in joined]
        groups.append([*(other for group in joined for other in group), arch])
    return groups


def _shared(version: Version, one: str, other: str) -> bool:
    """What stands behind an adopted upstream is not ours to see: taken for a workload per architecture."""
    return "upstream" not in version and workload_for(version, one) == workload_for(version, other)
