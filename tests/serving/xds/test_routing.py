"""Who is served by what, through the real Envoy."""

import pytest

from serving.control.xds import Endpoint
from sluice.buckets import bucket
from tests.serving.xds.world import ARCHS, SALT, World, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")
USERS = [f"user-{n:05}" for n in range(3_990)] + [
    "ü",
    "用户",
    "a b",
    "x" * 5_000,
    "-",
    "0",
    "%00",
    "&",
    "é",
    "A",
]


def predicted(uid: str, percent: float) -> str:
    """`version@arch` by the bucket arithmetic alone."""
    place, start = bucket(SALT, uid), 0
    for arch, size in ARCHS.items():
        if place < start + size:
            return f"{'2' if place < start + round(size * percent / 100) else '1'}@{arch}"
        start += size
    raise AssertionError(place)


@pytest.mark.parametrize("percent", [1, 5, 50, 100])
async def test_the_bucket_predicts_every_one_of_4000_users(world: World, percent: int) -> None:
    """Version and architecture are those that Python computes, and the header tells the truth."""
    await world.put(percent)
    answers = await world.ask([("/infer", {"x-user-id": uid}) for uid in USERS])
    wrong = [
        (uid, answer.body, predicted(uid, percent))
        for uid, answer in zip(USERS, answers, strict=True)
        if answer.body != predicted(uid, percent) or answer.version != answer.body.split("@")[0]
    ]
    reached = sum(answer.version == "2" for answer in answers)
    print(f"\n{percent} %: {len(wrong)} of {len(USERS)} mispredicted, {reached} reached the candidate")
    assert wrong == []
    assert (reached > 0) == any(predicted(uid, percent).startswith("2") for uid in USERS)


NO_UID: dict[str, dict[str, str | bytes]] = {
    "absent": {},
    "empty": {"x-user-id": ""},
    "blank": {"x-user-id": "  "},
    "with a comma": {"x-user-id": "a,b"},
    "not UTF-8": {"x-user-id": b"\xff\xfe"},
}


async def test_10000_requests_without_a_usable_uid_never_reach_the_candidate(world: World) -> None:
    """A uid that gateway, log and Python would not read alike has no bucket: it belongs to stable."""
    await world.put(50)
    reached = dict.fromkeys(NO_UID, 0)
    kinds = [list(NO_UID)[n % len(NO_UID)] for n in range(10_000)]
    answers = await world.ask([("/infer", NO_UID[kind]) for kind in kinds])
    for kind, answer in zip(kinds, answers, strict=True):
        reached[kind] += answer.version != "1"
    assert reached == dict.fromkeys(NO_UID, 0)
    assert {answer.body for answer in answers} == {"1@arch-a", "1@arch-b"}


async def test_a_label_beats_the_hash_at_every_share(world: World) -> None:
    """A tester reaches the named version; an unknown version is routed like no label."""
    await world.put(0)
    for version, body in (("2", "2@arch-b"), ("1", "1@arch-a")):
        [answer] = await world.ask([("/infer", {"x-sluice-version": version})], 1)
        assert (answer.body, answer.version) == (body, version)
    [answer] = await world.ask([("/infer", {"x-sluice-version": "99", "x-user-id": "u"})], 1)
    assert answer.version == "1"


async def test_a_path_beside_the_prefix_is_not_the_service(world: World) -> None:
    """`/v2/models/minilm2` is another model's name."""
    [answer] = await world.ask([("2/infer", {"x-user-id": "u"})], 1)
    assert answer.status == 404


async def test_the_version_is_named_on_answers_the_gateway_makes_itself(world: World) -> None:
    """A candidate without ready replicas answers 503 in its own name, and stable's users do not notice."""
    state = world.state(100)
    ends = dict(state.services[0].endpoints) | {"v2-arch-a": (), "v2-arch-b": ()}
    await world.put(100, endpoints=ends)
    [answer] = await world.ask([("/infer", {"x-user-id": "u"})], 1)
    assert (answer.status, answer.version) == (503, "2")
    await world.put(0, endpoints=ends)
    [answer] = await world.ask([("/infer", {"x-user-id": "u"})], 1)
    assert (answer.status, answer.version) == (200, "1")


async def test_an_upstream_may_be_given_by_name(world: World) -> None:
    """Teams that already serve give a host name; a request to it fails at no moment of the change."""
    by_name = {
        f"v{version}-{arch}": (Endpoint(host="localhost", port=upstream.port),)
        for (version, arch), upstream in world.upstreams.items()
    }
    await world.put(50)
    await world.put(50, endpoints=by_name)
    answers = await world.ask([("/infer", {"x-user-id": uid}) for uid in USERS[:300]])
    assert [answer.body for answer in answers] == [predicted(uid, 50) for uid in USERS[:300]]


async def test_a_dead_replica_costs_no_request_and_no_version(world: World) -> None:
    """A refused connection is tried again at another replica of the same version."""
    dead = Endpoint(host="127.0.0.1", port=free_port())
    ends = {name: (*live, dead) for name, live in world.state(50).services[0].endpoints.items()}
    await world.put(50, endpoints=ends)
    answers = await world.ask([("/infer", {"x-user-id": uid}) for uid in USERS[:300]], 4)
    assert [answer.body for answer in answers] == [predicted(uid, 50) for uid in USERS[:300]]


async def test_the_marker_stays_inside(world: World) -> None:
    """The server's marker does not reach the client, and a client's own does not reach the server."""
    await world.put(0)
    [marked, echo] = await world.ask([("/marked", {}), ("/echo", {"x-sluice-event": "mine"})], 1)
    assert "x-sluice-event" not in marked.headers
    assert echo.body == "-"


async def test_a_client_cannot_set_the_gateways_timeout(world: World) -> None:
    """`x-envoy-*` of a client is dropped: 1 ms asked for, and a failing answer retried, would change evidence."""
    before = sum(len(upstream.arrivals) for upstream in world.upstreams.values())
    asked = {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-retry-on": "5xx", "x-envoy-max-retries": "3"}
    [answer] = await world.ask([("/status/500", asked)], 1)
    assert answer.status == 500
    assert sum(len(upstream.arrivals) for upstream in world.upstreams.values()) == before + 1
