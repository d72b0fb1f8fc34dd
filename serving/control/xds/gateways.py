"""Envoy's management server and the ear for its logs and counters: the only part that does I/O.

Problem: a decision must reach every gateway in about a millisecond, and the controller must know which gateways
follow it. Invariants: every gateway is sent whatever differs from the wanted state, in the order that
`serving.control.xds.session` gives; "acknowledged" is only ever what Envoy said; a gateway that was lost while it
may still route a candidate's share counts as waiting until its time to live is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc

from serving.control.xds.counters import counts_by_cluster
from serving.control.xds.intake import Intake
from serving.control.xds.interface import (
    AckReport,
    GatewayStatus,
    OnEntries,
    Reconciliation,
    TrafficState,
)
from serving.control.xds.reconcile import Node
from serving.control.xds.session import TYPE_URLS, Session
from serving.control.xds.snapshot import Snapshot, snapshot
from serving.gateway.bootstrap import NODE_HEADER

log = logging.getLogger(__name__)

NOBODY: Final = "-"  # stands for the gateway that should be there

_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 5_000),  # a gateway behind a dead link is lost after 10 s, not after hours
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),  # two controllers on one address would share the gateways between them
)


@dataclass(slots=True)
class _Stream:
    session: Session
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Gateways:
    """See `TrafficPlane` in interface.py for the contract of each public method."""

    def __init__(
        self,
        *,
        on_entries: OnEntries,
        on_gateways: Callable[[list[str]], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """on_gateways: told the names of all gateways that are here or may come back, whenever they change."""
        self._on_entries, self._on_gateways, self._clock = on_entries, on_gateways, clock
        self._wanted: Snapshot | None = None
        self._state: TrafficState | None = None
        self._intake = Intake()
        self._streams: dict[int, _Stream] = {}
        self._nodes: dict[str, Node] = {}
        self._told: list[str] = []  # names as told last
        self._lost: dict[str, float] = {}  # node -> until when it may route a candidate's share, unix s
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Serve on host:port; return the port. Raises RuntimeError when the address is taken."""
        server = grpc.aio.server(options=_OPTIONS)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(_Ads(self), server)
        als_pb2_grpc.add_AccessLogServiceServicer_to_server(_AccessLog(self), server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Counters(self), server)
        bound = server.add_insecure_port(f"{host}:{port}")
        await server.start()
        self._server = server
        return bound

    def expect(self, nodes: Iterable[str], ttl_s: float) -> None:
        """Gateways of an earlier life that may still route a candidate's share, for `ttl_s` from now at most."""
        self._lost |= dict.fromkeys(nodes, self._clock() + ttl_s)

    async def stop(self) -> None:
        """End every stream; the gateways keep what they have."""
        if self._server is not None:
            await self._server.stop(grace=0)
            self._server = None

    async def apply(self, state: TrafficState) -> int:
        """Send what changed; return the generation. Equal content keeps the standing one."""
        if self._wanted is not None and state == self._state:
            return self._wanted.generation
        floor = 0 if self._wanted is None else self._wanted.generation + 1
        self._wanted = snapshot(state, max(int(self._clock() * 1000), floor), self._wanted)
        self._state = state
        self._intake.learn(state)
        for node in self._nodes.values():
            node.sample_fraction = max((s.sample_fraction for s in state.services), default=0.0)
        for stream in self._streams.values():
            stream.wake.set()
        generation = self._wanted.generation
        await asyncio.sleep(0)  # the streams write before the caller goes on
        return generation

    async def wait_acked(self, generation: int, timeout_s: float) -> AckReport:
        """Return as soon as every gateway answered, at the latest after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._changed.clear()
            report = self._report(generation)
            left_s = deadline - time.monotonic()
            if report.complete or report.rejected or left_s <= 0:
                return report
            with contextlib.suppress(TimeoutError):
                # not `wait_for`, which loses a cancellation that comes in the moment of the news
                async with asyncio.timeout(left_s):
                    await self._changed.wait()

    def status(self) -> list[GatewayStatus]:
        """Every gateway connected, or lost while it may route a candidate's share."""
        names = {stream.session.node for stream in self._streams.values()} | set(self._still_lost())
        return [self._status(name) for name in sorted(names)]

    def reconcile(self) -> Reconciliation:
        """Counted against received, of every gateway that `status` names."""
        now_s = self._clock()
        counts, stale = [], {}
        for name in sorted({stream.session.node for stream in self._streams.values()}):
            node = self._nodes[name]
            own = [node.count(name, cluster) for cluster in sorted(node.clusters)]
            counts += own
            reason = node.stale(own, now_s)
            if reason is not None:
                stale[name] = reason
        stale |= dict.fromkeys(self._still_lost(), "connection to the gateway lost")
        if not self._streams:
            stale.setdefault(NOBODY, "no gateway is connected")
        return Reconciliation(counts=tuple(counts), stale=stale)

    # -- called by the servicers, on the event loop -------------------------------------------------------

    def opened(self, node: str) -> _Stream:
        """A gateway opened its ADS stream."""
        now_s, until_s = self._clock(), self._lost.pop(node, None)
        stream = _Stream(Session(node, held_s=None if until_s is None else max(0.0, until_s - now_s)))
        self._streams[id(stream)] = stream
        self._node(node).since_s = now_s
        self._tell()
        return stream

    def closed(self, stream: _Stream) -> None:
        """Its stream ended, whoever ended it."""
        del self._streams[id(stream)]
        node = stream.session.node
        if stream.session.held_s is not None and not self._of(node):
            self._lost[node] = self._clock() + stream.session.held_s
        self._tell()
        self._changed.set()

    def pump(self, stream: _Stream) -> list[DiscoveryResponse]:
        """What this stream is to be sent now."""
        self._changed.set()
        return [] if self._wanted is None else stream.session.pump(self._wanted)

    def heard(self, node: str, log_name: str, logged: Iterable[Any]) -> None:
        """One access-log message."""
        record, now_s = self._node(node), self._clock()
        record.on_log(now_s)
        entries = self._intake.entries(log_name, logged, now_s)
        if log_name == "event":
            for entry in entries:
                if entry.status >= 400:
                    record.on_error(entry.cluster, entry.at_s + (entry.duration_ms or 0.0) / 1000)
        if entries:
            self._on_entries(entries)

    def counted(self, node: str, request: metrics_service_pb2.ExportMetricsServiceRequest) -> None:
        """One report of counters."""
        self._node(node).on_counts(counts_by_cluster(request), self._clock())

    def _tell(self) -> None:
        names = sorted({stream.session.node for stream in self._streams.values()} | set(self._still_lost()))
        if names != self._told:
            self._told = names
            self._on_gateways(names)

    # -- inside -------------------------------------------------------------------------------------------

    def _node(self, name: str) -> Node:
        if name not in self._nodes:
            share = (
                0.0
                if self._state is None
                else max((s.sample_fraction for s in self._state.services), default=0)
            )
            self._nodes[name] = Node(since_s=self._clock(), sample_fraction=share)
        return self._nodes[name]

    def _of(self, node: str) -> list[Session]:
        return [stream.session for stream in self._streams.values() if stream.session.node == node]

    def _still_lost(self) -> list[str]:
        now_s = self._clock()
        self._lost = {name: until for name, until in self._lost.items() if until > now_s}
        return sorted(self._lost)

    def _report(self, generation: int) -> AckReport:
        wanted = self._wanted
        if wanted is None or wanted.generation < generation:
            return AckReport(generation=generation)
        acked, waiting, rejected = [], self._still_lost(), {}
        for node in sorted({stream.session.node for stream in self._streams.values()}):
            sessions = self._of(node)
            words = next((said for s in sessions if (said := s.rejection(wanted))), None)
            if words is not None:
                rejected[node] = words
            elif all(session.applies(wanted) for session in sessions):
                acked.append(node)
            else:
                waiting.append(node)
        return AckReport(generation=generation, acked=tuple(acked), waiting=tuple(waiting), rejected=rejected)

    def _status(self, name: str) -> GatewayStatus:
        sessions, node = self._of(name), self._node(name)
        kinds = sessions[-1].kinds if sessions else {}
        return GatewayStatus(
            node=name,
            connected=bool(sessions),
            streams=len(sessions),
            acked={kind: said.acked for kind, said in kinds.items()},
            wanted=dict.fromkeys(TYPE_URLS, "") if self._wanted is None else dict(self._wanted.versions),
            nack=(sessions[-1].errors or None) if sessions else None,
            last_log_s=node.last_log_s,
            last_stats_s=node.last_stats_s,
        )


