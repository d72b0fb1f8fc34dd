"""Envoy's counters out of an OpenTelemetry metrics report. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from serving.control.xds.interface import serves_clients
from serving.control.xds.reconcile import Counts
from serving.gateway.bootstrap import ERRORS, REQUESTS, XDS_CLUSTER


def counts_by_cluster(request: ExportMetricsServiceRequest) -> dict[str, Counts]:
    """Cluster -> its cumulative counters. A cluster that served nothing yet is not in it.

    Nor is a recorder's: the access log has no copies, so its failures would look like entries that got lost.
    """
    requests: dict[str, int] = {}
    errors: dict[str, int] = defaultdict(int)
    at_s: dict[str, float] = {}
    for name, point in _points(request):
        cluster = next((a.value.string_value for a in point.attributes if a.key == "envoy.cluster_name"), "")
        if not serves_clients(cluster):
            continue
        if name == REQUESTS and cluster not in ("", XDS_CLUSTER):
            requests[cluster] = point.as_int
            at_s[cluster] = point.time_unix_nano / 1e9
        elif name == ERRORS:
            errors[cluster] += point.as_int
    return {c: Counts(at_s=at_s[c], requests=n, errors=errors[c]) for c, n in requests.items()}


def _points(request: ExportMetricsServiceRequest) -> Iterable[tuple[str, Any]]:
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.sum.data_points:
                    yield metric.name, point
