"""The order of one stream, without a gateway: what is sent when, and what waits for what."""

from collections.abc import Mapping

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse, Resource
from envoy.service.runtime.v3.rtds_pb2 import Runtime

from serving.control.xds.interface import Endpoint, ServiceTraffic, Slice, TrafficState
from serving.control.xds.session import KINDS, TYPE_URLS, Session
from serving.control.xds.snapshot import Snapshot, snapshot


def traffic(service: str, percent: float, *, candidate: str = "2", ready: bool = True) -> ServiceTraffic:
    """One architecture, version 1 stable; the service's name is its path."""
    weight = round(percent * 100)
    new, old = f"{service}-v{candidate}", f"{service}-v1"
    return ServiceTraffic(
        service=service,
        prefix=f"/{service}",
        uid_header="x-user-id",
        salt="s",
        timeout_s=1,
        line=(
            Slice(arch="a", side="candidate", version=candidate, cluster=new, weight=weight),
            Slice(arch="a", side="stable", version="1", cluster=old, weight=10_000 - weight),
        ),
        endpoints={new: (Endpoint(host="127.0.0.1", port=2),) if ready else (), old: ()},
        labels={},
        stable_fallback=((old, 10_000),),
    )


class Peer:
    """Envoy's side: subscribes, and acknowledges when told to."""

    def __init__(self, *, version: str = "") -> None:
        self.session = Session("gateway")
        self.wanted: Snapshot | None = None
        self.unanswered: list[DiscoveryResponse] = []
        for url in TYPE_URLS.values():
            self.session.on_request(DiscoveryRequest(type_url=url, version_info=version))

    def want(self, *services: ServiceTraffic) -> list[str]:
        """A new state; returns the kinds sent at once."""
        generation = 1 if self.wanted is None else self.wanted.generation + 1
        self.wanted = snapshot(TrafficState(services=services), generation, self.wanted)
        return self.pump()

    def pump(self) -> list[str]:
        assert self.wanted is not None
        sent = self.session.pump(self.wanted)
        self.unanswered += sent
        return [KINDS[response.type_url] for response in sent]

    def answer(self, error: str = "") -> list[str]:
        """Answer the oldest response; returns the kinds sent thereupon."""
        response = self.unanswered.pop(0)
        request = DiscoveryRequest(
            type_url=response.type_url, version_info=response.version_info, response_nonce=response.nonce
        )
        if error:
            request.error_detail.message = error
        self.session.on_request(request)
        return self.pump()

    def settle(self) -> None:
        while self.unanswered:
            self.answer()
        assert self.wanted is not None
        assert self.session.applies(self.wanted)


def weights(response: DiscoveryResponse) -> Mapping[str, float]:
    """Cluster -> weight of a runtime response."""
    resource, layer = response.resources[0], Runtime()
    wrapped = Resource()
    if resource.Unpack(wrapped):
        resource = wrapped.resource
    resource.Unpack(layer)
    return {key.rsplit(".", 1)[1]: value for key, value in dict(layer.layer).items() if "weight" in key}


def test_a_new_candidate_comes_clusters_first_and_weights_last() -> None:
    """A route never names a cluster that is not ready, a weight never a cluster that is not routed."""
    peer = Peer()
    peer.want(traffic("m", 0))
    peer.settle()
    assert peer.want(traffic("m", 5, candidate="3")) == ["cds", "eds"]
    assert peer.answer() == []  # clusters; endpoints still out
    assert peer.answer() == ["rds"]
    assert peer.answer() == ["rtds", "cds"]  # weights, then the clusters of version 2 go
    assert weights(peer.unanswered[0]) == {"m-v3": 500, "m-v1": 9_500}
    peer.settle()


def test_a_retreat_waits_for_nothing() -> None:
    """It is the first thing on the wire, although clusters, endpoints and routes change with it."""
    peer = Peer()
    peer.want(traffic("m", 50))
    peer.settle()
    assert peer.want(traffic("m", 0, candidate="3")) == ["rtds", "cds", "eds"]
    assert weights(peer.unanswered[0])["m-v1"] == 10_000
    peer.settle()
    peer.want(traffic("m", 50, candidate="3"))
    peer.settle()
    assert peer.want(traffic("m", 0, candidate="3", ready=False))[0] == "rtds"


