"""A rollout from begin to its end, over the REST API, with users that are split as Envoy splits them."""

from __future__ import annotations

import asyncio
from datetime import datetime
from itertools import groupby

import pytest

from sluice.buckets import bucket
from tests.serving.control.conftest import Desk, Desks
from tests.serving.control.paper import PaperGateway
from tests.serving.control.parts import candidate_body, policy, until


def bad(version: str, uid: str) -> int:
    """Version 2 fails for every user whose name ends in 3."""
    return 500 if version == "2" and uid.endswith("3") else 200


async def test_a_harmful_version_loses_its_traffic_with_nobody_watching(desk: Desk) -> None:
    """The verdict is in the ledger before the weights move, and the last acknowledgement is noted."""
    rollout = await desk.running()
    assert desk.gateway.share("2") == 1_000

    async def turned_back() -> bool:
        await desk.gateway.serve(desk.uids, bad)
        return (await desk.state(rollout))["state"] == "turned_back"

    await until(turned_back, every_s=0.1)
    after = await until(lambda: zeroed(desk, rollout))
    last = (await desk.decisions(rollout))[-1]
    assert desk.gateway.share("2") == 0
    assert after["verdict"]["action"] == "harm"
    assert last["verdict"]["numbers"]["harm"]["failure"]["heads"] > 0
    moved_at = next(at for at, weights in desk.gateway.history[::-1] if weights.get("minilm_v2_cpu") == 0)
    assert datetime.fromisoformat(last["at"]).timestamp() <= moved_at
    assert after["zero_acked_at"] >= last["at"]


async def zeroed(desk: Desk, rollout: dict) -> dict | None:
    state = await desk.state(rollout)
    return state if state["zero_acked_at"] else None


async def test_no_stage_opens_without_the_controllers_own_pass(desk: Desk) -> None:
    """A run whose gate was marked successful by hand moves nothing."""
    rollout = await desk.running()
    refused = await desk.open(rollout, 1, 409)
    assert refused["error"]["code"] == "no-fresh-pass"
    assert refused["error"]["verdict"]["action"] == "hold"
    assert (await desk.state(rollout))["stage"] == 0
    assert desk.gateway.share("2") == 1_000


async def test_a_stage_cannot_be_skipped_even_with_a_pass(desk: Desk) -> None:
    rollout = await desk.running()
    await desk.passed(rollout)
    assert (await desk.open(rollout, 2, 409))["error"]["code"] == "wrong-stage"
    assert desk.gateway.share("2") == 1_000


async def test_a_good_version_is_promoted_and_everybody_stays_where_they_were(desk: Desk) -> None:
    """Weights 10, 25, 50, 100 %; the cohort only grows; then it is stable, and nothing moves any more."""
    rollout = await desk.promoted(await desk.running())
    seen = [sum(n for name, n in w.items() if "_v2_" in name) for _, w in desk.gateway.history]
    assert [n for n, _ in groupby(seen) if n] == [1_000, 2_500, 5_000, 10_000]
    assert rollout["state"] == "promoted"
    service = await desk.get("/v1/services/minilm")
    assert service["stable"]["version"] == "2"
    assert service["rollout"] is None
    assert desk.gateway.share("2") == 10_000
    exposed = rollout["exposed"]["stages"]
    assert [row["percent"] for row in exposed] == [10, 25, 50, 100]
    assert exposed[0]["users"] == sum(1 for uid in desk.uids if in_cohort(rollout["salt"], uid, 1_000))
    actions = [row["action"] for row in await desk.decisions(rollout)]
    assert actions.count("open") == 4
    assert actions[-1] == "promote"


def in_cohort(salt: str, uid: str, width: int) -> bool:
    return bucket(salt, uid) < width


async def test_promoting_before_the_last_stage_is_refused(desk: Desk) -> None:
    rollout = await desk.running()
    await desk.passed(rollout)
    path = f"/v1/rollouts/{rollout['id']}/promote"
    assert (await desk.post(path, {"epoch": rollout["epoch"]}, 409))["error"]["code"] == "wrong-stage"


async def test_opening_the_open_stage_again_changes_nothing(desk: Desk) -> None:
    rollout = await desk.running()
    again = await desk.open(rollout, 0)
    assert again["opened"] == rollout["opened"]
    assert [row["action"] for row in await desk.decisions(rollout)].count("open") == 1


