"""The fixed bootstrap of a gateway: who it is, where its controller is, what it reports.

Problem: a gateway whose configuration changes with every rollout has to be reloaded and can disagree with the
others. Invariant: nothing in here depends on a service, a version or a share; those come over one ADS stream.
The same JSON is what a cluster's ConfigMap holds.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]

ROUTES: Final = "sluice"  # the one route configuration (RDS)
RUNTIME: Final = "sluice"  # the one runtime layer (RTDS)
MARKER_HEADER: Final = "x-sluice-event"
METADATA: Final = "sluice"  # namespace of what the filters note down for the access log
XDS_CLUSTER: Final = "sluice-controller"
NODE_HEADER: Final = "x-sluice-node"  # tells the counters of one gateway from another's
NEVER_MS: Final = 4_294_967_295  # without the runtime layer nothing counts as slow
LOG_FLUSH_S: Final = "0.05s"  # from the end of a request to its entry on the wire
HANG_LOG_S: Final = "1s"  # a request that hangs is logged so often
COUNTERS_S: Final = "1s"
REQUESTS: Final = "sluice_requests"  # Envoy's upstream_rq_total, per cluster, cumulative
ERRORS: Final = "sluice_errors"  # Envoy's upstream_rq_4xx and upstream_rq_5xx
_SINK: Final = "envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """host:port; the host is an IP address or, for the controller, also a DNS name."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raise ValueError unless `text` is host:port with a port from 0 to 65535."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            raise ValueError(f"{text!r} is no address; give host:port, for example 127.0.0.1:8080")
        return cls(host=host.strip("[]"), port=int(port))

    @property
    def is_ip(self) -> bool:
        """Whether Envoy can use the host without DNS."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    def json(self) -> Json:
        """Envoy's `core.v3.Address`."""
        return {"socket_address": {"address": self.host, "port_value": self.port}}


def bootstrap(*, node: str, listen: Address, xds: Address, admin: Address | None = None) -> Json:
    """Return the whole bootstrap. `listen` needs an IP address, `xds` may be a DNS name."""
    ads = {"ads": {}, "resource_api_version": "V3"}
    rtds = {"name": RUNTIME, "rtds_layer": {"name": RUNTIME, "rtds_config": ads}}
    config: Json = {
        "node": {"id": node, "cluster": "sluice"},
        # no admin layer: nobody moves a weight behind the controller's back
        "layered_runtime": {"layers": [rtds]},
        "dynamic_resources": {
            "cds_config": ads,
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [_to_controller(node)],
            },
        },
        "static_resources": {"listeners": [_listener(listen, node)], "clusters": [_controller(xds)]},
        "stats_flush_interval": COUNTERS_S,
        "stats_sinks": [_counters(node)],
    }
    if admin is not None:
        config["admin"] = {"address": admin.json()}
    return config


def _any(type_name: str, **fields: Any) -> Json:
    return {"@type": f"type.googleapis.com/{type_name}", **fields}


def _to_controller(node: str) -> Json:
    """One gRPC service on the controller; comes back within 2 s of a lost connection."""
    backoff = {"base_interval": "0.2s", "max_interval": "2s"}
    return {
        "envoy_grpc": {"cluster_name": XDS_CLUSTER, "retry_policy": {"retry_back_off": backoff}},
        "initial_metadata": [{"key": NODE_HEADER, "value": node}],
    }


