"""From a traffic state to Envoy's resources. Pure: no stream, no clock.

Problem: a share of traffic is spread over five kinds of resource that Envoy applies one after another.
Invariants: the route alone, without the runtime layer, sends everybody to stable; candidate weights exist in the
runtime layer only; both name the same clusters in the same order; the total is 10 000 either way.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, WeightedCluster
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.header_to_metadata.v3.header_to_metadata_pb2 import Config as Notes
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from serving.control.xds.interface import Endpoint, ServiceTraffic, TrafficState
from serving.gateway.bootstrap import MARKER_HEADER, ROUTES, RUNTIME, notes

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
IDLE_S: Final = 4  # below the 5 s after which common Python servers close a connection that nobody uses


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLayer:
    """The weights of one service: what the runtime layer says and what it presupposes."""

    keys: Mapping[str, int]  # runtime key -> weight
    routed: frozenset[str]  # clusters that get traffic by it
    candidate: int  # buckets that the candidate holds
    ttl_s: float | None  # None when no candidate has traffic: nothing to fall back from


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
        clusters={name: _pack(_cluster(name, ends)) for s in services for name, ends in s.endpoints.items()},
        endpoints={
            name: _pack(_load(name, ends))
            for s in services
            for name, ends in s.endpoints.items()
            if not _by_name(ends)
        },
        routes=_pack(_routes(services)),
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


def _routes(services: tuple[ServiceTraffic, ...]) -> RouteConfiguration:
    made = RouteConfiguration(name=ROUTES, request_headers_to_remove=[MARKER_HEADER])
    host = made.virtual_hosts.add(name="all", domains=["*"])
    for traffic in sorted(services, key=lambda s: (-len(s.prefix), s.prefix)):
        host.routes.extend(_service_routes(traffic))
    return made


def _service_routes(traffic: ServiceTraffic) -> Iterable[Route]:
    """Labels beat the hash; the hash needs a uid; whoever has none goes to stable."""
    noted = _pack(ParseDict({k: v for k, v in notes(traffic.uid_header).items() if k != "@type"}, Notes()))
    for version, cluster in sorted(traffic.labels.items()):
        route = _route(f"label:{version}", traffic, noted)
        route.match.headers.add(name=VERSION_HEADER).string_match.exact = version
        _weigh(route.route, [(cluster, 1)], {cluster: version})
        yield route
    hashed = _route("hash", traffic, noted)
    hashed.match.headers.add(name=traffic.uid_header).string_match.safe_regex.regex = UID
    fallback = dict(traffic.stable_fallback)
    _weigh(
        hashed.route,
        [(piece.cluster, fallback.get(piece.cluster, 0)) for piece in traffic.line],
        traffic.versions,
    )
    hashed.route.weighted_clusters.use_hash_policy.value = True
    hashed.route.weighted_clusters.runtime_key_prefix = weight_prefix(traffic.service)
    salted = hashed.route.hash_policy.add().header
    salted.header_name = traffic.uid_header
    salted.regex_rewrite.pattern.regex = "^(.*)$"
    salted.regex_rewrite.substitution = rf"{traffic.salt}:\1"
    yield hashed
    nouid = _route("nouid", traffic, noted)
    _weigh(nouid.route, list(traffic.stable_fallback), traffic.versions)
    yield nouid


def _route(name: str, traffic: ServiceTraffic, noted: AnyProto) -> Route:
    route = Route(name=name)
    if traffic.prefix.endswith("/"):
        route.match.prefix = traffic.prefix
    else:
        route.match.path_separated_prefix = traffic.prefix
    route.typed_per_filter_config["envoy.filters.http.header_to_metadata"].CopyFrom(noted)
    action = route.route
    action.timeout.FromMilliseconds(max(1, round(traffic.timeout_s * 1000)))
    # only what never reached a server, once, and by Envoy's rules to the same cluster: a version never changes
    action.retry_policy.retry_on = "connect-failure,reset-before-request"
    action.retry_policy.num_retries.value = 1
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


def _cluster(name: str, endpoints: tuple[Endpoint, ...]) -> Cluster:
    made = Cluster(name=name, lb_policy=Cluster.LEAST_REQUEST)
    made.connect_timeout.FromMilliseconds(1000)
    # readiness is Kubernetes' word: no panic routing to what it took out
    made.common_lb_config.healthy_panic_threshold.value = 0
    limit = made.circuit_breakers.thresholds.add()
    limit.max_connections.value = MAX_CONNECTIONS
    limit.max_pending_requests.value = MAX_PENDING
    limit.max_requests.value = MAX_REQUESTS
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
    return made


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
