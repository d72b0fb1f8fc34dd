"""Moving traffic and taking it away: order, acknowledgement, and what happens without a controller."""

import asyncio
import statistics
import time
from dataclasses import dataclass, field

import pytest

from serving.control.xds import Gateways, TrafficState
from tests.serving.xds.world import Answer, Client, World

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Load:
    """Sticky users on a few connections, for as long as it is open. (asked at, answered at, answer)."""

    world: World
    seen: list[tuple[float, float, Answer]] = field(default_factory=list)
    connections: int = 8

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._one(n)) for n in range(self.connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            if task.done():
                task.result()  # a broken connection is a failed request
            task.cancel()

    async def _one(self, number: int) -> None:
        async with Client(self.world.gateway_port) as client:
            for turn in range(1_000_000):
                asked = time.perf_counter()
                answer = await client.get("/infer", {"x-user-id": f"user-{number}-{turn % 500}"})
                self.seen.append((asked, time.perf_counter(), answer))
                self._event.set()

    def __post_init__(self) -> None:
        self._event = asyncio.Event()

    async def more(self, requests: int) -> None:
        """Until so many more were answered."""
        wanted = len(self.seen) + requests
        while len(self.seen) < wanted:
            self._event.clear()
            await asyncio.wait_for(self._event.wait(), 5)

    @property
    def failed(self) -> list[Answer]:
        return [answer for _, _, answer in self.seen if answer.status != 200]


def candidate_arrivals(world: World) -> list[float]:
    return sorted(at for (version, _), up in world.upstreams.items() if version == "2" for at in up.arrivals)


async def test_after_the_acknowledgement_of_a_retreat_no_request_reaches_the_candidate(world: World) -> None:
    """Twenty retreats under load; the figures are printed, the order is asserted."""
    last_ms, acked_ms = [], []
    async with Load(world) as load:
        for _ in range(20):
            await world.put(50)
            await load.more(50)
            decided = time.perf_counter()
            generation = await world.gateways.apply(world.state(0))
            assert (await world.gateways.wait_acked(generation, 5)).complete
            acked = time.perf_counter()
            await load.more(50)
            late = [answer.version for asked, _, answer in load.seen if asked > acked]
            assert late
            assert set(late) == {"1"}
            after = [at for at in candidate_arrivals(world) if at > decided]
            last_ms.append((max(after, default=decided) - decided) * 1e3)
            acked_ms.append((acked - decided) * 1e3)
    assert load.failed == []
    print(
        f"\nretreat under load, {len(load.seen)} requests, 20 times: last request to the candidate "
        f"median {statistics.median(last_ms):.1f} ms, worst {max(last_ms):.1f} ms after the decision; "
        f"acknowledged median {statistics.median(acked_ms):.1f} ms, worst {max(acked_ms):.1f} ms"
    )


async def test_a_retreat_and_the_candidates_removal_in_one_step_fail_nobody(world: World) -> None:
    """Clusters leave only after routes, routes only after weights."""
    async with Load(world) as load:
        for _ in range(10):
            await world.put(50)
            await load.more(20)
            stable = world.state(0).services[0]
            await world.put(
                0,
                line=tuple(piece for piece in stable.line if piece.side == "stable"),
                endpoints={name: ends for name, ends in stable.endpoints.items() if name.startswith("v1")},
                labels={"1": "v1-arch-a"},
            )
            await load.more(20)
    assert load.failed == []


async def test_unchanged_kinds_are_not_sent_again(world: World) -> None:
    """A change of weights is a change of weights alone; the same state is no change at all."""
    first = await world.put(5)
    before = world.gateways.status()[0].acked
    assert await world.put(5) == first
    second = await world.put(50)
    after = world.gateways.status()[0].acked
    assert second > first
    assert {kind for kind in after if after[kind] != before[kind]} == {"rtds"}


async def test_what_envoy_refuses_is_reported_and_traffic_stays(world: World) -> None:
    """The rejection comes with Envoy's words; the next good state is applied."""
    await world.put(0)
    broken = world.state(50)
    object.__setattr__(broken.services[0], "prefix", "/a?b")  # a path that Envoy's own checks do not allow
    report = await world.gateways.wait_acked(await world.gateways.apply(broken), 5)
    assert not report.complete
    assert "rds" in report.rejected["gateway-1"]
    assert "rds" in (world.gateways.status()[0].nack or "")
    [answer] = await world.ask([("/infer", {"x-user-id": "u"})], 1)
    assert (answer.status, answer.version) == (200, "1")
    await world.put(100)
    assert world.gateways.status()[0].nack is None


async def test_without_a_controller_the_gateway_falls_back_to_stable(world: World) -> None:
    """Share 0.5 -> 0 by itself after the time to live; nothing fails; a new controller takes over."""
    await world.put(50, gateway_ttl_s=1.5)
    async with Load(world) as load:
        await load.more(200)
        assert {answer.version for _, _, answer in load.seen[-200:]} == {"1", "2"}
        # as long as the controller is there the time to live is renewed, also while it is busy with other news
        began, turn = time.perf_counter(), 0
        while time.perf_counter() - began < 3.5:
            turn += 1
            await world.put(50, gateway_ttl_s=1.5, timeout_s=2.5 + turn / 1000)
            await load.more(30)
            assert {answer.version for _, _, answer in load.seen[-200:]} == {"1", "2"}
        stopped = time.perf_counter()
        await world.gateways.stop()
        while any(answer.version == "2" for _, _, answer in load.seen[-2_000:]):
            await load.more(500)
            assert time.perf_counter() - stopped < 20
        fell_back = max(at for _, at, answer in load.seen if answer.version == "2") - stopped
        print(f"\ncontroller gone: candidate's last answer {fell_back:.2f} s later (time to live 1.5 s)")
        await world.connect()
        await world.put(50, gateway_ttl_s=1.5)
        await load.more(200)
        assert {answer.version for _, _, answer in load.seen[-200:]} == {"1", "2"}
    assert load.failed == []


async def test_one_gateway_of_two_is_no_acknowledgement(world: World) -> None:
    """A second one, connected and silent, holds the report open and is named."""
    await world.put(0)
    silent = world.gateways.opened("gateway-2")
    try:
        generation = await world.gateways.apply(world.state(1))
        report = await world.gateways.wait_acked(generation, 1)
        assert (report.complete, report.waiting) == (False, ("gateway-2",))
        assert {s.node: s.acked["rtds"] == s.wanted["rtds"] for s in world.gateways.status()} == {
            "gateway-1": True,
            "gateway-2": False,
        }
    finally:
        world.gateways.closed(silent)


async def test_no_gateway_is_no_acknowledgement() -> None:
    """Nobody listened, so nobody acknowledged; and evidence from nobody is stale."""
    gateways = Gateways(on_entries=lambda entries: None)
    await gateways.start("127.0.0.1", 0)
    try:
        report = await gateways.wait_acked(await gateways.apply(TrafficState()), 0.05)
        assert not report.complete
        assert gateways.reconcile().stale
    finally:
        await gateways.stop()


@pytest.mark.parametrize("turns", range(4))
async def test_who_waits_for_gateways_can_be_stopped_whatever_a_gateway_says_meanwhile(turns: int) -> None:
    """A guard that lost its cancellation to an acknowledgement of the same moment kept the controller from ending."""
    gateways = Gateways(on_entries=lambda entries: None)
    waiting = asyncio.create_task(gateways.wait_acked(await gateways.apply(TrafficState()), 1.0))
    for _ in range(3):
        await asyncio.sleep(0)
    gateways.closed(gateways.opened("gateway-9"))
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_lost_gateway_waits_until_its_time_to_live_is_over(world: World) -> None:
    """It may still route the candidate's share: a retreat is not complete without it."""
    now = [1_000.0]
    gateways = Gateways(on_entries=lambda entries: None, clock=lambda: now[0])
    stream = gateways.opened("gateway-9")
    await gateways.apply(world.state(50, gateway_ttl_s=30.0))
    for request in _subscriptions():
        stream.session.on_request(request)
    gateways.pump(stream)
    gateways.closed(stream)
    generation = await gateways.apply(world.state(0))
    assert (await gateways.wait_acked(generation, 0)).waiting == ("gateway-9",)
    assert "lost" in gateways.reconcile().stale["gateway-9"]
    now[0] += 31
    assert (await gateways.wait_acked(generation, 0)).waiting == ()


async def test_a_gateway_lost_before_it_acknowledged_the_retreat_is_waited_for(world: World) -> None:
    """What was sent is not what it applies; nor does coming back for a moment without a word change that."""
    now = [1_000.0]
    gateways = Gateways(on_entries=lambda entries: None, clock=lambda: now[0])
    stream = gateways.opened("gateway-9")
    await gateways.apply(world.state(50, gateway_ttl_s=30.0))
    for request in _subscriptions():
        stream.session.on_request(request)
    gateways.pump(stream)
    generation = await gateways.apply(world.state(0))
    gateways.pump(stream)
    gateways.closed(stream)
    assert (await gateways.wait_acked(generation, 0)).waiting == ("gateway-9",)
    gateways.closed(gateways.opened("gateway-9"))
    assert (await gateways.wait_acked(generation, 0)).waiting == ("gateway-9",)
    now[0] += 31
    assert (await gateways.wait_acked(generation, 0)).waiting == ()


def _subscriptions() -> list[object]:
    from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

    from serving.control.xds.session import TYPE_URLS

    return [DiscoveryRequest(type_url=url) for url in TYPE_URLS.values()]