@pytest.mark.parametrize("call", ["candidate", "open", "hold", "resume", "lease", "promote"])
async def test_a_writer_with_another_epoch_loses(desk: Desk, call: str) -> None:
    rollout = await desk.running()
    stale = rollout["epoch"] + 1
    told = {"reason": "late", "by": "a zombie"}
    bodies = {
        "candidate": candidate_body(stale, "9", 9009),
        "open": {"epoch": stale, "stage": 1},
        "hold": {"epoch": stale, **told},
        "resume": {"epoch": stale, **told},
    }
    body = bodies.get(call, {"epoch": stale})
    error = (await desk.post(f"/v1/rollouts/{rollout['id']}/{call}", body, 409))["error"]
    assert (error["code"], error["epoch"]) == ("stale-epoch", rollout["epoch"])
    assert len(await desk.decisions(rollout)) == 3


async def test_a_retreat_needs_no_epoch_and_repeating_it_changes_nothing(desk: Desk) -> None:
    rollout = await desk.running()
    path = f"/v1/rollouts/{rollout['id']}/retreat"
    first = await desk.post(path, {"reason": "not this one", "by": "ann", "outcome": "rejected"})
    assert (first["state"], desk.gateway.share("2")) == ("rejected", 0)
    assert first["zero_acked_at"]
    again = await desk.post(path, {"reason": "really", "by": "bob", "outcome": "cancelled"})
    assert again == first
    assert (await desk.open(rollout, 0, 409))["error"]["code"] == "ended"


async def test_a_retreat_beats_an_opening_that_waits_for_its_acknowledgement(desks: Desks) -> None:
    """A gateway that does not answer keeps `open` waiting, never the retreat's ledger row."""
    async with desks(ack_wait_s=0.5) as desk:
        rollout = await desk.running()
        await desk.passed(rollout)
        desk.gateway.acknowledge = False
        opening = asyncio.create_task(desk.open(rollout, 1, 503))
        await desk.gateway.until(lambda: desk.gateway.share("2") == 2_500)
        body = {"reason": "stop", "by": "ann", "outcome": "cancelled"}
        retreat = asyncio.create_task(desk.post(f"/v1/rollouts/{rollout['id']}/retreat", body))
        await desk.gateway.until(lambda: desk.gateway.share("2") == 0)
        assert (await opening)["error"]["code"] == "gateways"
        ended = await retreat
        assert (ended["state"], ended["zero_acked_at"]) == ("cancelled", None)


async def test_a_retreat_is_known_to_be_over_before_the_candidates_label_is_taken_away(desks: Desks) -> None:
    """The weights alone are waited for; a route that a gateway is slow to take must not hide that they are at 0."""
    async with desks(ack_wait_s=2.0) as desk:
        rollout = await desk.running()
        assert "2" in desk.gateway.labels
        desk.gateway.withheld = frozenset({"rds"})
        body = {"reason": "stop", "by": "ann", "outcome": "cancelled"}
        ended = await desk.post(f"/v1/rollouts/{rollout['id']}/retreat", body)
        assert ended["zero_acked_at"]
        await desk.gateway.until(lambda: "2" not in desk.gateway.labels)
        assert "2" in desk.gateway.versions.values()


async def test_another_path_in_a_new_release_holds_from_its_promotion_on(desk: Desk) -> None:
    """Clients of stable call the old one until there is another stable version to call."""
    adopt = {"adopt": "http://127.0.0.1:9001"}
    cancelled = await desk.begin(policy=policy(first_deployment=adopt))
    body = {"reason": "stop", "by": "ann", "outcome": "cancelled"}
    await desk.post(f"/v1/rollouts/{cancelled['id']}/retreat", body)
    moved = {"prefix": "/v3/minilm", "uid_header": "x-user-id", "timeout_s": 5}
    rules = policy(traffic=moved, stages=[{"percent": p, "dwell_s": 0.2} for p in (50, 100)])
    rollout = await desk.running("run-2", policy=rules)
    await desk.passed(rollout)
    await desk.open(rollout, 1)
    await desk.passed(rollout)
    assert desk.gateway.paths == {"/v2/models/minilm"}
    await desk.post(f"/v1/rollouts/{rollout['id']}/promote", {"epoch": rollout["epoch"]})
    await desk.gateway.until(lambda: desk.gateway.paths == {"/v3/minilm"})


