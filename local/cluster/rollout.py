"""How a Deployment's replica sets move from the old template to the new, as pure arithmetic."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

from local.cluster.objects import Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Replica sets as the plan sees them. `wanted`: spec.replicas; `available`: pods that are ready now."""

    wanted: int
    available: int


def template_hash(template: Object) -> str:
    """Ten hex digits that change when the template does."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def amount(value: int | str, replicas: int, *, up: bool) -> int:
    """maxSurge and maxUnavailable: a number, or a percentage of replicas. ValueError: neither."""
    text = str(value)
    if text.endswith("%") and text[:-1].isdigit():
        exact = int(text[:-1]) * replicas / 100
        return math.ceil(exact) if up else math.floor(exact)
    if not text.isdigit():
        raise ValueError(f"{value!r} is neither a whole number nor a percentage")
    return int(text)


def plan(replicas: int, strategy: Object, new: Sizes, old: list[Sizes]) -> tuple[int, list[int]]:
    """(size of the new set, sizes of the old ones) for the next step; a fixed point when it is done."""
    if strategy["type"] == "Recreate":
        if any(one.wanted or one.available for one in old):
            return new.wanted, [0] * len(old)
        return replicas, [0] * len(old)
    rolling = strategy["rollingUpdate"]
    surge = amount(rolling["maxSurge"], replicas, up=True)
    missing = amount(rolling["maxUnavailable"], replicas, up=False)
    if surge == missing == 0:
        missing = 1  # both zero (rounded down) could never move
    total = new.wanted + sum(one.wanted for one in old)
    grown = (
        min(replicas, new.wanted + max(0, replicas + surge - total)) if new.wanted < replicas else replicas
    )
    return grown, _shrink(replicas - missing, new, old)


def _shrink(floor: int, new: Sizes, old: list[Sizes]) -> list[int]:
    """Sizes of the old sets so that at least `floor` pods stay available; pods that are not go first."""
    sizes = [min(one.wanted, one.available) for one in old]  # those that never came up serve nobody
    spare = new.available + sum(sizes) - floor
    for place, size in enumerate(sizes):
        drop = min(size, max(0, spare))
        sizes[place] -= drop
        spare -= drop
    return sizes
