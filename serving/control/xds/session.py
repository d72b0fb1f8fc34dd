"""One gateway's ADS stream: what it has, what it must get next, in which order. No asyncio, no clock, no gRPC.

Problem: Envoy applies kinds of resources one by one, and a route to a cluster that is not there yet answers 503.
Invariants: a cluster is there before a route names it and until no route does; a weight reaches a gateway only
when its cluster is routed there; taking traffic away waits for nothing (a weight that only names clusters the
gateway already routes goes out in the same pass); a rejected resource is never sent twice unchanged.

The protocol is state-of-the-world xDS v3: Envoy answers every response, by nonce, with the version it applies
and, when it rejects one, with an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse, Resource
from google.protobuf.any_pb2 import Any as AnyProto

from serving.control.xds.snapshot import ServiceLayer, Snapshot, runtime
from serving.gateway.bootstrap import RUNTIME

_PREFIX: Final = "type.googleapis.com/envoy."
TYPE_URLS: Final[Mapping[str, str]] = {
    "cds": _PREFIX + "config.cluster.v3.Cluster",
    "eds": _PREFIX + "config.endpoint.v3.ClusterLoadAssignment",
    "rds": _PREFIX + "config.route.v3.RouteConfiguration",
    "rtds": _PREFIX + "service.runtime.v3.Runtime",
}
KINDS: Final[Mapping[str, str]] = {url: kind for kind, url in TYPE_URLS.items()}


@dataclass(slots=True)
class _Kind:
    """What was said about one kind of resource on this stream."""

    subscribed: bool = False
    names: frozenset[str] = frozenset()
    unanswered_names: bool = False  # names asked for since the last response
    nonce: str = ""
    sent: str = ""  # version of the last response
    acked: str = ""
    nacked: str = ""  # version that Envoy rejected last
    error: str | None = None
    pending: dict[str, str] = field(default_factory=dict)  # nonce -> version, not answered yet

    @property
    def applied(self) -> bool:
        """Whether the last response was applied."""
        return bool(self.sent) and self.acked == self.sent


class Session:
    """State of one stream. Feed it requests and the wanted snapshot; it says what to send.

    held_s: for how long the gateway may go on with a candidate's weights once it is cut off. It is what was sent,
    or what an earlier stream left it with, until the gateway acknowledges something else; None = it has none.
    """

    def __init__(self, node: str, *, held_s: float | None = None) -> None:
        self.node, self.held_s = node, held_s
        self.kinds = {kind: _Kind() for kind in TYPE_URLS}
        self.nonces = 0  # responses made so far
        self._fresh: bool | None = (
            None  # whether this Envoy had nothing when the stream began; None = not known
        )
        self._clusters: Mapping[str, AnyProto] = {}  # as sent last
        self._line: Mapping[str, frozenset[str]] = {}  # as in the routes acknowledged last
        self._line_sent: dict[str, Mapping[str, frozenset[str]]] = {}  # version -> line, not acknowledged yet
        self._layers: dict[str, ServiceLayer] = {}  # as sent last
        self._common: Mapping[str, int] = {}  # as sent last
        self._rtds = AnyProto()  # both, as sent last

    def on_request(self, request: DiscoveryRequest) -> None:
        """Take in a subscription, an acknowledgement or a rejection. Unknown types are ignored."""
        name = KINDS.get(request.type_url)
        if name is None:
            return
        kind = self.kinds[name]
        if self._fresh is None:
            self._fresh = not request.version_info
        names = frozenset(request.resource_names)
        kind.unanswered_names |= not kind.subscribed or bool(names - kind.names)
        kind.subscribed, kind.names = True, names
        if request.response_nonce not in kind.pending:
            return
        version = kind.pending[request.response_nonce]
        answered = int(request.response_nonce)  # Envoy answers in order
        kind.pending = {nonce: v for nonce, v in kind.pending.items() if int(nonce) > answered}
        if request.HasField("error_detail"):
            kind.nacked, kind.error = version, _short(request.error_detail.message)
            return
        kind.acked, kind.error = version, None
        if name == "rtds" and version == kind.sent:
            self.held_s = self.ttl_s
        if name == "rds" and version in self._line_sent:
            self._line = self._line_sent[version]
            self._line_sent = {}

    def pump(self, wanted: Snapshot) -> list[DiscoveryResponse]:
        """Return what can be sent now, in order. Call again after every request and every change."""
        responses = self._weights(wanted)
        responses += self._add_clusters(wanted)
        # not after the clusters' acknowledgement: Envoy holds that back until every new cluster has its endpoints
        responses += self._endpoints(wanted)
        if not self._clusters_ready(wanted):
            return responses
        responses += self._routes(wanted)
        if self.kinds["rds"].acked == wanted.versions["rds"]:
            responses += self._weights(wanted)
            responses += self._drop_clusters(wanted)
        return responses

    def _clusters_ready(self, wanted: Snapshot) -> bool:
        endpoints_known = not wanted.endpoints or self.kinds["eds"].acked == wanted.versions["eds"]
        return self.kinds["cds"].applied and endpoints_known

    def heartbeat(self) -> list[DiscoveryResponse]:
        """The weights as they were sent last, which renews their time to live.

        Whole, not the empty form: a layer that ran out while the stream hung must come back.
        """
        kind = self.kinds["rtds"]
        if not kind.sent or kind.nacked == kind.sent:
            return []
        return [self._respond("rtds", kind.sent, [self._rtds])]

    @property
    def ttl_s(self) -> float | None:
        """Time to live of the weights as sent; None when no candidate has traffic here."""
        return min((layer.ttl_s for layer in self._layers.values() if layer.ttl_s), default=None)

    def applies(self, wanted: Snapshot) -> bool:
        """Whether this gateway acknowledged every part of `wanted`."""
        needed = [kind for kind in TYPE_URLS if kind != "eds" or wanted.endpoints]
        return all(self.kinds[kind].acked == wanted.versions[kind] for kind in needed)

    def rejection(self, wanted: Snapshot) -> str | None:
        """Envoy's words about a part of `wanted` that it refused, or None."""
        for name, kind in self.kinds.items():
            if kind.error is not None and kind.nacked.split("+")[0] == wanted.versions[name]:
                return f"{name}: {kind.error}"
        return None

    @property
    def errors(self) -> str:
        """Everything that Envoy rejects now, or an empty string."""
        return "; ".join(f"{name}: {kind.error}" for name, kind in self.kinds.items() if kind.error)

    # -- one kind each ------------------------------------------------------------------------------------

    def _weights(self, wanted: Snapshot) -> list[DiscoveryResponse]:
        """The weights of every service that may have them now; the others keep what they had."""
        kind = self.kinds["rtds"]
        if not kind.subscribed:
            return []
        settled = self._clusters_ready(wanted) and self.kinds["rds"].acked == wanted.versions["rds"]
        layers = {k: layer for k, layer in wanted.layers.items() if self._may_have(k, layer, settled)}
        partial = len(layers) < len(wanted.layers)
        if partial and not kind.sent and not self._fresh:
            return []  # it kept weights from before; do not take them away while the routes are on their way
        layers |= {k: v for k, v in self._layers.items() if k in wanted.layers and k not in layers}
        layers = {k: layer.covering(self._line.get(k, frozenset())) for k, layer in layers.items()}
        version = wanted.versions["rtds"] + ("+" if partial else "")
        same = layers == self._layers and wanted.common == self._common
        if same and (partial or version in (kind.sent, kind.nacked)) and not kind.unanswered_names:
            return []
        self._layers, self._common = layers, wanted.common
        self.held_s = max((s for s in (self.held_s, self.ttl_s) if s is not None), default=None)
        self._rtds = self._with_ttl(runtime(layers.values(), wanted.common))
        return [self._respond("rtds", version, [self._rtds])]

    def _may_have(self, service: str, layer: ServiceLayer, settled: bool) -> bool:
        """Whether every cluster that gets traffic is routed here, and nothing is raised before the rest is there.

        An Envoy that has just started has no routes and waits for its weights before it opens its port.
        """
        if self._fresh and not self.kinds["rds"].acked:
            return True
        before = self._layers.get(service)
        lowers = before is not None and layer.candidate <= before.candidate
        return (settled or lowers) and layer.routed <= self._line.get(service, frozenset())

    def _with_ttl(self, resource: AnyProto) -> AnyProto:
        ttl_s = self.ttl_s
        if ttl_s is None:
            return resource
        wrapped = Resource(name=RUNTIME, resource=resource)
        wrapped.ttl.FromNanoseconds(round(ttl_s * 1e9))
        packed = AnyProto()
        packed.Pack(wrapped)
        return packed

    def _add_clusters(self, wanted: Snapshot) -> list[DiscoveryResponse]:
        """New and changed clusters at once; clusters no longer wanted stay until the routes have let go."""
        kind = self.kinds["cds"]
        target = {**self._clusters, **wanted.clusters}
        lingering = len(target) > len(wanted.clusters)
        version = wanted.versions["cds"] + ("+" if lingering else "")
        current = target == self._clusters if lingering else version == kind.sent
        if not kind.subscribed or version == kind.nacked or (current and not kind.unanswered_names):
            return []
        return [self._send_clusters(version, target)]

    def _drop_clusters(self, wanted: Snapshot) -> list[DiscoveryResponse]:
        version = wanted.versions["cds"]
        if self._clusters.keys() <= wanted.clusters.keys() or version == self.kinds["cds"].nacked:
            return []
        return [self._send_clusters(version, wanted.clusters)]

    def _send_clusters(self, version: str, clusters: Mapping[str, AnyProto]) -> DiscoveryResponse:
        self._clusters = dict(clusters)
        # a cluster that was replaced waits for its endpoints again, even when they are the same
        self.kinds["eds"].unanswered_names |= self.kinds["eds"].subscribed
        return self._respond("cds", version, clusters.values())

    def _endpoints(self, wanted: Snapshot) -> list[DiscoveryResponse]:
        kind = self.kinds["eds"]
        version = wanted.versions["eds"]
        if not kind.subscribed or not wanted.endpoints or version == kind.nacked:
            return []
        if kind.sent == version and not kind.unanswered_names:
            return []
        return [self._respond("eds", version, wanted.endpoints.values())]

    def _routes(self, wanted: Snapshot) -> list[DiscoveryResponse]:
        kind = self.kinds["rds"]
        version = wanted.versions["rds"]
        if not kind.subscribed or version == kind.nacked:
            return []
        if kind.sent == version and not kind.unanswered_names:
            return []
        self._line_sent[version] = wanted.line
        return [self._respond("rds", version, [wanted.routes])]

    def _respond(self, name: str, version: str, resources: Iterable[AnyProto]) -> DiscoveryResponse:
        kind = self.kinds[name]
        self.nonces += 1
        kind.nonce, kind.sent, kind.unanswered_names = str(self.nonces), version, False
        kind.pending[kind.nonce] = version
        return DiscoveryResponse(
            type_url=TYPE_URLS[name], version_info=version, nonce=kind.nonce, resources=resources
        )


def _short(words: str, limit: int = 600) -> str:
    """Envoy's reason without the resource that it repeats: the head and the tail of one line."""
    line = " ".join(words.split())
    return line if len(line) <= limit else f"{line[: limit * 2 // 3]} ... {line[-limit // 3 :]}"
