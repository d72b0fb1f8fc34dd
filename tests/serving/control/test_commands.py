"""Who may begin, what a lease does, and what a restart must not change."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from serving.control.rollouts import Retreat
from sluice.stages import State
from tests.serving.control.conftest import Desk, Desks
from tests.serving.control.parts import begin_body, policy, until


def broken(version: str, _uid: str) -> int:
    return 500 if version == "2" else 200


async def turned_back(desk: Desk, rollout: dict) -> dict:
    async def once() -> dict | None:
        await desk.gateway.serve(desk.uids, broken)
        state = await desk.state(rollout)
        return state if state["state"] == "turned_back" and state["zero_acked_at"] else None

    return await until(once, every_s=0.1)


async def test_the_same_run_gets_its_own_rollout_again(desk: Desk) -> None:
    first = await desk.begin()
    assert await desk.begin(status=200) == first
    assert len(await desk.decisions(first)) == 1


@pytest.mark.parametrize("on_active", ["refuse", "wait"])
async def test_a_second_run_is_refused_and_told_which_one_runs(desk: Desk, on_active: str) -> None:
    first = await desk.begin()
    error = (await desk.begin("run-2", 409, on_active=on_active))["error"]
    assert error["code"] == "active-rollout"
    assert (error["running"]["rollout"], error["running"]["run_id"]) == (first["id"], "run-1")


@pytest.mark.parametrize("on_active", ["refuse", "wait", "supersede"])
async def test_a_release_that_is_being_rolled_out_does_not_supersede_itself(
    desk: Desk, on_active: str
) -> None:
    """A nightly run that finds the same checkpoint again would otherwise start its own rollout over."""
    first = await desk.running()
    digest = first["release_digest"]
    error = (await desk.begin("run-2", 409, release_digest=digest, on_active=on_active))["error"]
    assert (error["code"], error["same_release"]) == ("active-rollout", True)
    assert "this release is being rolled out already" in error["message"]
    assert error["running"]["rollout"] == first["id"]
    assert ((await desk.state(first))["state"], desk.gateway.share("2")) == ("running", 1_000)


async def test_a_run_that_may_not_begin_supersedes_nobody(desk: Desk) -> None:
    """Every refusal comes before the retreat: stable already, turned back before, a path that is another's."""
    adopt = {"adopt": "http://127.0.0.1:9001"}
    stable = await desk.promoted_first()
    bad = await desk.begin("run-2")
    body = {"reason": "slow", "by": "ann", "outcome": "turned_back"}
    await desk.post(f"/v1/rollouts/{bad['id']}/retreat", body)
    elsewhere = policy(first_deployment=adopt)
    elsewhere["traffic"] = {"prefix": "/v2/models/another-one", "uid_header": "x-user-id", "timeout_s": 5}
    await desk.post("/v1/rollouts", begin_body("run-9", service="other", policy=elsewhere), 201)
    running = await desk.running("run-3", "3", policy=policy())
    for changes, status, code in (
        ({"release_digest": stable["release_digest"]}, 409, "already-stable"),
        ({"release_digest": bad["release_digest"]}, 409, "turned-back"),
        ({"policy": elsewhere}, 422, "invalid-request"),
    ):
        error = (await desk.begin("run-4", status, on_active="supersede", **changes))["error"]
        assert error["code"] == code
    assert ((await desk.state(running))["state"], desk.gateway.share("3")) == ("running", 1_000)


async def test_a_path_is_free_again_when_the_rollout_that_wished_for_it_has_ended(desk: Desk) -> None:
    await desk.promoted_first()
    moved = policy(traffic={"prefix": "/v3/minilm", "uid_header": "x-user-id", "timeout_s": 5})
    wishing = await desk.begin("run-2", policy=moved)
    error = (await desk.post("/v1/rollouts", begin_body("r", service="other", policy=moved), 422))["error"]
    assert "/v3/minilm" in error["message"]
    body = {"reason": "no", "by": "ann", "outcome": "cancelled"}
    await desk.post(f"/v1/rollouts/{wishing['id']}/retreat", body)
    await desk.post("/v1/rollouts", begin_body("r", service="other", policy=moved), 201)


async def test_superseding_takes_the_traffic_first_and_then_draws_a_new_salt(desk: Desk) -> None:
    first = await desk.running()
    second = await desk.begin("run-2", on_active="supersede")
    old = await desk.state(first)
    assert (old["state"], desk.gateway.share("2")) == ("superseded", 0)
    assert old["zero_acked_at"] <= second["started_at"]
    assert second["salt"] != first["salt"]
    assert second["epoch"] > first["epoch"]
    await desk.gateway.until(lambda: desk.gateway.salt == second["salt"])


async def test_the_salt_stays_while_a_gateway_may_still_route_to_the_old_candidate(desks: Desks) -> None:
    """A new salt under old weights would throw other users onto the candidate that was just taken back."""
    async with desks(ack_wait_s=0.3) as desk:
        first = await desk.running()
        desk.gateway.acknowledge = False
        second = await desk.begin("run-2", on_active="supersede")
        assert (await desk.state(first))["zero_acked_at"] is None
        assert second["salt"] == first["salt"]