def test_a_promotion_gives_the_previous_version_no_request_back() -> None:
    """Weights may be there before the route that drops version 1: until then its weight is 0 by name."""
    peer = Peer()
    peer.want(traffic("m", 100))
    peer.settle()
    whole = traffic("m", 100)
    promoted = ServiceTraffic(
        **{
            **{name: getattr(whole, name) for name in ServiceTraffic.__dataclass_fields__},
            "line": (Slice(arch="a", side="stable", version="2", cluster="m-v2", weight=10_000),),
            "endpoints": {"m-v2": whole.endpoints["m-v2"]},
            "stable_fallback": (("m-v2", 10_000),),
        }
    )
    sent = peer.want(promoted)
    early = [weights(response) for response in peer.unanswered if KINDS[response.type_url] == "rtds"]
    assert early in ([], [{"m-v2": 10_000, "m-v1": 0}]), sent
    peer.settle()
    assert peer.session._layers["m"].keys == {"sluice.weight.m.m-v2": 10_000}


def test_a_retreat_of_one_service_does_not_wait_for_anothers_clusters() -> None:
    """B's new cluster never gets ready; A's weights go out all the same, B's stay as they were."""
    peer = Peer()
    peer.want(traffic("a", 50), traffic("b", 50))
    peer.settle()
    assert peer.want(traffic("a", 50), traffic("b", 60, candidate="3")) == ["cds", "eds"]
    assert peer.want(traffic("a", 0), traffic("b", 60, candidate="3"))[0] == "rtds"
    sent = next(r for r in peer.unanswered if KINDS[r.type_url] == "rtds")
    assert weights(sent) == {"a-v2": 0, "a-v1": 10_000, "b-v2": 5_000, "b-v1": 5_000}


def test_a_rejected_route_raises_nothing_and_still_lets_a_retreat_through() -> None:
    """The rejection is named; the share goes down without the rest."""
    peer = Peer()
    peer.want(traffic("m", 5))
    peer.settle()
    wider = traffic("m", 50)
    object.__setattr__(wider, "timeout_s", 2)
    assert peer.want(wider) == ["rds"]
    assert peer.answer(error="no") == []
    assert peer.session.rejection(peer.wanted) == "rds: no"
    lower = traffic("m", 0)
    object.__setattr__(lower, "timeout_s", 2)
    assert peer.want(lower) == ["rtds"]
    assert not peer.session.applies(peer.wanted)


def test_a_rejected_resource_is_not_sent_again_unchanged() -> None:
    """Otherwise controller and gateway would shout at each other for ever."""
    peer = Peer()
    peer.want(traffic("m", 0))
    while KINDS[peer.unanswered[0].type_url] != "rds":
        peer.answer()
    assert peer.answer(error="no") == []
    assert peer.pump() == []


def test_a_gateway_that_just_started_gets_its_weights_before_anything() -> None:
    """Envoy opens no port and asks for no cluster before its runtime layer is there."""
    peer = Peer()
    assert peer.want(traffic("m", 50))[0] == "rtds"
    assert weights(peer.unanswered[0]) == {"m-v2": 5_000, "m-v1": 5_000}


def test_a_gateway_that_comes_back_keeps_its_weights_until_its_routes_are_known() -> None:
    """It may still have the routes of before; weights that do not fit them would mix the two."""
    peer = Peer(version="17")
    assert "rtds" not in peer.want(traffic("m", 50))
    peer.settle()


def test_the_time_to_live_is_there_only_while_a_candidate_has_traffic() -> None:
    """With nothing to fall back from nothing runs out."""
    peer = Peer()
    peer.want(traffic("m", 0))
    peer.settle()
    assert peer.session.ttl_s is None
    peer.want(traffic("m", 1))
    assert peer.session.ttl_s == 600
    [beat] = peer.session.heartbeat()
    assert weights(beat) == {"m-v2": 100, "m-v1": 9_900}
    wrapped = Resource()
    beat.resources[0].Unpack(wrapped)
    assert wrapped.ttl.ToMilliseconds() == 600_000


def test_a_gateway_holds_a_candidates_weights_until_it_acknowledges_others() -> None:
    """Sent is not applied: a gateway that is lost in between still routes what it had."""
    peer = Peer()
    peer.want(traffic("m", 50))
    assert peer.session.held_s == 600
    peer.settle()
    peer.want(traffic("m", 0))
    assert (peer.session.ttl_s, peer.session.held_s) == (None, 600)
    peer.settle()
    assert peer.session.held_s is None


def test_an_answer_to_an_older_response_is_no_acknowledgement_of_the_newer() -> None:
    """Two shares on the wire: the answer to the first leaves the second open."""
    peer = Peer()
    peer.want(traffic("m", 0))
    peer.settle()
    peer.want(traffic("m", 1))
    peer.want(traffic("m", 5))
    peer.answer()
    assert not peer.session.applies(peer.wanted)
    peer.answer()
    assert peer.session.applies(peer.wanted)
