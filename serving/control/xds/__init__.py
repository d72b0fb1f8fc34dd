"""The controller's side of the gateways: Envoy's management server, access-log intake, reconciliation."""

from serving.control.xds.gateways import Gateways
from serving.control.xds.interface import (
    AckReport,
    ClusterCount,
    Endpoint,
    GatewayStatus,
    Mirror,
    Reconciliation,
    ServiceTraffic,
    Slice,
    TrafficError,
    TrafficPlane,
    TrafficState,
)

__all__ = [
    "AckReport",
    "ClusterCount",
    "Endpoint",
    "GatewayStatus",
    "Gateways",
    "Mirror",
    "Reconciliation",
    "ServiceTraffic",
    "Slice",
    "TrafficError",
    "TrafficPlane",
    "TrafficState",
]
