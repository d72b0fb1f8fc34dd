"""Faults on request: the cluster breaks where a test or a demo asks it to, in the ways real ones do.

POST /_faults with one object; GET lists those that stand; DELETE clears them.

    {"fault": "unschedulable", "arch": "cpu-avx2"}             nodes of that sluice.dev/arch take no new pods
    {"fault": "image-pull-error", "image": "sluice/*"}         images that match cannot be pulled
    {"fault": "kill", "selector": "app=x", "container": "c", "reason": "OOMKilled"}   now, once: exit 137
    {"fault": "evict", "selector": "app=x", "message": "…"}    now, once: phase Failed, reason Evicted
    {"fault": "watch-expired", "resource": "pods", "count": 1} the next watches end with 410
    {"fault": "errors", "count": 5, "code": 500, "path": "/api/v1/"}   the next requests below path fail

`kill` and `evict` answer how many pods they met and refuse (404) when there are none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from local.cluster.errors import ApiError, bad_request
from local.cluster.objects import Object

FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "unschedulable": ("arch",),
    "image-pull-error": ("image",),
    "kill": ("selector", "container", "reason"),
    "evict": ("selector", "message"),
    "watch-expired": ("resource", "count"),
    "errors": ("count", "code", "path"),
}
_NEEDED: Final = {
    "unschedulable": "arch",
    "image-pull-error": "image",
    "kill": "selector",
    "evict": "selector",
}


def read(body: Any) -> Object:
    """One fault as it came. Raises 400 naming the field."""
    if not isinstance(body, dict) or body.get("fault") not in FIELDS:
        raise bad_request(f"fault must be one of {', '.join(FIELDS)}; got {body!r}")
    kind = body["fault"]
    unknown = sorted(set(body) - {"fault", *FIELDS[kind]})
    if unknown:
        raise bad_request(f"fault {kind} has no field {', '.join(unknown)}; it has {', '.join(FIELDS[kind])}")
    if kind in _NEEDED and not body.get(_NEEDED[kind]):
        raise bad_request(f"fault {kind} needs {_NEEDED[kind]}")
    if "count" in body and (not isinstance(body["count"], int) or body["count"] < 1):
        raise bad_request(f"count = {body['count']!r} is not a whole number of at least 1")
    return body


@dataclass(slots=True)
class Faults:
    """The faults that stand until they are used up or cleared."""

    standing: list[Object] = field(default_factory=list)

    def add(self, fault: Object) -> None:
        self.standing.append(dict(fault))

    def clear(self) -> None:
        self.standing.clear()

    def unschedulable(self, arch: str) -> bool:
        return any(one["fault"] == "unschedulable" and one["arch"] == arch for one in self.standing)

    def image_error(self, image: str) -> str | None:
        """Why the image cannot be pulled; None: it can."""
        for one in self.standing:
            if one["fault"] == "image-pull-error" and fnmatchcase(image, one["image"]):
                return "manifest unknown (a fault that was asked for)"
        return None

    def watch_expired(self, plural: str) -> bool:
        """Uses one up when it says yes."""
        return self._take(
            lambda one: one["fault"] == "watch-expired" and one.get("resource", plural) == plural
        )

    def refuse(self, path: str) -> ApiError | None:
        """The error that this request meets, if it does; uses one up."""
        found: list[Object] = []

        def meets(one: Object) -> bool:
            if one["fault"] == "errors" and path.startswith(one.get("path", "/")):
                found.append(one)
            return bool(found)

        if not self._take(meets):
            return None
        return ApiError(found[0].get("code", 500), "InternalError", "a fault that was asked for")

    def _take(self, meets: Any) -> bool:
        for one in self.standing:
            if meets(one):
                one["count"] = one.get("count", 1) - 1
                if one["count"] == 0:
                    self.standing.remove(one)
                return True
        return False
