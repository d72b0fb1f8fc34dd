"""A gateway that is late: the stage counts from the moment at which the last one has it."""

from __future__ import annotations

from datetime import datetime

from tests.serving.control.conftest import Desks
from tests.serving.control.parts import until


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
