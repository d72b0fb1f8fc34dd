"""From Envoy's access-log messages to evidence entries. Pure: no stream, no clock.

Problem: the log carries users' ids and serves all services with one filter. Invariants: a uid is hashed here and
kept nowhere; an entry carries the version and salt under which its request was routed, also when the state has
moved on; what a service did not ask for (a share above its own, an answer faster than its own limit) is left out.

A request that hangs is logged once a second while it does: each such entry has status 100, the time it has taken
so far, and one request id of its own (`<id>~hang`), so that the final answer still counts as what it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogCommon, HTTPAccessLogEntry, ResponseFlags
from google.protobuf.duration_pb2 import Duration

from serving.control.xds.interface import TrafficState
from serving.gateway.bootstrap import METADATA
from sluice.buckets import bucket, keeps, uid_hash
from sluice.entry import HASH_ROUTE, Entry

STILL_RUNNING: Final = 100  # status of a request that hangs: HTTP's word for "nothing final yet"
UNIDENTIFIED: Final = "unidentified"  # its uid was sent twice or is over 8 KiB: no evidence, but not unheard

# Envoy's short names, as in its text log (%RESPONSE_FLAGS%)
FLAGS: Final = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """What a cluster stood for when it was routed."""

    version: str
    salt: str
    slow_floor_ms: float | None
    thin: float  # share of the sample log that this service asked for, 0..1


class Intake:
    """Knows every cluster that was ever routed in this process, so that late entries find theirs."""

    def __init__(self) -> None:
        self._origins: dict[str, _Origin] = {}

    def learn(self, state: TrafficState) -> None:
        """Take over salts, versions and limits of a new state."""
        widest = max((s.sample_fraction for s in state.services), default=0.0)
        for traffic in state.services:
            for cluster, version in traffic.versions.items():
                self._origins[cluster] = _Origin(
                    version=version,
                    salt=traffic.salt,
                    slow_floor_ms=traffic.slow_floor_ms,
                    thin=traffic.sample_fraction / widest if widest else 1.0,
                )

    def entries(self, log_name: str, logged: Iterable[HTTPAccessLogEntry], now_s: float) -> list[Entry]:
        """Translate one message that came at `now_s`. What no version served (no route) is left out."""
        made = (self._entry(log_name == "event", entry, now_s) for entry in logged)
        return [entry for entry in made if entry is not None]

    def _entry(self, event_log: bool, logged: HTTPAccessLogEntry, now_s: float) -> Entry | None:
        common = logged.common_properties
        origin = self._origins.get(common.upstream_cluster)
        if origin is None:
            return None
        request_id = logged.request.request_id
        if not event_log and origin.thin < 1 and not keeps("sample", request_id, origin.thin):
            return None
        notes = _notes(common)
        uid = notes.get("uid", "") if common.route_name == HASH_ROUTE else ""
        if "," in uid:  # sent twice: Envoy hashed the values one after the other, so the bucket is not known
            uid = ""
        # A gateway whose clock runs ahead must not make evidence look fresh for hours after its last entry.
        at_s = min(common.start_time.seconds + common.start_time.nanos / 1e9, now_s)
        hangs = common.intermediate_log_entry
        entry = Entry(
            at_s=at_s,
            uid_hash=uid_hash(uid) if uid else 0,
            bucket=bucket(origin.salt, uid) if uid else -1,
            cluster=common.upstream_cluster,
            version=origin.version,
            route=common.route_name if uid or common.route_name != HASH_ROUTE else UNIDENTIFIED,
            event_log=event_log,
            status=STILL_RUNNING if hangs else logged.response.response_code.value,
            flags=_flags(common.response_flags),
            marker=notes.get("event", ""),
            # Envoy states a duration only at the end
            duration_ms=max(0.0, now_s - at_s) * 1e3 if hangs else _ms(common.duration),
            request_id=f"{request_id}~hang" if hangs else request_id,
        )
        return entry if not event_log or _counts(entry, origin.slow_floor_ms) else None


def _notes(common: AccessLogCommon) -> dict[str, str]:
    """What the gateway's filter wrote down: the uid, the server's marker."""
    if METADATA not in common.metadata.filter_metadata:
        return {}
    fields = common.metadata.filter_metadata[METADATA].fields
    return {name: value.string_value for name, value in fields.items()}


def _ms(duration: Duration) -> float:
    return duration.seconds * 1e3 + duration.nanos / 1e6


def _counts(entry: Entry, slow_floor_ms: float | None) -> bool:
    """Whether it is an event of its own service: the gateway's limit is the lowest of all services."""
    slow = slow_floor_ms is not None and (entry.duration_ms or 0.0) >= slow_floor_ms
    return entry.status >= 400 or bool(entry.flags) or bool(entry.marker) or slow


def _flags(flags: ResponseFlags) -> str:
    return ",".join(FLAGS[field.name] for field, _ in flags.ListFields())