class _Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Moves bytes of ADS; every decision is the session's."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    async def StreamAggregatedResources(  # noqa: N802 - the name is the protocol's
        self, requests: AsyncIterator[DiscoveryRequest], context: Any
    ) -> None:
        """One stream, until either side ends it."""
        first = await anext(aiter(requests), None)
        if first is None:
            return
        if not first.node.id:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "node.id is empty; start the gateway with --node"
            )
        stream = self._gateways.opened(first.node.id)
        stream.session.on_request(first)
        stream.wake.set()
        try:
            async with (
                asyncio.TaskGroup() as both
            ):  # a writer that fails ends the stream, and Envoy comes back
                writer = both.create_task(self._write(stream, context))
                async for request in requests:
                    stream.session.on_request(request)
                    if request.HasField("error_detail"):
                        log.error("gateway %s rejects %s", stream.session.node, stream.session.errors)
                    stream.wake.set()
                writer.cancel()
        finally:
            self._gateways.closed(stream)

    async def _write(self, stream: _Stream, context: Any) -> None:
        """Send what the session says at every change, and renew the weights' time to live."""
        renewed = time.monotonic()
        while True:
            ttl_s = stream.session.ttl_s
            left_s = None if ttl_s is None else renewed + ttl_s / 3 - time.monotonic()
            try:
                async with asyncio.timeout(None if left_s is None else max(0.0, left_s)):
                    await stream.wake.wait()
            except TimeoutError:
                due = stream.session.heartbeat()
                renewed = time.monotonic()
            else:
                stream.wake.clear()
                due = self._gateways.pump(stream)
            for response in due:
                await context.write(response)
                if response.type_url == TYPE_URLS["rtds"]:
                    renewed = time.monotonic()


class _AccessLog(als_pb2_grpc.AccessLogServiceServicer):
    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    async def StreamAccessLogs(  # noqa: N802
        self, messages: AsyncIterator[als_pb2.StreamAccessLogsMessage], context: Any
    ) -> als_pb2.StreamAccessLogsResponse:
        """One log of one worker of one gateway; its first message says which."""
        node, name = "", ""
        async for message in messages:
            if message.HasField("identifier"):
                node, name = message.identifier.node.id, message.identifier.log_name
            self._gateways.heard(node, name, message.http_logs.log_entry)
        return als_pb2.StreamAccessLogsResponse()


class _Counters(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        """One report of counters of one gateway, named by its header."""
        node = dict(context.invocation_metadata()).get(NODE_HEADER, "")
        self._gateways.counted(node, request)
        return metrics_service_pb2.ExportMetricsServiceResponse()