def _controller(xds: Address) -> Json:
    """HTTP/2 with keepalive, so that a silent partition ends the stream instead of hanging it."""
    http2 = {"connection_keepalive": {"interval": "5s", "timeout": "5s"}}
    options = _any(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": http2},
    )
    endpoint = {"endpoint": {"address": xds.json()}}
    return {
        "name": XDS_CLUSTER,
        "type": "STATIC" if xds.is_ip else "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {"cluster_name": XDS_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _listener(listen: Address, node: str) -> Json:
    return {
        "name": "clients",
        "address": listen.json(),
        "filter_chains": [
            {"filters": [{"name": "http", "typed_config": _connection_manager(node)}]},
        ],
    }


def _connection_manager(node: str) -> Json:
    return _any(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="clients",
        # every client is outside: its x-envoy-* headers (timeouts, retries) are dropped, request ids are ours
        use_remote_address=True,
        # (an empty list of inside addresses would mean Envoy's default list, so it names one that never calls)
        internal_address_config={"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        always_set_request_id_in_response=True,
        normalize_path=True,
        server_header_transformation="PASS_THROUGH",
        # no route, no port: a gateway that never heard from a controller is not ready, rather than full of 404s
        rds={
            "route_config_name": ROUTES,
            "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
        },
        http_filters=[
            {"name": "envoy.filters.http.header_to_metadata", "typed_config": notes()},
            {
                "name": "envoy.filters.http.router",
                "typed_config": _any("envoy.extensions.filters.http.router.v3.Router"),
            },
        ],
        access_log=[_event_log(node), _sample_log(node)],
        access_log_options={"access_log_flush_interval": HANG_LOG_S},
    )


def notes(uid_header: str | None = None) -> Json:
    """The filter that takes the server's marker off the answer, and the uid's value down, for the access log.

    Routes override it with their service's `uid_header`; the marker's rule is the same everywhere.
    """
    rules: Json = {
        "response_rules": [
            {
                "header": MARKER_HEADER,
                "on_header_present": {"metadata_namespace": METADATA, "key": "event", "type": "STRING"},
                "remove": True,
            }
        ]
    }
    if uid_header is not None:
        noted = {"metadata_namespace": METADATA, "key": "uid", "type": "STRING"}
        rules["request_rules"] = [{"header": uid_header, "on_header_present": noted, "remove": False}]
    return _any("envoy.extensions.filters.http.header_to_metadata.v3.Config", **rules)


def _event_log(node: str) -> Json:
    """Everything that counts against a version, also while it hangs."""
    failed = {"status_code_filter": {"comparison": _at_least(400, "sluice.event_status")}}
    slow = {"duration_filter": {"comparison": _at_least(NEVER_MS, "sluice.slow_floor_ms")}}
    marker = {"filter": METADATA, "path": [{"key": "event"}], "value": {"present_match": True}}
    marked = {"metadata_filter": {"matcher": marker, "match_if_key_not_found": False}}
    events = {"or_filter": {"filters": [failed, {"response_flag_filter": {}}, marked, slow]}}
    return _log("event", node, events)


def _sample_log(node: str) -> Json:
    """A random share of all finished requests; drawn apart from the request id, which a retry would repeat."""
    share = {
        "runtime_filter": {
            "runtime_key": "sluice.sample",
            "percent_sampled": {"numerator": 0, "denominator": "MILLION"},
            "use_independent_randomness": True,
        }
    }
    finished = {"log_type_filter": {"types": ["DownstreamEnd"]}}
    return _log("sample", node, {"and_filter": {"filters": [finished, share]}})


def _at_least(default: int, key: str) -> Json:
    return {"op": "GE", "value": {"default_value": default, "runtime_key": key}}


def _log(name: str, node: str, which: Json) -> Json:
    common = {
        "log_name": name,
        "transport_api_version": "V3",
        "grpc_service": _to_controller(node),
        "buffer_flush_interval": LOG_FLUSH_S,
    }
    config = _any("envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig", common_config=common)
    return {"name": "envoy.access_loggers.http_grpc", "filter": which, "typed_config": config}


def _counters(node: str) -> Json:
    """Envoy's own counters, cumulative, so that a lost report loses nothing. Everything else is dropped.

    Envoy counts an answer a second time by where the client is (internal, external, canary): not those.
    """
    actions = (
        (r"cluster\..+\.(internal|external|canary)\.upstream_rq_.*", "drop", _any(_SINK + ".DropAction")),
        (r"cluster\..+\.upstream_rq_total", "requests", _renamed(REQUESTS)),
        (r"cluster\..+\.upstream_rq_[45]xx", "errors", _renamed(ERRORS)),
    )
    config = _any(
        _SINK,
        grpc_service=_to_controller(node),
        emit_tags_as_attributes=True,
        use_tag_extracted_name=True,
        custom_metric_conversions={
            "matcher_list": {"matchers": [_on_name(*action) for action in actions]},
            "on_no_match": {"action": {"name": "drop", "typed_config": _any(_SINK + ".DropAction")}},
        },
    )
    return {"name": "envoy.stat_sinks.open_telemetry", "typed_config": config}


def _renamed(name: str) -> Json:
    return _any(_SINK + ".ConversionAction", metric_name=name)


def _on_name(pattern: str, name: str, action: Json) -> Json:
    stat_name = _any("envoy.extensions.matching.common_inputs.stats.v3.StatFullNameMatchInput")
    single = {
        "input": {"name": "name", "typed_config": stat_name},
        "value_match": {"safe_regex": {"google_re2": {}, "regex": pattern}},
    }
    return {
        "predicate": {"single_predicate": single},
        "on_match": {"action": {"name": name, "typed_config": action}},
    }
