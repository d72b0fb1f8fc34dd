"""From a traffic state to Envoy's resources. Pure: no stream, no clock.

Problem: a share of traffic is spread over five kinds of resource that Envoy applies one after another.
Invariants: the route alone, without the runtime layer, sends everybody to stable; candidate weights exist in the
runtime layer only; both name the same clusters in the same order; the total is 10 000 either way.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, WeightedCluster
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.header_to_metadata.v3.header_to_metadata_pb2 import Config as Notes
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from serving.control.xds.interface import Endpoint, ServiceTraffic, TrafficState
from serving.control.xds.mirror import mirror, recorder_cluster
from serving.gateway.bootstrap import MARKER_HEADER, ROUTES, RUNTIME, notes
from sluice.entry import HASH_ROUTE

VERSION_HEADER: Final = "x-sluice-version"
# A uid is usable when hash, log and Python see the same bytes: not empty, valid UTF-8, no comma. (A header sent
# twice is hashed over both values and logged joined by a comma: sticky, but the intake takes it for no evidence.)
UID: Final = "[^,]+"
SAMPLE_KEY: Final = "sluice.sample"  # a whole number of millionths: the denominator is the bootstrap's
MILLION: Final = 1_000_000
SLOW_KEY: Final = "sluice.slow_floor_ms"

# Sane bounds per version and gateway: enough for a fleet, small enough that a stuck version cannot take a
# gateway's memory. Envoy's own defaults (1 024 each) count requests too, which a slow model reaches.
MAX_CONNECTIONS: Final = 4096
MAX_PENDING: Final = 4096
MAX_REQUESTS: Final = 16_384
MAX_RETRIES: Final = 256  # Envoy allows 3 at a time, fewer than the requests that meet a replica as it dies
PICKS: Final = 20  # a dead replica has the fewest requests, so it is picked again and again
IDLE_S: Final = 4  # below the 5 s after which common Python servers close a connection that nobody uses


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLayer:
    """The weights of one service: what the runtime layer says and what it presupposes."""

    service: str
    keys: Mapping[str, int]  # runtime key -> weight
    routed: frozenset[str]  # clusters that get traffic by it
    candidate: int  # buckets that the candidate holds
    ttl_s: float | None  # None when no candidate has traffic: nothing to fall back from

    def covering(self, clusters: Iterable[str]) -> ServiceLayer:
        """With a weight of 0 for each of these clusters that has none.

        A route still names a version that has left the line until its own change arrives, and without a key it
        would fall back to the route's weight: on promotion, to all of the previous version's traffic.
        """
        prefix = weight_prefix(self.service)
        missing = {key: 0 for cluster in clusters if (key := f"{prefix}.{cluster}") not in self.keys}
        return replace(self, keys={**self.keys, **missing}) if missing else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One generation, ready to send. A version changes only when the content of its kind does."""

    generation: int
    clusters: Mapping[str, AnyProto]
    endpoints: Mapping[str, AnyProto]  # only clusters that take them over the stream
    routes: AnyProto
    line: Mapping[str, frozenset[str]]  # service -> clusters that its hash route lists
    layers: Mapping[str, ServiceLayer]
    common: Mapping[str, int]  # runtime keys that belong to no service
    versions: Mapping[str, str] = field(default_factory=dict)  # cds eds rds rtds -> version


def snapshot(state: TrafficState, generation: int, previous: Snapshot | None) -> Snapshot:
    """Build generation `generation`; kinds whose content equals `previous` keep their version."""
    services = state.services
    made = Snapshot(
        generation=generation,
        clusters={name: _cluster(name, ends) for s in services for name, ends in s.endpoints.items()}
        | {
            s.recorder_cluster: _recorder(s.recorder_cluster, s.mirror.recorder) for s in services if s.mirror
        },
        endpoints={
            name: _pack(_load(name, ends))
            for s in services
            for name, ends in s.endpoints.items()
            if not _by_name(ends)
        },
        routes=_routes(tuple(_Routing.of(s) for s in services)),
        line={s.service: frozenset(piece.cluster for piece in s.line) for s in services},
        layers={s.service: _layer(s) for s in services},
        common=_common(services),
    )
    versions = {kind: str(generation) for kind in ("cds", "eds", "rds", "rtds")}
    if previous is not None:
        same = {
            "cds": made.clusters == previous.clusters,
            "eds": made.endpoints == previous.endpoints,
            "rds": made.routes == previous.routes,
            "rtds": made.layers == previous.layers and made.common == previous.common,
        }
        versions |= {kind: previous.versions[kind] for kind, equal in same.items() if equal}
    return replace(made, versions=versions)


