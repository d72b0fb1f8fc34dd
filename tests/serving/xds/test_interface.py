"""A state that does not add up is refused by service, field, value and next step, before a gateway sees it."""

import dataclasses

import pytest

from serving.control.xds import Endpoint, ServiceTraffic, Slice, TrafficError, TrafficState
from tests.serving.xds.test_session import traffic

GOOD = traffic("m", 5)
CANDIDATE, STABLE = GOOD.line


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("line", (STABLE, CANDIDATE), "line"),
        ("line", (CANDIDATE, dataclasses.replace(STABLE, weight=9_499)), "line"),
        ("line", (CANDIDATE, dataclasses.replace(STABLE, cluster=CANDIDATE.cluster)), "line"),
        ("line", (CANDIDATE, dataclasses.replace(STABLE, cluster="unknown")), "endpoints"),
        ("stable_fallback", (("m-v2", 10_000),), "stable_fallback"),
        ("stable_fallback", (("m-v1", 9_999),), "stable_fallback"),
        ("labels", {"9": "unknown"}, "endpoints"),
        ("labels", {"a\nb": "m-v1"}, "version"),
        ("labels", {"9": "m-v1"}, "labels"),
        ("salt", r"a\1", "salt"),
        ("salt", "", "salt"),
        ("prefix", "m", "prefix"),
        ("prefix", "/m?x", "prefix"),
        ("uid_header", "X-User-Id", "uid_header"),
        ("timeout_s", 0, "timeout_s"),
        ("timeout_s", float("nan"), "timeout_s"),
        ("gateway_ttl_s", 0, "gateway_ttl_s"),
        ("sample_fraction", 1.1, "sample_fraction"),
        ("sample_fraction", float("nan"), "sample_fraction"),
        ("slow_floor_ms", 0, "slow_floor_ms"),
    ],
)
def test_what_cannot_be_routed_is_refused(field: str, value: object, named: str) -> None:
    """The error names the field that is wrong and says what to give."""
    with pytest.raises(TrafficError) as refused:
        dataclasses.replace(GOOD, **{field: value})
    assert refused.value.field_name == named
    assert str(refused.value).startswith(f"traffic of service 'm': {named} is ")
    assert "; give " in str(refused.value)


def test_an_architecture_in_two_places_is_refused() -> None:
    """Its block would be two, and growing the candidate would move users between architectures."""
    other = Slice(arch="b", side="stable", version="1", cluster="m-b", weight=0)
    again = Slice(arch="a", side="stable", version="1", cluster="m-c", weight=0)
    with pytest.raises(TrafficError, match="side by side"):
        dataclasses.replace(
            GOOD, line=(*GOOD.line, other, again), endpoints={**GOOD.endpoints, "m-b": (), "m-c": ()}
        )


def test_services_do_not_share_names() -> None:
    """Clusters go by name in one gateway, paths too."""
    with pytest.raises(TrafficError, match="cluster"):
        TrafficState(services=(GOOD, dataclasses.replace(GOOD, service="n", prefix="/n")))
    twin = dataclasses.replace(traffic("n", 5), prefix="/m")
    with pytest.raises(TrafficError, match="prefix"):
        TrafficState(services=(GOOD, twin))


@pytest.mark.parametrize(("host", "port"), [("", 1), ("127.0.0.1", 0), ("127.0.0.1", 65_536)])
def test_an_endpoint_is_an_address(host: str, port: int) -> None:
    """Nothing listens there."""
    with pytest.raises(TrafficError, match="endpoint"):
        Endpoint(host=host, port=port)


def test_the_versions_of_all_clusters_are_known() -> None:
    """Line and labels together: every cluster has a name for the answer's header."""
    labelled: ServiceTraffic = dataclasses.replace(
        GOOD, labels={"9": "m-v9"}, endpoints={**GOOD.endpoints, "m-v9": ()}
    )
    assert labelled.versions == {"m-v1": "1", "m-v2": "2", "m-v9": "9"}
