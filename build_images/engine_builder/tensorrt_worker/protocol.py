"""What travels between the builder and this program: one JSON object a line, in both directions.

Request: {"command": NAME, ...arguments}. Answers, in order: any number of {"progress": TEXT}, then one
{"result": {...}} or {"error": {"kind": KIND, ...fields}}. Kinds are the constants below; `reason` is always the
library's own words.
Nobody else writes to the stream of answers: what libraries print goes to stderr.
"""

from __future__ import annotations

UNSUPPORTED_NODE = "unsupported_node"  # index of the node in the file, reason
NO_PLAN = "no_plan"  # reason
NOT_OFFERED = "not_offered"  # option, reason: this version of the library lacks it
CACHE_MISS = "cache_miss"  # reason: a replay needed a timing that the cache does not hold
CACHE_REFUSED = "cache_refused"  # reason: the cache is of another device or version
OUT_OF_MEMORY = "out_of_memory"  # reason, free_bytes, total_bytes: of the device, before the work began
NOT_LOADED = "not_loaded"  # reason: the plan is not for this device or this version
NO_PROFILE = "no_profile"  # reason: no optimisation profile holds this shape
NO_LIBRARY = "no_library"  # reason: tensorrt, or what it needs, cannot be imported
NO_DEVICE = "no_device"  # reason
FAULT = "fault"  # reason: anything else


class WorkerError(Exception):
    """One of the kinds above with its fields; `to_dict` is what travels."""

    def __init__(self, kind: str, **fields: object) -> None:
        super().__init__(kind, fields)
        self.kind, self.fields = kind, fields

    def to_dict(self) -> dict[str, object]:
        """`{"kind": ..., ...fields}`."""
        return {"kind": self.kind, **self.fields}