def runtime(layers: Iterable[ServiceLayer], common: Mapping[str, int]) -> AnyProto:
    """The runtime layer as one resource."""
    made = Runtime(name=RUNTIME)
    made.layer.update(dict(common))
    for layer in layers:
        made.layer.update(dict(layer.keys))
    return _pack(made)


def weight_prefix(service: str) -> str:
    """Runtime key prefix of a service's weights; Envoy appends "." and the cluster name."""
    return f"sluice.weight.{service}"


def _layer(traffic: ServiceTraffic) -> ServiceLayer:
    prefix = weight_prefix(traffic.service)
    return ServiceLayer(
        service=traffic.service,
        keys={f"{prefix}.{piece.cluster}": piece.weight for piece in traffic.line},
        routed=frozenset(piece.cluster for piece in traffic.line if piece.weight),
        candidate=traffic.candidate_weight,
        ttl_s=traffic.gateway_ttl_s if traffic.candidate_weight else None,
    )


def _common(services: tuple[ServiceTraffic, ...]) -> dict[str, int]:
    """One log serves all services, so it asks for the most any of them wants; the intake thins the others."""
    share = max((s.sample_fraction for s in services), default=0.0)
    floors = [s.slow_floor_ms for s in services if s.slow_floor_ms is not None]
    keys = {SAMPLE_KEY: round(share * MILLION)}
    if floors:
        keys[SLOW_KEY] = max(1, int(min(floors)))
    return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routing:
    """What of a service's traffic is in its routes: everything but weights and endpoints. Hashable."""

    service: str
    prefix: str
    uid_header: str
    salt: str
    timeout_ms: int
    line: tuple[str, ...]  # clusters in hash-line order
    versions: tuple[tuple[str, str], ...]  # (cluster, version)
    labels: tuple[tuple[str, str], ...]  # (version, cluster)
    fallback: tuple[tuple[str, int], ...]
    copied: int  # millionths of the requests that go to the recorder as well
    recorder: str  # its cluster

    @classmethod
    def of(cls, traffic: ServiceTraffic) -> _Routing:
        return cls(
            service=traffic.service,
            prefix=traffic.prefix,
            uid_header=traffic.uid_header,
            salt=traffic.salt,
            timeout_ms=max(1, round(traffic.timeout_s * 1000)),
            line=tuple(piece.cluster for piece in traffic.line),
            versions=tuple(sorted(traffic.versions.items())),
            labels=tuple(sorted(traffic.labels.items())),
            fallback=traffic.stable_fallback,
            copied=0 if traffic.mirror is None else round(traffic.mirror.percent / 100 * MILLION),
            recorder=traffic.recorder_cluster,
        )


@lru_cache(maxsize=8)  # a retreat changes weights only, and must not wait for routes to be written again
def _routes(services: tuple[_Routing, ...]) -> AnyProto:
    made = RouteConfiguration(name=ROUTES, request_headers_to_remove=[MARKER_HEADER])
    host = made.virtual_hosts.add(name="all", domains=["*"])
    for routing in sorted(services, key=lambda s: (-len(s.prefix), s.prefix)):
        host.routes.extend(_service_routes(routing))
    return _pack(made)


def _service_routes(routing: _Routing) -> Iterable[Route]:
    """Labels beat the hash; the hash needs a uid; whoever has none goes to stable. Testers' requests are not copied."""
    versions, fallback = dict(routing.versions), dict(routing.fallback)
    for version, cluster in routing.labels:
        route = _route(f"label:{version}", routing)
        route.match.headers.add(name=VERSION_HEADER).string_match.exact = version
        _weigh(route.route, [(cluster, 1)], versions)
        yield route
    hashed = _route(HASH_ROUTE, routing)
    hashed.match.headers.add(name=routing.uid_header).string_match.safe_regex.regex = UID
    _weigh(hashed.route, [(cluster, fallback.get(cluster, 0)) for cluster in routing.line], versions)
    hashed.route.weighted_clusters.use_hash_policy.value = True
    hashed.route.weighted_clusters.runtime_key_prefix = weight_prefix(routing.service)
    salted = hashed.route.hash_policy.add().header
    salted.header_name = routing.uid_header
    salted.regex_rewrite.pattern.regex = "^(.*)$"
    salted.regex_rewrite.substitution = rf"{routing.salt}:\1"
    nouid = _route("nouid", routing)
    _weigh(nouid.route, list(routing.fallback), versions)
    for route in (hashed, nouid):
        if routing.copied:
            mirror(route.route, routing.recorder, routing.copied)
        yield route