async def test_a_release_that_is_stable_is_not_rolled_out_again(desk: Desk) -> None:
    rollout = await desk.promoted(await desk.running())
    error = (await desk.begin("run-2", 409, release_digest=rollout["release_digest"]))["error"]
    assert (error["code"], error["version"]) == ("already-stable", "2")


async def test_a_release_that_was_turned_back_needs_a_reason_and_its_evidence_still_counts(
    desk: Desk,
) -> None:
    first = await turned_back(desk, await desk.running())
    digest = first["release_digest"]
    error = (await desk.begin("run-2", 409, release_digest=digest))["error"]
    assert (error["code"], error["previous"]["rollout"]) == ("turned-back", first["id"])
    assert error["previous"]["verdict"]["action"] == "harm"
    again = await desk.begin("run-2", release_digest=digest, retry_reason="a disk was full")
    assert (again["retry_reason"], again["earlier"]["tries"]) == ("a disk was full", 1)
    assert again["policy"]["gates"]["beta"] == policy()["gates"]["beta"] / 2


async def test_a_second_try_shows_no_harm_before_its_last_stage_whatever_the_spec_asks_for(
    desk: Desk,
) -> None:
    gates = policy()["gates"] | {"no_harm_before": [25]}
    rules = policy(first_deployment={"adopt": "http://127.0.0.1:9001"}, gates=gates)
    rollout = await desk.running(policy=rules)
    assert rollout["policy"]["gates"]["no_harm_before"] == [25]
    first = await turned_back(desk, rollout)
    again = await desk.begin(
        "run-2", release_digest=first["release_digest"], retry_reason="again", policy=rules
    )
    assert again["policy"]["gates"]["no_harm_before"] == [25, 100]


async def test_a_second_try_in_one_stage_is_refused_and_supersedes_nobody(desk: Desk) -> None:
    """Straight to everybody: no harm could be shown before."""
    first = await turned_back(desk, await desk.running())
    running = await desk.running("run-2", "3", policy=policy())
    gates = policy()["gates"] | {"no_harm_before": []}
    rules = policy(gates=gates, stages=[{"percent": 100, "dwell_s": 0.2}])
    again = {"release_digest": first["release_digest"], "retry_reason": "again", "policy": rules}
    error = (await desk.begin("run-3", 422, on_active="supersede", **again))["error"]
    assert [problem["path"] for problem in error["problems"]] == ["policy.stages.0.percent"]
    assert (await desk.state(running))["state"] == "running"


async def test_a_first_deployment_goes_to_everybody_at_once_and_is_then_watched(desk: Desk) -> None:
    rollout = await desk.begin()
    assert rollout["first_deployment"]
    await desk.attach(rollout, "1")
    assert (await desk.open(rollout, 0, 409))["error"]["code"] == "wrong-stage"
    opened = await desk.open(rollout, 3)
    assert (opened["percent"], desk.gateway.share("1")) == (100, 10_000)
    verdict = await desk.passed(rollout)
    assert verdict["numbers"]["watch"]["failure"]["bad"] == 0
    await desk.post(f"/v1/rollouts/{rollout['id']}/promote", {"epoch": rollout["epoch"]})
    assert (await desk.get("/v1/services/minilm"))["stable"]["version"] == "1"


async def test_a_first_deployment_that_fails_the_watch_is_turned_back(desk: Desk) -> None:
    rollout = await desk.begin()
    await desk.attach(rollout, "2")
    await desk.open(rollout, 3)
    state = await turned_back(desk, rollout)
    assert state["verdict"]["action"] == "harm"
    assert (await desk.get("/v1/services/minilm"))["stable"] is None
    assert desk.gateway.share("2") == 0


async def test_a_run_that_went_silent_is_held_and_goes_on_when_it_is_back(desk: Desk) -> None:
    rules = policy(first_deployment={"adopt": "http://127.0.0.1:9001"}, lease={"ttl_s": 0.4, "then": "hold"})
    rollout = await desk.running(policy=rules)

    async def held() -> dict | None:
        state = await desk.state(rollout)
        return state if state["held"] else None

    state = await until(held)
    assert "lease" in state["held"]["reason"]
    assert desk.gateway.share("2") == 1_000
    back = await desk.post(f"/v1/rollouts/{rollout['id']}/lease", {"epoch": rollout["epoch"]})
    assert back["held"] is None
    assert datetime.fromisoformat(back["lease_until"]) > datetime.fromisoformat(state["lease_until"])


async def test_a_run_that_went_silent_is_retreated_where_the_policy_says_so(desk: Desk) -> None:
    rules = policy(
        first_deployment={"adopt": "http://127.0.0.1:9001"}, lease={"ttl_s": 0.4, "then": "retreat"}
    )
    rollout = await desk.running(policy=rules)

    async def gone() -> bool:
        return (await desk.state(rollout))["state"] == "abandoned"

    await until(gone)
    await desk.gateway.until(lambda: desk.gateway.share("2") == 0)


