"""A gateway on paper: speaks ADS and the access log over real gRPC, routes by the weights that it was sent.

Envoy takes seconds to show what a rollout does with 10 000 users; this takes milliseconds. It acknowledges what it
gets, splits users as Envoy does (`xxh64(salt:uid) % 10 000` over the weighted clusters of the hash route, weights
from the runtime layer), and logs. The end-to-end test runs the same rollout on a real Envoy.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse, Resource
from envoy.service.runtime.v3.rtds_pb2 import Runtime

from serving.control.xds.session import TYPE_URLS
from sluice.buckets import bucket

KINDS = {url: kind for kind, url in TYPE_URLS.items()}
Answer = Callable[[str, str], int]  # (version, uid) -> HTTP status


def all_well(_version: str, _uid: str) -> int:
    return 200


class PaperGateway:
    """`weights`: cluster -> buckets now. `history`: (unix seconds, candidate weights) at every change.

    `labels`: version -> cluster, as testers reach it. `withheld`: kinds of resource that it does not acknowledge.
    """

    def __init__(self, node: str = "paper-1", *, acknowledge: bool = True) -> None:
        self.node, self.acknowledge = node, acknowledge
        self.weights: dict[str, int] = {}
        self.history: list[tuple[float, dict[str, int]]] = []
        self.order: list[str] = []
        self.labels: dict[str, str] = {}
        self.paths: set[str] = set()
        self.withheld: frozenset[str] = frozenset()
        self.versions: dict[str, str] = {}
        self.salt = ""
        self.addresses: dict[str, list[tuple[str, int]]] = {}
        self._ids = 0
        self._unanswered: list[tuple[str, list[str], DiscoveryResponse]] = []
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[PaperGateway]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            self._log = als_pb2_grpc.AccessLogServiceStub(channel)
            self._ads = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources()
            for kind, names in (("cds", []), ("rds", ["sluice"]), ("rtds", ["sluice"])):
                await self._ask(kind, names)
            task = asyncio.create_task(self._follow())
            try:
                yield self
            finally:
                task.cancel()
                self._ads.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def until(self, what: Callable[[], bool], timeout_s: float = 10) -> None:
        """Wait until the gateway's own view fulfils `what`."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(what), timeout_s)

    def share(self, version: str) -> int:
        """Buckets that a version gets now."""
        return sum(self.weights.get(name, 0) for name in self.order if self.versions[name] == version)

    async def serve(self, uids: Iterable[str], answer: Answer = all_well, *, sampled: bool = True) -> None:
        """Route one request of each user and log it, as Envoy would."""
        logs: dict[str, list[HTTPAccessLogEntry]] = {"event": [], "sample": []}
        for uid in uids:
            cluster = self._route(uid)
            status = answer(self.versions[cluster], uid)
            entry = self._entry(uid, cluster, status)
            if status >= 400:
                logs["event"].append(entry)
            if sampled:
                logs["sample"].append(entry)
        for name, entries in logs.items():
            await self._send(name, entries)

    def _route(self, uid: str) -> str:
        place = bucket(self.salt, uid)
        for cluster in self.order:
            if place < self.weights.get(cluster, 0):
                return cluster
            place -= self.weights.get(cluster, 0)
        raise AssertionError(f"the weights {self.weights} do not sum to 10 000")

    def _entry(self, uid: str, cluster: str, status: int) -> HTTPAccessLogEntry:
        entry = HTTPAccessLogEntry()
        common = entry.common_properties
        common.start_time.FromNanoseconds(time.time_ns())
        common.upstream_cluster, common.route_name = cluster, "hash"
        common.duration.FromMilliseconds(5)
        common.metadata.filter_metadata["sluice"].update({"uid": uid})
        entry.response.response_code.value = status
        self._ids += 1
        entry.request.request_id = f"{self.node}-{self._ids}"
        return entry

    async def _send(self, name: str, entries: list[HTTPAccessLogEntry]) -> None:
        stream = self._log.StreamAccessLogs()
        message = als_pb2.StreamAccessLogsMessage()
        message.identifier.node.id, message.identifier.log_name = self.node, name
        for start in range(0, max(len(entries), 1), 500):
            message.http_logs.ClearField("log_entry")
            message.http_logs.log_entry.extend(entries[start : start + 500])
            await stream.write(message)
        await stream.done_writing()
        await stream  # the server's answer: every entry has been taken in

    async def _ask(self, kind: str, names: list[str], answered: DiscoveryResponse | None = None) -> None:
        request = DiscoveryRequest(type_url=TYPE_URLS[kind], resource_names=names)
        request.node.id = self.node
        if answered is not None:
            request.version_info, request.response_nonce = answered.version_info, answered.nonce
        await self._ads.write(request)

    async def _follow(self) -> None:
        while True:
            response = await self._ads.read()
            if response is grpc.aio.EOF:
                return
            kind = KINDS[response.type_url]
            names = self._apply(kind, response)
            async with self._changed:
                self._changed.notify_all()
            if self.acknowledge and kind not in self.withheld:
                await self._confirm(kind, names, response)
            else:
                self._unanswered.append((kind, names, response))

    async def _confirm(self, kind: str, names: list[str], response: DiscoveryResponse) -> None:
        await self._ask(kind, names, response)
        if kind == "cds":
            await self._ask("eds", sorted(self.addresses))

    async def catch_up(self) -> None:
        """Acknowledge what was left unanswered, and everything from now on."""
        self.acknowledge = True
        while self._unanswered:
            await self._confirm(*self._unanswered.pop(0))

    def _apply(self, kind: str, response: DiscoveryResponse) -> list[str]:
        if kind == "cds":
            names = {_unpacked(packed, Cluster).name for packed in response.resources}
            self.addresses = {name: self.addresses.get(name, []) for name in names}
            return []
        if kind == "eds":
            for packed in response.resources:
                self._learn(_unpacked(packed, ClusterLoadAssignment))
            return sorted(self.addresses)
        if kind == "rds":
            self._take_routes(_unpacked(response.resources[0], RouteConfiguration))
        else:
            self._take_weights(_unpacked(response.resources[0], Runtime))
        return ["sluice"]

    def _learn(self, load: ClusterLoadAssignment) -> None:
        ends = [end.endpoint.address.socket_address for group in load.endpoints for end in group.lb_endpoints]
        self.addresses[load.cluster_name] = [(end.address, end.port_value) for end in ends]

    def _take_routes(self, routes: RouteConfiguration) -> None:
        every = [route for host in routes.virtual_hosts for route in host.routes]
        self.paths = {route.match.path_separated_prefix for route in every}
        self.labels = {}
        for route in every:
            clusters = route.route.weighted_clusters.clusters
            for cluster in clusters:
                self.versions[cluster.name] = cluster.response_headers_to_add[0].header.value
            if route.name.startswith("label:"):
                self.labels[route.name.removeprefix("label:")] = clusters[0].name
            if route.name == "hash":
                self.order = [cluster.name for cluster in clusters]
                rewrite = route.route.hash_policy[0].header.regex_rewrite
                self.salt = rewrite.substitution.removesuffix(r":\1")

    def _take_weights(self, layer: Runtime) -> None:
        weights = {
            name.rsplit(".", 1)[1]: int(layer.layer[name]) for name in layer.layer if ".weight." in name
        }
        if weights != self.weights:
            self.weights = weights
            self.history.append((time.time(), weights))


def _unpacked(packed: Any, kind: Any) -> Any:
    if packed.type_url.endswith("discovery.v3.Resource"):
        wrapped = Resource()
        packed.Unpack(wrapped)
        packed = wrapped.resource
    made = kind()
    packed.Unpack(made)
    return made
