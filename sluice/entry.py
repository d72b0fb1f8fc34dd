"""One access-log entry, as evidence reads it: is it an event, and of which kinds.

Problem: the gateway writes two logs, one of events (complete) and one of a marked random sample of all
requests; they mean different things and must not be mixed.
Invariant: an `Entry` is complete; whatever decides its kinds is in the entry and in limits frozen before.
"""

from dataclasses import dataclass

HASH_ROUTE = "hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One finished (or flushed) request. Only those of route `hash` are evidence.

    at_s: unix seconds at which the request started. uid_hash: `buckets.uid_hash`. bucket: by the service's
    salt, 0 to 9999. cluster, version: what served it. event_log: True from the log of events, False from the
    random sample. status: HTTP, 0 when there was no answer. flags: Envoy's response flags, comma-separated,
    empty for none. marker: value of `x-sluice-event`, None or empty for none. duration_ms: None when unknown.
    """

    at_s: float
    uid_hash: int
    bucket: int
    cluster: str
    version: str
    route: str
    event_log: bool
    status: int
    flags: str
    marker: str | None
    duration_ms: float | None
    request_id: str

    @property
    def failed(self) -> bool:
        """An answer >= 400, none at all, a response flag, or a marker of the server."""
        return self.status >= 400 or self.status <= 0 or bool(self.flags) or bool(self.marker)
