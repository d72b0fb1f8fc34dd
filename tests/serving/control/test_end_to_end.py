"""The whole thing as processes: the controller, Envoy, three model servers, thousands of users; and kill -9."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.control.main import main
from sluice.buckets import bucket
from tests.serving.control.parts import (
    Backend,
    Load,
    Program,
    begin_body,
    candidate_body,
    client,
    controller,
    free_port,
    gateway,
    policy,
    until,
)

MORE = ("--samples-per-s", "5000")  # every request of this small load is seen, so that stages pass in seconds
STAGES = [{"percent": p, "dwell_s": 0.5} for p in (1, 5, 50, 100)]


@dataclass
class Site:
    folder: Path
    port: int
    xds_port: int
    api: httpx.AsyncClient
    load: Load

    def controller(self) -> Program:
        return controller(self.folder, self.port, self.xds_port, *MORE)

    async def up(self) -> None:
        async def connected() -> bool:
            answer = await self.api.get("/v1/gateways")
            return any(gateway["connected"] for gateway in answer.json())

        await until(connected, timeout_s=90)

    async def post(self, path: str, body: dict[str, Any], status: int = 200) -> Any:
        answer = await self.api.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def state(self, rollout: dict[str, Any]) -> Any:
        return (await self.api.get(f"/v1/rollouts/{rollout['id']}")).json()

    async def open(self, rollout: dict[str, Any], stage: int) -> Any:
        """As the DAG does it: ask until the controller has its pass."""

        async def once() -> Any:
            path = f"/v1/rollouts/{rollout['id']}/open"
            answer = await self.api.post(path, json={"epoch": rollout["epoch"], "stage": stage})
            assert answer.status_code in (200, 409, 503), answer.text
            return answer.json() if answer.status_code == 200 else None

        return await until(once, timeout_s=120, every_s=0.1)

    async def promote(self, rollout: dict[str, Any]) -> Any:
        async def once() -> Any:
            path = f"/v1/rollouts/{rollout['id']}/promote"
            answer = await self.api.post(path, json={"epoch": rollout["epoch"]})
            return answer.json() if answer.status_code == 200 else None

        return await until(once, timeout_s=120, every_s=0.1)

    async def begin(self, run: str, version: str, backend: Backend, **rules: Any) -> Any:
        body = begin_body(run, policy=policy(stages=STAGES, **rules))
        rollout = await self.post("/v1/rollouts", body, 201)
        path = f"/v1/rollouts/{rollout['id']}/candidate"
        return await self.post(path, candidate_body(rollout["epoch"], version, backend.port))


async def test_a_good_version_is_promoted_across_a_kill_and_a_bad_one_turned_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        old, good, bad = [
            await stack.enter_async_context(backend.running())
            for backend in (Backend("v1"), Backend("v2"), Backend("v3", fails=0.5))
        ]
        port, xds_port, entry = free_port(), free_port(), free_port()
        api = await stack.enter_async_context(client(port))
        site = Site(tmp_path, port, xds_port, api, Load(entry))
        program = stack.enter_context(site.controller())
        stack.enter_context(gateway(tmp_path, entry, xds_port))
        await site.up()
        adopt = {"adopt": f"http://127.0.0.1:{old.port}"}
        first = await site.begin("run-1", "2", good, first_deployment=adopt)
        await site.open(first, 0)
        await stack.enter_async_context(site.load.running())
        first = await site.open(first, 1)
        await killed_and_back(site, program, stack, first)
        await site.open(first, 2)
        await site.open(first, 3)
        promoted = await site.promote(first)
        assert promoted["state"] == "promoted"
        predicted(site.load, promoted)
        assert {status for _, status in site.load.answers} == {200}
        await turned_back(site, bad)
        assert site.load.errors == 0


async def killed_and_back(site: Site, program: Program, stack: AsyncExitStack, rollout: Any) -> None:
    """Traffic stays at 5 % and flows while the controller is dead; afterwards the same rollout goes on."""
    before = site.load.answers.total()
    program.kill()

    async def flows() -> bool:
        return site.load.answers.total() > before + 500

    await until(flows, timeout_s=60)
    stack.enter_context(site.controller())
    await site.up()
    after = await site.state(rollout)
    assert (after["state"], after["stage"], after["salt"]) == ("running", 1, rollout["salt"])
    assert after["opened"] == rollout["opened"]


def predicted(load: Load, rollout: Any) -> None:
    """Nobody below 100 % is on the side that the hash does not say; nobody ever changed back."""
    moved = load.seen["v1"] & load.seen["v2"]
    assert not [uid for uid in load.seen["v1"] if bucket(rollout["salt"], uid) < 100]
    assert all(bucket(rollout["salt"], uid) >= 100 for uid in moved)


async def turned_back(site: Site, bad: Backend) -> None:
    second = await site.begin("run-2", "3", bad)
    await site.open(second, 0)

    async def done() -> Any:
        state = await site.state(second)
        return state if state["zero_acked_at"] else None

    ended = await until(done, timeout_s=120)
    rows = (await site.api.get("/v1/decisions", params={"rollout": second["id"]})).json()
    assert (ended["state"], rows[-1]["action"], rows[-1]["by"]) == ("turned_back", "harm", "guard")
    acked_ms = (at(ended["zero_acked_at"]) - at(rows[-1]["at"])) * 1000
    print(f"verdict recorded -> acknowledged by every gateway: {acked_ms:.1f} ms")
    served, wait_until = bad.served.total(), time.monotonic() + 0.5
    before = site.load.answers.total()

    async def more() -> bool:
        return site.load.answers.total() > before + 1_000 and time.monotonic() > wait_until

    await until(more, timeout_s=60)
    assert bad.served.total() == served
    assert not [uid for uid in bad.served if bucket(ended["salt"], uid) >= 100]


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_wrong_usage_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "token"
    empty.write_text("\n")
    for path, told in ((empty, "is empty"), (tmp_path / "none", "No such file")):
        assert main(["--ledger", f"sqlite:///{tmp_path / 'l.db'}", "--token-file", str(path)]) == 2
        assert told in capsys.readouterr().err
