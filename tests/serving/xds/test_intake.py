"""From a logged request to an entry of evidence, without a gateway."""

from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry

from serving.control.xds.intake import Intake
from serving.control.xds.interface import ServiceTraffic, Slice, TrafficState

NOW_S = 1_800_000_000.0


def logged(start_s: float, cluster: str) -> HTTPAccessLogEntry:
    entry = HTTPAccessLogEntry()
    common = entry.common_properties
    common.start_time.FromNanoseconds(int(start_s * 1e9))
    common.upstream_cluster, common.route_name = cluster, "hash"
    common.metadata.filter_metadata["sluice"].update({"uid": "ann"})
    entry.response.response_code.value = 200
    return entry


def test_a_gateway_whose_clock_runs_ahead_cannot_make_evidence_fresh_for_hours():
    service = ServiceTraffic(
        service="m",
        prefix="/m",
        uid_header="x-user-id",
        salt="s",
        timeout_s=1.0,
        line=(Slice(arch="a", side="stable", version="1", cluster="m_v1_a", weight=10_000),),
        endpoints={"m_v1_a": ()},
        labels={},
        stable_fallback=(("m_v1_a", 10_000),),
        gateway_ttl_s=600.0,
    )
    intake = Intake()
    intake.learn(TrafficState(services=(service,)))
    sent = [logged(NOW_S + 7_200, "m_v1_a"), logged(NOW_S - 3, "m_v1_a")]
    assert [entry.at_s for entry in intake.entries("sample", sent, NOW_S)] == [NOW_S, NOW_S - 3]
