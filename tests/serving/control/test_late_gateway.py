"""A gateway that is late or away: a stage counts from the last acknowledgement, and nobody forgets who is missing."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.serving.control.conftest import Desks
from tests.serving.control.paper import PaperGateway
from tests.serving.control.parts import policy, until


async def test_counting_begins_with_the_last_acknowledgement(desks: Desks) -> None:
    """Until then users are routed by the stage before, and none of that may be evidence of this one."""
    async with desks(ack_wait_s=0.2) as desk:
        rollout = await desk.running()
        await desk.passed(rollout)
        desk.gateway.acknowledge = False
        await desk.open(rollout, 1, 503)

        async def counted() -> bool:
            await desk.gateway.serve(desk.uids)
            picture = (await desk.get(f"/v1/rollouts/{rollout['id']}/evidence"))["evidence"]
            return picture["users_stable"] > 0

        await until(counted, every_s=0.1)
        await desk.gateway.catch_up()

        async def acknowledged() -> str | None:
            return (await desk.state(rollout))["opened"][1]["acked_at"]

        acked_at = datetime.fromisoformat(await until(acknowledged)).timestamp()
        picture = (await desk.get(f"/v1/rollouts/{rollout['id']}/evidence"))["evidence"]
        assert picture["opened_at_s"] == acked_at
        assert (picture["users_stable"], picture["users_candidate"]) == (0, 0)
        assert (await desk.passed(rollout))["action"] == "pass"


@pytest.mark.parametrize(("ttl_s", "waiting"), [(600, ["paper-2"]), (0.2, [])])
async def test_a_restart_still_waits_for_a_gateway_that_may_route_the_candidate(
    desks: Desks, ttl_s: float, waiting: list[str]
) -> None:
    """Its weights run out after their time to live; until then nobody may say that every gateway follows."""
    rules = policy(first_deployment={"adopt": "http://127.0.0.1:9001"}, gateway_lost={"ttl_s": ttl_s})
    async with desks(ack_wait_s=0.5) as desk, PaperGateway("paper-2").running(desk.xds_port):

        async def both() -> bool:
            return len(await desk.get("/v1/gateways")) == 2

        await until(both)
        rollout = await desk.running(policy=rules)
        await desk.passed(rollout)
    async with desks(ack_wait_s=0.5) as desk:
        ask = {"reason": "stop", "by": "ann", "outcome": "cancelled"}
        ended = await desk.post(f"/v1/rollouts/{rollout['id']}/retreat", ask)
        assert bool(ended["zero_acked_at"]) is (not waiting)
        names = [row["node"] for row in await desk.get("/v1/gateways") if not row["connected"]]
        assert names == waiting


async def test_a_restart_waits_for_as_long_as_the_gateways_were_told(desks: Desks) -> None:
    """While there is a stable version its time to live holds, not that of the release being rolled out."""
    async with desks(ack_wait_s=0.5) as desk, PaperGateway("paper-2").running(desk.xds_port):
        await desk.promoted_first()
        rollout = await desk.running(policy=policy(gateway_lost={"ttl_s": 0.2}))
    async with desks(ack_wait_s=0.5) as desk:
        ask = {"reason": "stop", "by": "ann", "outcome": "cancelled"}
        ended = await desk.post(f"/v1/rollouts/{rollout['id']}/retreat", ask)
        assert ended["zero_acked_at"] is None


async def test_a_gateway_that_routes_no_candidate_is_not_waited_for_after_a_restart(desks: Desks) -> None:
    async with desks() as desk, PaperGateway("paper-2").running(desk.xds_port):
        await desk.begin(policy=policy(first_deployment={"adopt": "http://127.0.0.1:9001"}))
    async with desks(gateway=PaperGateway("paper-1")) as desk:
        assert [row["node"] for row in await desk.get("/v1/gateways")] == ["paper-1"]
