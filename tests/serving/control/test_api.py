"""The door: who gets in, what bad input is told, and that the description matches what is served."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import uvicorn

from serving.control.api import make_app
from serving.control.http import MAX_BODY_BYTES
from tests.serving.control.conftest import Desk
from tests.serving.control.parts import TOKEN, begin_body, candidate_body, policy, until

WRITES = ["candidate", "open", "retreat", "hold", "resume", "lease", "promote"]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({}, id="none"),
        pytest.param({"authorization": "Bearer "}, id="empty"),
        pytest.param({"authorization": f"Bearer {TOKEN}x"}, id="longer"),
        pytest.param({"authorization": f"Bearer {TOKEN[:-1]}"}, id="shorter"),
        pytest.param({"authorization": f"Basic {TOKEN}"}, id="another-scheme"),
        pytest.param({"authorization": "Bearer tökén".encode("latin-1")}, id="not-ascii"),
    ],
)
async def test_without_the_token_nothing_is_read_or_written(desk: Desk, header: dict) -> None:
    desk.api.headers.pop("authorization")
    for path in ("/v1/services", "/v1/decisions", "/v1/gateways", "/v1/rollouts/minilm-1"):
        answer = await desk.api.get(path, headers=header)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    answer = await desk.api.post("/v1/rollouts", json=begin_body(), headers=header)
    assert answer.status_code == 401
    assert desk.controller.ledger.heads(active=False) == []


async def test_every_route_but_three_asks_for_the_token(desk: Desk) -> None:
    desk.api.headers.pop("authorization")
    described = (await desk.api.get("/openapi.json")).json()["paths"]
    open_to_all = set()
    for path, methods in described.items():
        for method in methods:
            answer = await desk.api.request(method, path.format(rollout="x", service="x"), json={})
            if answer.status_code != 401:
                open_to_all.add(path)
    assert open_to_all == {"/healthz", "/metrics"}


def test_an_empty_token_is_no_token(desk: Desk) -> None:
    with pytest.raises(ValueError, match="token"):
        make_app(desk.controller.commands, token="")


async def test_every_problem_of_a_policy_is_named_at_once(desk: Desk) -> None:
    rules = policy(stages=[{"percent": 50, "dwell_s": -1}, {"percent": 5, "dwell_s": 1}])
    rules["gates"] = {"metrics": ["latency"]}
    error = (await desk.post("/v1/rollouts", begin_body(policy=rules), 422))["error"]
    paths = {problem["path"] for problem in error["problems"]}
    assert {"policy.stages.0.dwell_s", "policy.gates.metrics.0"} <= paths
    assert any(path.startswith("policy.stages.1") for path in paths)
    assert error["code"] == "invalid-request"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        pytest.param(begin_body(service="No Such"), "service", id="bad-service"),
        pytest.param(begin_body(release_digest=""), "release_digest", id="empty-digest"),
        pytest.param(begin_body(on_active="kill"), "on_active", id="unknown-choice"),
        pytest.param(begin_body(epoc=1), "epoc", id="misspelt-field"),
        pytest.param({"service": "minilm"}, "run_id", id="missing-field"),
    ],
)
async def test_a_bad_field_is_named(desk: Desk, body: dict, path: str) -> None:
    error = (await desk.post("/v1/rollouts", body, 422))["error"]
    assert path in [problem["path"] for problem in error["problems"]]
    assert error["next_step"]
    assert desk.controller.ledger.heads(active=False) == []


async def test_workloads_must_be_of_the_policys_architectures_and_of_one_kind(desk: Desk) -> None:
    rollout = await desk.begin()
    path = f"/v1/rollouts/{rollout['id']}/candidate"
    error = (await desk.post(path, candidate_body(1, "2", 9002, arch="sm_80"), 422))["error"]
    assert "sm_80" in error["message"]
    both = candidate_body(1, "2", 9002)
    both["workloads"][0]["deployment"] = "minilm-v2-cpu"
    assert "either" in (await desk.post(path, both, 422))["error"]["message"]
    none = {"epoch": 1, "version": "2", "signature": {}, "workloads": []}
    assert (await desk.post(path, none, 422))["error"]["problems"][0]["path"] == "workloads"


async def test_two_services_cannot_claim_one_path(desk: Desk) -> None:
    await desk.begin()
    error = (await desk.post("/v1/rollouts", begin_body("run-9", service="other"), 422))["error"]
    assert "/v2/models/minilm" in error["message"]


async def test_a_body_over_the_limit_is_not_read(desk: Desk) -> None:
    async def drip():
        for _ in range(MAX_BODY_BYTES // 65_536 + 2):
            yield b"x" * 65_536

    declared = await desk.api.post("/v1/rollouts", content=b"x" * (MAX_BODY_BYTES + 1))
    chunked = await desk.api.post("/v1/rollouts", content=drip())
    for answer in (declared, chunked):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body-too-large")


@pytest.mark.parametrize("call", WRITES)
async def test_an_unknown_rollout_is_404_with_the_next_step(desk: Desk, call: str) -> None:
    told = {"reason": "r", "by": "b"}
    bodies = {
        "candidate": candidate_body(1, "2", 9002),
        "open": {"epoch": 1, "stage": 0},
        "retreat": {**told, "outcome": "cancelled"},
        "hold": {"epoch": 1, **told},
        "resume": {"epoch": 1, **told},
    }
    error = (await desk.post(f"/v1/rollouts/nope-1/{call}", bodies.get(call, {"epoch": 1}), 404))["error"]
    assert (error["code"], "nope-1" in error["message"], bool(error["next_step"])) == (
        "not-found",
        True,
        True,
    )


async def test_a_path_that_does_not_exist_has_the_same_shape(desk: Desk) -> None:
    answer = await desk.api.get("/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not-found")
    answer = await desk.api.delete("/v1/services")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method-not-allowed")


async def test_openapi_describes_every_answer(desk: Desk) -> None:
    described = (await desk.api.get("/openapi.json")).json()
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert operation["summary"] or operation["description"]
            if path.startswith("/v1"):
                assert {"401", "409", "422", "503"} <= operation["responses"].keys()
                good = next(r for code, r in operation["responses"].items() if code.startswith("2"))
                assert good["content"]["application/json"]["schema"], path


async def test_health_says_no_when_the_ledger_is_gone(desk: Desk) -> None:
    answer = await desk.api.get("/healthz")
    assert (answer.status_code, answer.json()["gateways"]) == (200, 1)
    with desk.controller.ledger.write() as session:
        session.connection().exec_driver_sql("ALTER TABLE services RENAME TO gone")
    answer = await desk.api.get("/healthz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger")
    assert answer.headers["retry-after"]


async def test_errors_are_json_over_a_real_socket_too(desk: Desk) -> None:
    """The ASGI transport of the other tests has no HTTP parser in between; this is one round on the real one."""
    app = make_app(desk.controller.commands, token=TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await until(started)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as api:
        assert (await api.get("/v1/services")).json()["error"]["code"] == "unauthorized"
        big = await api.post("/v1/rollouts", content=b"x" * (MAX_BODY_BYTES + 1))
        assert big.status_code == 413
    server.should_exit = True
    await serving