async def test_a_restart_keeps_weights_salt_and_counts_and_the_rollout_goes_on(desks: Desks) -> None:
    async with desks() as desk:
        rollout = await desk.running()
        await desk.passed(rollout)
        rollout = await desk.open(rollout, 1)
        before = (await desk.passed(rollout))["numbers"]["users"]
    async with desks() as desk:
        await desk.gateway.until(lambda: desk.gateway.share("2") == 2_500)
        assert max(weights.get("minilm_v2_cpu", 0) for _, weights in desk.gateway.history) == 2_500
        assert desk.gateway.salt == rollout["salt"]
        evidence = await desk.get(f"/v1/rollouts/{rollout['id']}/evidence")
        assert evidence["verdict"]["numbers"]["users"] == before
        assert evidence["exposed"]["stages"][0]["users"] > 0
        await desk.passed(rollout)
        assert (await desk.open(rollout, 2))["percent"] == 50


async def test_a_restart_after_a_retreat_that_nobody_heard_tells_the_gateways(desks: Desks) -> None:
    """The ledger is the truth: the row was written, the process died before the push."""
    async with desks() as desk:
        rollout = await desk.running()
        retreat = Retreat(goal=State.CANCELLED, reason="power cut", by="ann")
        desk.controller.commands.rollouts._close_row(rollout["id"], retreat)
        assert desk.gateway.share("2") == 1_000
    async with desks() as desk:
        await desk.gateway.until(lambda: desk.gateway.share("2") == 0)

        async def noted() -> bool:
            return (await desk.state(rollout))["zero_acked_at"] is not None

        await until(noted)


async def test_a_ledger_that_cannot_be_written_does_not_save_a_bad_version(
    desk: Desk, tmp_path: Path
) -> None:
    """The weights go to zero at once; the row follows when the database is back."""
    rollout = await desk.running()
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")

        async def lowered() -> bool:
            await desk.gateway.serve(desk.uids, broken)
            return desk.gateway.share("2") == 0

        await until(lowered, every_s=0.1)
        assert blocker.execute("SELECT state FROM heads").fetchall() == [("running",)]

    async def recorded() -> bool:
        return (await desk.state(rollout))["state"] == "turned_back"

    await until(recorded)
    assert (await desk.decisions(rollout))[-1]["verdict"]["action"] == "harm"
    assert desk.gateway.share("2") == 0


async def test_a_persons_retreat_that_the_ledger_cannot_take_is_not_forgotten(
    desk: Desk, tmp_path: Path
) -> None:
    """The answer says that the traffic is away; the row comes by itself, and until then nothing opens or promotes."""
    rollout = await desk.running()
    path = f"/v1/rollouts/{rollout['id']}"
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        body = {"reason": "not this one", "by": "ann", "outcome": "rejected"}
        error = (await desk.post(f"{path}/retreat", body, 503))["error"]
        assert (error["code"], "has been taken away" in error["message"]) == ("ledger", True)
        assert "written" in error["next_step"]
        assert desk.gateway.share("2") == 0
        later = {"reason": "another", "by": "bob", "outcome": "cancelled"}
        await desk.post(f"{path}/retreat", later, 503)
        for call in ({"stage": 0}, {"stage": 1}):
            error = (await desk.post(f"{path}/open", {"epoch": rollout["epoch"], **call}, 409))["error"]
            assert (error["code"], error["state"]) == ("ended", "rejected")
        assert (await desk.state(rollout))["state"] == "running"

    async def recorded() -> bool:
        return (await desk.state(rollout))["zero_acked_at"] is not None

    await until(recorded)
    last = (await desk.decisions(rollout))[-1]
    assert (last["action"], last["by"], last["reason"]) == ("reject", "ann", "not this one")
    assert desk.gateway.share("2") == 0


async def test_a_retreat_of_nothing_is_owed_to_nobody(desk: Desk) -> None:
    body = {"reason": "r", "by": "ann", "outcome": "cancelled"}
    await desk.post("/v1/rollouts/nope-1/retreat", body, 404)
    assert desk.controller.commands.rollouts.owed == frozenset()


async def test_two_services_do_not_touch_each_other(desk: Desk) -> None:
    rollout = await desk.running()
    other = policy(first_deployment={"adopt": "http://127.0.0.1:9005"})
    other["traffic"] = {"prefix": "/v2/models/other", "uid_header": "x-user-id", "timeout_s": 5}
    await desk.post("/v1/rollouts", begin_body("run-9", service="other", policy=other), 201)
    assert desk.gateway.share("2") == 1_000
    assert (await desk.state(rollout))["state"] == "running"
    assert [row["service"] for row in await desk.get("/v1/services")] == ["minilm", "other"]
