"""What the controller hears of the traffic, from the real Envoy's access log and counters."""

import asyncio
from collections.abc import Callable

import pytest

from serving.control.xds.intake import STILL_RUNNING, UNIDENTIFIED
from sluice.buckets import bucket, uid_hash
from sluice.entry import Entry
from tests.serving.xds.world import SALT, World

pytestmark = pytest.mark.asyncio(loop_scope="module")


def of(uid: str) -> Callable[[list[Entry]], list[Entry]]:
    """Event entries of one user, which also says whether there is one yet."""
    return lambda entries: [e for e in entries if e.uid_hash == uid_hash(uid) and e.event_log]


@pytest.mark.parametrize(
    ("path", "status", "marker"),
    [("/status/500", 500, ""), ("/status/422", 422, ""), ("/marked", 200, "not-finite")],
)
async def test_a_bad_answer_becomes_an_event_of_its_user(
    world: World, path: str, status: int, marker: str
) -> None:
    """Status, marker, version, bucket and hashed user arrive; the uid itself does not."""
    await world.put(100)
    uid = f"user of {path}"
    [answer] = await world.ask([(path, {"x-user-id": uid})], 1)
    await world.until(of(uid))
    [entry] = of(uid)(world.entries)
    assert (entry.status, entry.marker or "", entry.route) == (status, marker, "hash")
    assert (entry.version, entry.bucket) == ("2", bucket(SALT, uid))
    assert entry.request_id == answer.headers["x-request-id"]
    assert entry.duration_ms is not None
    assert 0 < entry.duration_ms < 2_500
    assert uid not in repr(entry)


async def test_good_answers_are_no_events_and_the_sample_marks_itself(world: World) -> None:
    """At a share of 1 every finished request is in the sample, and only there; at 0 none is."""
    world.entries.clear()
    await world.put(0, sample_fraction=1.0)
    await world.ask([("/infer", {"x-user-id": f"sampled {n}"}) for n in range(40)])
    await world.until(lambda entries: len(entries) >= 40)
    assert len({e.uid_hash for e in world.entries}) == len(world.entries) == 40
    assert not any(e.event_log for e in world.entries)
    await world.put(0, sample_fraction=0.0)
    world.entries.clear()
    await world.ask([("/infer", {"x-user-id": f"unsampled {n}"}) for n in range(40)])
    await world.ask([("/status/500", {"x-user-id": "last"})], 1)
    await world.until(of("last"))
    assert len(world.entries) == 1


async def test_the_limit_of_slow_changes_without_a_new_listener(world: World) -> None:
    """One connection sees both limits: with 0.001 ms every answer is an event, without a limit none is."""
    await world.put(0, slow_floor_ms=1.0)
    await world.ask([("/infer", {"x-user-id": f"slow {n}"}) for n in range(400)], 16)
    await world.until(lambda entries: any(e.event_log and e.status == 200 for e in entries))
    slow = [e for e in world.entries if e.event_log and e.status == 200]
    assert all((e.duration_ms or 0) >= 1.0 for e in slow)


async def test_a_request_that_hangs_is_an_event_while_it_hangs(world: World) -> None:
    """An entry with status 100 comes before the answer does; the timeout is an event of its own."""
    await world.put(100, slow_floor_ms=200.0)
    uid = "patient"
    asking = asyncio.ensure_future(world.ask([("/hang", {"x-user-id": uid})], 1))
    await world.until(of(uid))
    assert not asking.done()
    [first, *_] = of(uid)(world.entries)
    assert (first.status, first.version, first.failed) == (STILL_RUNNING, "2", False)
    [answer] = await asking
    assert (answer.status, answer.version) == (504, "2")
    await world.until(lambda entries: any(e.status == 504 for e in of(uid)(entries)))
    last = of(uid)(world.entries)[-1]
    assert (last.flags, last.request_id + "~hang") == ("UT", first.request_id)


async def test_a_client_cannot_make_or_hide_events(world: World) -> None:
    """Its own marker is no marker, and the same request id twice is two requests."""
    await world.put(0)
    mine = {"x-sluice-event": "mine", "x-request-id": "always-the-same"}
    await world.ask([("/status/500", mine | {"x-user-id": f"twin {n}"}) for n in range(2)], 1)
    await world.until(of("twin 1"))
    pair = of("twin 0")(world.entries) + of("twin 1")(world.entries)
    assert len({e.request_id for e in pair}) == 2
    assert not any(e.marker for e in pair)


async def test_a_uid_sent_twice_is_heard_and_is_no_evidence(world: World) -> None:
    """Envoy hashes both values, so its bucket is nobody's."""
    await world.put(0)
    world.entries.clear()
    await world.ask([("/status/500", {"x-user-id": "a", "X-User-Id": "b"})], 1)
    await world.until(bool)
    assert [e.route for e in world.entries] == [UNIDENTIFIED]


async def test_labels_and_requests_without_a_uid_are_heard_under_their_route(world: World) -> None:
    """Only `hash` is evidence, and these are told apart from it."""
    await world.put(0)
    world.entries.clear()
    await world.ask([("/status/500", {"x-sluice-version": "2", "x-user-id": "u"}), ("/status/500", {})], 1)
    await world.until(lambda entries: len(entries) == 2)
    assert [(e.route, e.version) for e in world.entries] == [("label:2", "2"), ("nouid", "1")]


async def test_counters_and_entries_agree_until_entries_are_lost(world: World) -> None:
    """Entries that nobody reads are missed by count; when they come back, the gap stays visible."""
    await world.put(0, sample_fraction=0.5)
    failing = [("/status/500", {"x-user-id": f"f{n}"}) for n in range(50)]

    async def counted(errors: int) -> tuple[int, int]:
        """Wait until Envoy counted that many; returns (errors counted, entries received) of all clusters."""
        while True:
            counts = world.gateways.reconcile().counts
            if sum(c.errors for c in counts) >= errors:
                return sum(c.errors for c in counts), sum(c.received for c in counts)
            await asyncio.sleep(0.1)  # counters come once a second; there is nothing to wait on

    already, _ = await counted(0)
    await world.ask(failing)
    errors, received = await counted(already + 50)
    assert errors <= received
    assert world.gateways.reconcile().stale == {}
    world.wire.deafen()
    await world.ask(failing)
    errors, received = await counted(errors + 50)
    assert errors - received == 50
    reason = world.gateways.reconcile().stale["gateway-1"]
    assert "never arrived" in reason
    world.wire.listen()