async def test_a_stage_that_no_gateway_acknowledged_is_not_open_and_never_passes(desks: Desks) -> None:
    async with desks(ack_wait_s=0.5) as desk:
        rollout = await desk.begin(policy=policy(first_deployment={"adopt": "http://127.0.0.1:9001"}))
        await desk.attach(rollout, "2")
        desk.gateway.acknowledge = False
        refused = await desk.open(rollout, 0, 503)
        assert refused["error"]["code"] == "gateways"
        assert refused["error"]["waiting"] == ["paper-1"]
        assert (await desk.state(rollout))["opened"][0]["acked_at"] is None


async def test_held_means_that_a_pass_opens_nothing_and_resume_lifts_it(desk: Desk) -> None:
    rollout = await desk.running()
    path = f"/v1/rollouts/{rollout['id']}"
    await desk.passed(rollout)
    body = {"epoch": rollout["epoch"], "reason": "holiday", "by": "ann"}
    await desk.post(f"{path}/hold", body)
    told = (await desk.get(f"{path}/evidence"))["verdict"]
    assert (told["action"], "holiday" in told["reason"]) == ("hold", True)
    refused = await desk.open(rollout, 1, 409)
    assert "holiday" in refused["error"]["verdict"]["reason"]
    assert desk.gateway.share("2") == 1_000
    await desk.post(f"{path}/resume", body | {"reason": "back"})
    await desk.passed(rollout)
    await desk.open(rollout, 1)
    assert desk.gateway.share("2") == 2_500


async def test_a_persons_hold_takes_the_place_of_a_tasks_and_no_task_replaces_a_persons(desk: Desk) -> None:
    """A task lifts its own hold when it goes on; a person's must outlast that."""
    rollout = await desk.running()
    path = f"/v1/rollouts/{rollout['id']}/hold"

    async def held_by(by: str) -> str:
        body = {"epoch": rollout["epoch"], "reason": f"{by} says so", "by": by}
        return (await desk.post(path, body))["held"]["by"]

    assert await held_by("airflow:gate") == "airflow:gate"
    assert await held_by("airflow:settle") == "airflow:gate"
    assert await held_by("ann") == "ann"
    assert await held_by("airflow:gate") == "ann"
    assert await held_by("bob") == "ann"


async def test_harm_beats_a_hold(desk: Desk) -> None:
    rollout = await desk.running()
    body = {"epoch": rollout["epoch"], "reason": "holiday", "by": "ann"}
    await desk.post(f"/v1/rollouts/{rollout['id']}/hold", body)

    async def turned_back() -> bool:
        await desk.gateway.serve(desk.uids, bad)
        return (await desk.state(rollout))["state"] == "turned_back"

    await until(turned_back, every_s=0.1)


async def test_evidence_without_a_gateway_is_stale_and_holds(desks: Desks) -> None:
    """A pass that was there is no pass any more once nobody reports."""
    gateway = PaperGateway()
    async with desks(gateway=gateway) as desk:
        rollout = await desk.running()
        await desk.passed(rollout)
        gateway._ads.cancel()

        async def stale() -> dict | None:
            verdict = (await desk.get(f"/v1/rollouts/{rollout['id']}/evidence"))["verdict"]
            return verdict if "stale" in verdict["reason"] else None

        assert (await until(stale))["action"] == "hold"
        assert (await desk.open(rollout, 1, 409))["error"]["code"] == "no-fresh-pass"


async def test_the_candidate_cannot_be_swapped_under_an_open_stage(desk: Desk) -> None:
    rollout = await desk.running()
    path = f"/v1/rollouts/{rollout['id']}/candidate"
    assert (await desk.post(path, candidate_body(rollout["epoch"], "2", 9002)))["candidate"] == rollout[
        "candidate"
    ]
    error = (await desk.post(path, candidate_body(rollout["epoch"], "3", 9003), 409))["error"]
    assert error["code"] == "illegal-move"
    assert (await desk.state(rollout))["candidate"]["version"] == "2"
