"""What the controller says to the gateways and hears from them: plain data, no gRPC, no asyncio.

Problem: ledger and guard decide in shares and versions, Envoy thinks in clusters, routes and runtime keys.
Invariant: a `TrafficState` that was built is routable (weights sum to 10 000, every named cluster has a line of
its own and known endpoints, candidates come first), so that no half-described split ever reaches a gateway.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

from sluice.errors import FatalError

if TYPE_CHECKING:
    from sluice.entry import Entry

LINE: Final = 10_000  # buckets of the hash line; the weights of every split sum to it
Side = Literal["candidate", "stable"]
OnEntries = Callable[[list["Entry"]], None]  # called on the event loop, in order of arrival; must not block

RECORDER: Final = "_recorder"  # ends the name of a cluster that serves no client; a service has no underscore

_CLUSTER = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")  # also a part of a runtime key
_SALT = re.compile(r"[A-Za-z0-9._-]{1,64}")  # goes into a regex substitution: no backslash
_PREFIX = re.compile(r"/[^?#\s]*")
_VERSION = re.compile(r"[!-~]{1,128}")  # travels in a header
_HEADER = re.compile(r"[a-z0-9-]{1,64}")  # Envoy compares header names in lower case


class TrafficError(FatalError):
    """A state that cannot be routed as it says: names the service, the field, the value and what is wanted."""

    def __init__(self, service: str, field_name: str, value: object, wanted: str) -> None:
        super().__init__(service, field_name, value, wanted)
        self.service, self.field_name, self.value, self.wanted = service, field_name, value, wanted

    @property
    def message(self) -> str:
        return f"traffic of service {self.service!r}: {self.field_name} is {self.value!r}"

    @property
    def next_step(self) -> str:
        return f"give {self.wanted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one ready replica listens. `host`: an IP address, or a name that the gateway resolves by DNS."""

    host: str
    port: int  # 1..65535

    def __post_init__(self) -> None:
        if not self.host or not 1 <= self.port <= 65_535:
            raise TrafficError(
                "?", "endpoint", f"{self.host}:{self.port}", "a host and a port from 1 to 65535"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One range of the hash line. Its buckets follow those of the slice before it."""

    arch: str
    side: Side
    version: str  # what the response header `x-sluice-version` says
    cluster: str  # unique in the whole state: runtime weights go by cluster name
    weight: int  # buckets, 0..10 000


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """How much of a service's requests is copied, and to whom. percent: 0 to 100, of all but testers' by label."""

    percent: float
    recorder: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTraffic:
    """The whole of one service's routing. Raises TrafficError when it does not add up."""

    service: str
    prefix: str  # path prefix that clients call, matched at path segments
    uid_header: str  # lower case
    salt: str  # [A-Za-z0-9._-]
    timeout_s: float  # of one request, > 0
    line: tuple[Slice, ...]  # in hash-line order, per arch the candidate first, weights sum to 10 000
    endpoints: Mapping[str, tuple[Endpoint, ...]]  # by cluster, ready replicas only; () answers 503
    labels: Mapping[str, str]  # live version -> cluster, reached with the request header `x-sluice-version`
    stable_fallback: tuple[
        tuple[str, int], ...
    ]  # (stable cluster, weight), sums to 10 000: when cut off, no uid
    gateway_ttl_s: float = 600.0  # a gateway without word of a controller for so long goes to stable_fallback
    slow_floor_ms: float | None = (
        None  # lowest slow limit: answers at or above are events; None = no slow events
    )
    sample_fraction: float = 0.0  # share of all requests in the sample log, 0..1
    mirror: Mirror | None = None

    def __post_init__(self) -> None:
        self._check_names()
        self._check_line()
        self._check_fallback()
        self._check_numbers()

    @property
    def candidate_weight(self) -> int:
        """Buckets that the candidate holds now, 0..10 000."""
        return sum(piece.weight for piece in self.line if piece.side == "candidate")

    @property
    def versions(self) -> dict[str, str]:
        """Cluster -> version, over line and labels."""
        by_label = {cluster: version for version, cluster in self.labels.items()}
        return by_label | {piece.cluster: piece.version for piece in self.line}

    @property
    def recorder_cluster(self) -> str:
        """The name of the recorder's cluster, whether there is a recorder or not."""
        return f"{self.service}{RECORDER}"

    def _refuse(self, field_name: str, value: object, wanted: str) -> None:
        raise TrafficError(self.service, field_name, value, wanted)

    def _check_names(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            self._refuse("prefix", self.prefix, "a path that starts with /, without ?, # or blanks")
        for version in [*self.labels, *(piece.version for piece in self.line)]:
            if not _VERSION.fullmatch(version):
                self._refuse("version", version, "1 to 128 visible ASCII characters")
        if not _SALT.fullmatch(self.salt):
            self._refuse("salt", self.salt, "1 to 64 of letters, digits, '.', '_' and '-'")
        if not _HEADER.fullmatch(self.uid_header):
            self._refuse("uid_header", self.uid_header, "a header name in lower case")
        for cluster in [*self.endpoints, *self.labels.values(), *(piece.cluster for piece in self.line)]:
            if not _CLUSTER.fullmatch(cluster):
                self._refuse("cluster", cluster, "lower-case letters, digits, '.', '_' and '-'")
            if cluster not in self.endpoints:
                self._refuse("endpoints", cluster, "an entry for every cluster named; () when none is ready")

    def _check_line(self) -> None:
        clusters = [piece.cluster for piece in self.line]
        if len(set(clusters)) != len(clusters):
            self._refuse("line", clusters, "an own cluster name for every slice")
        total = sum(piece.weight for piece in self.line)
        if total != LINE or any(piece.weight < 0 for piece in self.line):
            self._refuse("line", [piece.weight for piece in self.line], f"weights >= 0 that sum to {LINE}")
        seen: list[str] = []
        stable_seen = False
        for piece in self.line:
            if not seen or piece.arch != seen[-1]:
                if piece.arch in seen:
                    self._refuse("line", piece.arch, "the slices of one arch side by side")
                seen.append(piece.arch)
                stable_seen = False
            if piece.side == "candidate" and stable_seen:
                self._refuse("line", piece.cluster, f"the candidate before stable in arch {piece.arch}")
            stable_seen |= piece.side == "stable"

        for version, cluster in self.labels.items():
            if self.versions[cluster] != version:
                self._refuse(
                    "labels", {version: cluster}, f"version {self.versions[cluster]} or another cluster"
                )

    def _check_fallback(self) -> None:
        stable = {piece.cluster for piece in self.line if piece.side == "stable"}
        names = [cluster for cluster, _ in self.stable_fallback]
        total = sum(weight for _, weight in self.stable_fallback)
        if (
            total != LINE
            or len(set(names)) != len(names)
            or any(weight < 0 for _, weight in self.stable_fallback)
        ):
            self._refuse(
                "stable_fallback", self.stable_fallback, f"distinct clusters, weights that sum to {LINE}"
            )
        if not set(names) <= stable:
            self._refuse("stable_fallback", names, f"stable clusters of the line {sorted(stable)}")

    def _check_numbers(self) -> None:
        if not self.timeout_s > 0:
            self._refuse("timeout_s", self.timeout_s, "seconds above 0")
        if not self.gateway_ttl_s > 0:
            self._refuse("gateway_ttl_s", self.gateway_ttl_s, "seconds above 0")
        if self.slow_floor_ms is not None and not self.slow_floor_ms > 0:
            self._refuse("slow_floor_ms", self.slow_floor_ms, "milliseconds above 0, or None")
        if not 0 <= self.sample_fraction <= 1:
            self._refuse("sample_fraction", self.sample_fraction, "a share from 0 to 1")
        if self.mirror is not None and not 0 <= self.mirror.percent <= 100:
            self._refuse("mirror.percent", self.mirror.percent, "a percentage from 0 to 100")
        if self.recorder_cluster in self.endpoints:
            self._refuse("cluster", self.recorder_cluster, "another name; this one is the recorder's")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficState:
    """Everything that every gateway routes. Raises TrafficError on a cluster, prefix or service named twice."""

    services: tuple[ServiceTraffic, ...] = ()

    def __post_init__(self) -> None:
        clusters: dict[str, str] = {}
        prefixes: dict[str, str] = {}
        for traffic in self.services:
            for name in traffic.endpoints:
                if clusters.setdefault(name, traffic.service) != traffic.service:
                    raise TrafficError(traffic.service, "cluster", name, "a name no other service uses")
            if traffic.prefix in prefixes:
                raise TrafficError(traffic.service, "prefix", traffic.prefix, "a prefix no other service has")
            prefixes[traffic.prefix] = traffic.service
        names = [traffic.service for traffic in self.services]
        if len(set(names)) != len(names):
            raise TrafficError(str(names), "service", names, "each service once")


@dataclass(frozen=True, slots=True, kw_only=True)
class AckReport:
    """Where one generation stands. `complete` is the only yes; no gateway at all is a no.

    acked: nodes that apply this generation or a later one. waiting: connected and not there yet, or lost less
    than a TTL ago while a candidate had traffic (they may still route it). rejected: node -> Envoy's own words.
    """

    generation: int
    acked: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    rejected: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True when at least one gateway acknowledged and none waits or rejects."""
        return bool(self.acked) and not self.waiting and not self.rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStatus:
    """One gateway as the controller knows it. Times are unix seconds; None = never."""

    node: str
    connected: bool
    streams: int  # ADS streams under this name; more than 1 for long = two gateways share a name
    acked: Mapping[str, str]  # short type name (cds eds rds rtds) -> version the gateway applies
    wanted: Mapping[str, str]  # the same, as it should be
    nack: str | None  # Envoy's last error, cleared by the next acknowledgement of that type
    last_log_s: float | None  # last access-log message
    last_stats_s: float | None  # last counters


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCount:
    """What Envoy counted and what arrived, one node and cluster, over the last minute.

    requests, errors: Envoy's own (upstream_rq_total; upstream_rq_4xx + 5xx). received: event entries with a
    status >= 400 that ended in the same span. requests_per_s: over the last 5 s of counters.
    """

    node: str
    cluster: str
    requests: int
    errors: int
    received: int
    requests_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """`stale`: node -> why its evidence must not be trusted now; empty = what arrived is what happened."""

    counts: tuple[ClusterCount, ...] = ()
    stale: Mapping[str, str] = field(default_factory=dict)


def serves_clients(cluster: str) -> bool:
    """Whether it is a version's cluster and not a recorder's, `<service>_recorder`."""
    service = cluster.removesuffix(RECORDER)
    return service == cluster or "_" in service


class TrafficPlane(Protocol):
    """What the rest of the controller uses; `serving.control.xds.Gateways` is the real one.

    Built as `Gateways(on_entries=callback)`; everything runs on the event loop that called `start`.
    """

    async def start(self, host: str, port: int) -> int:
        """Serve ADS, access log and counters on host:port (0 = any free). Returns the port."""

    async def stop(self) -> None:
        """Close the server and every stream; gateways keep routing what they had."""

    async def apply(self, state: TrafficState) -> int:
        """Make `state` the wanted one and send what changed. Returns its generation, monotone over restarts.

        Equal content returns the standing generation. Raises TrafficError from the state itself, nothing else.
        """

    async def wait_acked(self, generation: int, timeout_s: float) -> AckReport:
        """Wait until every gateway applies `generation` or one rejects it, or the time is up."""

    def status(self) -> Sequence[GatewayStatus]:
        """Every gateway connected now or lost less than a TTL ago, by node name."""

    def reconcile(self) -> Reconciliation:
        """Compare Envoy's counters with the entries received. Cheap; call it once a second."""
