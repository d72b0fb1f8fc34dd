"""A controller in this process, on a SQLite file, with paper gateways; and its REST API over ASGI."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.control.api import make_app
from serving.control.main import Controller
from tests.serving.control.paper import PaperGateway
from tests.serving.control.parts import TOKEN, begin_body, candidate_body, policy, until

Json = dict[str, Any]


@dataclass
class Desk:
    """One controller with everything around it, and the calls that tests make most."""

    controller: Controller
    api: httpx.AsyncClient
    gateway: PaperGateway
    xds_port: int
    uids: list[str] = field(default_factory=lambda: [f"user-{i}" for i in range(1_600)])

    async def post(self, path: str, body: Json, status: int = 200) -> Json:
        answer = await self.api.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str) -> Any:
        answer = await self.api.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def begin(self, run: str = "run-1", status: int = 201, **changes: Any) -> Json:
        return await self.post("/v1/rollouts", begin_body(run, **changes), status)

    async def attach(self, rollout: Json, version: str, port: int = 9002) -> Json:
        return await self.post(
            f"/v1/rollouts/{rollout['id']}/candidate", candidate_body(rollout["epoch"], version, port)
        )

    async def open(self, rollout: Json, stage: int, status: int = 200) -> Json:
        body = {"epoch": rollout["epoch"], "stage": stage}
        return await self.post(f"/v1/rollouts/{rollout['id']}/open", body, status)

    async def running(self, run: str = "run-1", version: str = "2", **changes: Any) -> Json:
        """A rollout against an adopted stable version, its first stage open."""
        rules = changes.pop("policy", None) or policy(first_deployment={"adopt": "http://127.0.0.1:9001"})
        rollout = await self.begin(run, policy=rules, **changes)
        await self.attach(rollout, version)
        return await self.open(rollout, 0)

    async def promoted_first(self) -> Json:
        """A first deployment, version 1, straight to 100 % and stable."""
        rollout = await self.begin("run-0")
        await self.attach(rollout, "1")
        await self.open(rollout, 3)
        await self.passed(rollout)
        return await self.post(f"/v1/rollouts/{rollout['id']}/promote", {"epoch": rollout["epoch"]})

    async def passed(self, rollout: Json, **serve: Any) -> Json:
        """Serve until the open stage has passed; the verdict."""

        verdict: Json = {}
        for _ in range(150):
            await self.gateway.serve(self.uids, **serve)
            verdict = (await self.get(f"/v1/rollouts/{rollout['id']}/evidence"))["verdict"]
            if verdict["action"] == "pass":
                return verdict
            await asyncio.sleep(0.1)
        raise AssertionError(f"never passed: {verdict}")

    async def promoted(self, rollout: Json) -> Json:
        """Take a running rollout all the way."""
        for stage in range(rollout["stage"] + 1, 4):
            await self.passed(rollout)
            await self.open(rollout, stage)
        await self.passed(rollout)
        return await self.post(f"/v1/rollouts/{rollout['id']}/promote", {"epoch": rollout["epoch"]})

    async def state(self, rollout: Json) -> Json:
        return await self.get(f"/v1/rollouts/{rollout['id']}")

    async def decisions(self, rollout: Json) -> list[Json]:
        return await self.get(f"/v1/decisions?rollout={rollout['id']}")


Desks = Callable[..., contextlib.AbstractAsyncContextManager[Desk]]


@contextlib.asynccontextmanager
async def open_desk(folder: Path, *, gateway: PaperGateway | None = None, **more: Any) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        controller = Controller(
            ledger=f"sqlite:///{folder / 'ledger.db'}", namespace="default", **{"kubeconfig": None} | more
        )
        port = await stack.enter_async_context(controller.running("127.0.0.1", 0))
        transport = httpx.ASGITransport(app=make_app(controller.commands, token=TOKEN))
        headers = {"authorization": f"Bearer {TOKEN}"}
        api = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://controller", headers=headers)
        )
        paper = await stack.enter_async_context((gateway or PaperGateway()).running(port))
        desk = Desk(controller=controller, api=api, gateway=paper, xds_port=port)
        await until(lambda: _connected(desk))
        yield desk


async def _connected(desk: Desk) -> bool:
    return any(gateway["connected"] for gateway in await desk.get("/v1/gateways"))


@pytest.fixture
def desks(tmp_path: Path) -> Desks:
    """Opens controllers on one ledger, one after the other, for tests of restarts."""
    return lambda **more: open_desk(tmp_path, **more)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as made:
        yield made