def _route(name: str, routing: _Routing) -> Route:
    route = Route(name=name)
    if routing.prefix.endswith("/"):
        route.match.prefix = routing.prefix
    else:
        route.match.path_separated_prefix = routing.prefix
    noted = ParseDict({k: v for k, v in notes(routing.uid_header).items() if k != "@type"}, Notes())
    route.typed_per_filter_config["envoy.filters.http.header_to_metadata"].Pack(noted)
    action = route.route
    action.timeout.FromMilliseconds(routing.timeout_ms)
    # only what never reached a server, at another replica of the same cluster: a version never changes
    action.retry_policy.retry_on = "connect-failure,reset-before-request"
    action.retry_policy.num_retries.value = 2
    elsewhere = action.retry_policy.retry_host_predicate.add(
        name="envoy.retry_host_predicates.previous_hosts"
    )
    elsewhere.typed_config.Pack(PreviousHostsPredicate())
    action.retry_policy.host_selection_retry_max_attempts = PICKS
    return route


def _weigh(action: RouteAction, weights: list[tuple[str, int]], versions: Mapping[str, str]) -> None:
    for cluster, weight in weights:
        entry = action.weighted_clusters.clusters.add(name=cluster)
        entry.weight.value = weight
        _say_version(entry, versions[cluster])


def _say_version(entry: WeightedCluster.ClusterWeight, version: str) -> None:
    option = entry.response_headers_to_add.add()
    option.header.key, option.header.value = VERSION_HEADER, version
    option.append_action = option.OVERWRITE_IF_EXISTS_OR_ADD


@lru_cache(maxsize=1024)
def _cluster(name: str, endpoints: tuple[Endpoint, ...]) -> AnyProto:
    made = Cluster(name=name, lb_policy=Cluster.LEAST_REQUEST)
    made.connect_timeout.FromMilliseconds(1000)
    # readiness is Kubernetes' word: no panic routing to what it took out
    made.common_lb_config.healthy_panic_threshold.value = 0
    limit = made.circuit_breakers.thresholds.add()
    limit.max_connections.value = MAX_CONNECTIONS
    limit.max_pending_requests.value = MAX_PENDING
    limit.max_requests.value = MAX_REQUESTS
    limit.max_retries.value = MAX_RETRIES
    options = HttpProtocolOptions()
    options.explicit_http_config.http_protocol_options.SetInParent()
    options.common_http_protocol_options.idle_timeout.FromSeconds(IDLE_S)
    made.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].Pack(
        options
    )
    if _by_name(endpoints):
        made.type = Cluster.STRICT_DNS
        made.dns_lookup_family = Cluster.V4_PREFERRED
        made.load_assignment.CopyFrom(_load(name, endpoints))
    else:
        made.type = Cluster.EDS
        made.eds_cluster_config.eds_config.CopyFrom(_over_ads())
    return _pack(made)


@lru_cache(maxsize=64)
def _recorder(name: str, recorder: Endpoint) -> AnyProto:
    made = recorder_cluster(name, by_name=_by_name((recorder,)))
    made.load_assignment.CopyFrom(_load(name, (recorder,)))
    return _pack(made)


def _over_ads() -> ConfigSource:
    source = ConfigSource(resource_api_version=ApiVersion.V3)
    source.ads.SetInParent()
    return source


def _load(name: str, endpoints: tuple[Endpoint, ...]) -> ClusterLoadAssignment:
    made = ClusterLoadAssignment(cluster_name=name)
    group = made.endpoints.add()
    for end in sorted(set(endpoints), key=lambda e: (e.host, e.port)):
        address = group.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = end.host, end.port
    return made


def _by_name(endpoints: tuple[Endpoint, ...]) -> bool:
    """Whether DNS is needed: then the cluster carries its endpoints itself, because EDS takes addresses only."""
    return any(not _is_ip(end.host) for end in endpoints)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _pack(message: Message) -> AnyProto:
    """Pack with a stable byte order, so that equal content compares equal."""
    packed = AnyProto()
    packed.Pack(message, deterministic=True)
    return packed
