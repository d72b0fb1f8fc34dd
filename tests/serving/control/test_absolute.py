"""Absolute gates end to end at the controller: real Prometheus, real ledger, gateways on paper.

Covered: what is found before the first stage, what a breach does, and that a Prometheus that is gone neither passes
nor keeps the coins from closing a stage. The matrix of what Prometheus may say is in tests/plugins, on the sensor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus import Metrics, Prometheus, gate
from tests.serving.control.conftest import Desk, Desks
from tests.serving.control.parts import policy, until

SHIPPED = Path(__file__).parents[3] / "dags" / "models" / "minilm.yaml"
ADOPT = {"adopt": "http://127.0.0.1:9001"}
Scraped = tuple[Prometheus, Metrics]


def rules(*gates: Any) -> dict[str, Any]:
    made = policy(first_deployment=ADOPT)
    return {**made, "gates": {**made["gates"], "absolute": list(gates)}}


@asynccontextmanager
async def beginning(
    desks: Desks, scraped: Scraped, *gates: Any, stable: float = 100.0, wait_s: float = 10.0
) -> AsyncIterator[tuple[Desk, dict[str, Any]]]:
    """A rollout of version 2 beside an adopted upstream, both scraped, nothing open yet."""
    server, metrics = scraped
    metrics.latencies = {("minilm", "adopted"): stable, ("minilm", "2"): 100.0}
    server.await_series('count_over_time(p99_ms{service="minilm",version="2"}[1s]) > 2')
    async with desks(prometheus=server.url, check_wait_s=wait_s, gate_poll_s=0.2) as desk:
        rollout = await desk.begin(policy=rules(*gates))
        await desk.attach(rollout, "2")
        yield desk, rollout


async def verdict(desk: Desk, rollout: dict[str, Any]) -> dict[str, Any]:
    return (await desk.get(f"/v1/rollouts/{rollout['id']}/evidence"))["verdict"]


DEAD = [
    pytest.param(
        {"query": 'max by (version) (max_over_time(p99_msec{version="{version}"}[{window}]))'},
        'p99_msec{version="adopted"}[20s])); came back: nothing',
        id="a-typo-in-the-metric",
    ),
    pytest.param(
        {"query": 'label_replace(max(max_over_time(p99_ms[{window}])), "version", "{version}", "", "")'},
        "has a number for a version that does not exist",
        id="a-query-that-ignores-the-version",
    ),
    pytest.param(
        {"query": 'max by (version) (max_over_time(p99_ms{version="{version}"}[{window}])) or vector(0)'},
        "has a number for a version that does not exist",
        id="a-number-for-nothing",
    ),
    pytest.param(
        {"query": 'max by (version) (max_over_time(p99_ms{version="{version}"}[{window}])) > 500'},
        "Prometheus has nothing",
        id="a-comparison-of-its-own",
    ),
    pytest.param(
        {"query": 'max(max_over_time(p99_ms{version="{version}"}[{window}])'}, "unclosed", id="syntax"
    ),
    pytest.param(
        {"query": 'max(max_over_time(p99_ms{version="{version}"}[{window}]))'},
        "lacks the label",
        id="no-label",
    ),
]


@pytest.mark.parametrize(("change", "says"), DEAD)
async def test_a_gate_that_could_not_fire_ends_the_rollout_before_there_is_traffic(
    desks: Desks, scraped: Scraped, change: dict[str, str], says: str
) -> None:
    # A scrape that comes late must not leave the window of a good gate empty.
    broken, good = gate(name="broken", window_s=20, **change), gate(window_s=20)
    async with beginning(desks, scraped, good, broken, wait_s=0) as (desk, rollout):
        error = (await desk.open(rollout, 0, 409))["error"]
        assert error["code"] == "gate-not-alive"
        assert "gate broken: " in error["message"]
        assert says in error["message"]
        assert "p99_ms: " not in error["message"].partition("gate broken")[0]
        after = await desk.state(rollout)
        assert (after["state"], after["stage"], desk.gateway.share("2")) == ("rejected", None, 0)
        assert says in after["reason"]


async def test_a_gate_the_wrong_way_round_waits_before_the_first_stage(
    desks: Desks, scraped: Scraped
) -> None:
    """So does an incident of stable: the same numbers, and time may mend it."""
    async with beginning(desks, scraped, gate(bad="below"), wait_s=0) as (desk, rollout):
        error = (await desk.open(rollout, 0, 503))["error"]
        assert error["code"] == "gate-check"
        assert "stable itself is below the limit 500" in error["message"]
        assert ((await desk.state(rollout))["state"], desk.gateway.share("2")) == ("preparing", 0)


async def test_a_breach_of_a_gate_that_holds_keeps_the_next_stage_shut_until_it_is_over(
    desks: Desks, scraped: Scraped, caplog: pytest.LogCaptureFixture
) -> None:
    """The controller refuses by itself: a gate of Airflow that is marked as done opens nothing."""
    _, metrics = scraped
    told = gate(name="told", on_breach="observe", limit=200.0)
    async with beginning(desks, scraped, gate(), told) as (desk, rollout):
        metrics.latencies["minilm", "2"] = 900.0
        await desk.open(rollout, 0)

        async def breached() -> bool:
            await desk.gateway.serve(desk.uids)
            return "900 is above 500" in (await verdict(desk, rollout))["reason"]

        await until(breached)
        error = (await desk.open(rollout, 1, 409))["error"]
        assert (error["code"], error["verdict"]["action"]) == ("no-fresh-pass", "hold")
        metrics.latencies["minilm", "2"] = 300.0
        passed = await desk.passed(rollout)
        assert passed["numbers"]["absolute"]["told"]["outcome"] == "breach"
        assert (await desk.open(rollout, 1))["stage"] == 1
    lines = [line for line in caplog.messages if f"rollout {rollout['id']}: gate told: " in line]
    assert len(lines) == 1, "one line for a breach that goes on, whatever its value"


async def test_a_breach_of_a_gate_that_retreats_is_harm_unless_stable_shares_it(
    desks: Desks, scraped: Scraped
) -> None:
    _, metrics = scraped
    async with beginning(desks, scraped, gate(on_breach="retreat")) as (desk, rollout):
        await desk.open(rollout, 0)
        metrics.latencies |= {("minilm", "2"): 900.0, ("minilm", "adopted"): 800.0}

        async def shared() -> bool:
            await desk.gateway.serve(desk.uids)
            row = (await verdict(desk, rollout))["numbers"].get("absolute", {}).get("p99_ms", {})
            return "not the candidate's doing" in row.get("reason", "")

        await until(shared)
        assert ((await desk.state(rollout))["state"], desk.gateway.share("2")) == ("running", 1_000)
        metrics.latencies["minilm", "adopted"] = 100.0

        async def over() -> dict[str, Any] | None:
            state = await desk.state(rollout)
            return state if state["zero_acked_at"] else None

        after = await until(over)
        assert (after["state"], desk.gateway.share("2")) == ("turned_back", 0)
        assert after["reason"].startswith("harm: gate p99_ms: 900 is above 500 over 1 s")
        last = (await desk.decisions(rollout))[-1]
        assert (last["action"], last["by"]) == ("harm", "guard")
        assert last["verdict"]["numbers"]["absolute"]["p99_ms"]["stable"] == 100.0


async def test_gates_that_nobody_here_can_read_are_refused_at_the_beginning(desks: Desks) -> None:
    async with desks() as desk:
        error = (await desk.begin(policy=rules(gate()), status=422))["error"]
        assert [problem["path"] for problem in error["problems"]] == ["policy.gates.absolute"]
        assert "--prometheus" in error["message"]


async def test_a_controller_that_came_back_without_prometheus_holds_and_says_what_it_lacks(
    desks: Desks, scraped: Scraped
) -> None:
    async with beginning(desks, scraped, gate()) as (desk, rollout):
        await desk.open(rollout, 0)
    async with desks(gate_poll_s=0.1) as desk:

        async def told() -> bool:
            rows = (await verdict(desk, rollout))["numbers"].get("absolute", {})
            return "without --prometheus" in rows.get("p99_ms", {}).get("reason", "")

        await until(told)
        assert (await desk.open(rollout, 1, 409))["error"]["code"] == "no-fresh-pass"


def shipped() -> dict[str, Any]:
    """The gate that the shipped spec shows in comments."""
    text = SHIPPED.read_text().partition("  absolute: []")[2].partition("  # Both queries")[0]
    (example,) = yaml.safe_load("\n".join(line.replace("  # ", "", 1) for line in text.splitlines()[1:]))
    return example


async def test_the_gate_that_the_shipped_spec_shows_is_alive_on_the_controllers_own_metrics(
    desks: Desks, scraped: Scraped
) -> None:
    server, metrics = scraped
    example = {**shipped(), "window_s": 1.0}
    async with desks(prometheus=server.url, check_wait_s=0) as desk:
        rollout = await desk.begin(policy=rules(example))
        await desk.attach(rollout, "2")
        await desk.gateway.until(lambda: set(desk.gateway.order) >= set(desk.gateway.weights) > set())

        async def alive() -> bool:
            await desk.gateway.serve(desk.uids)
            text = (await desk.api.get("/metrics")).text
            metrics.own = lambda: text
            head = desk.controller.ledger.head(rollout["id"])
            return head is not None and not await desk.controller.gates.check(head, 0)

        await until(alive, every_s=0.1)
        assert (await desk.open(rollout, 0))["stage"] == 0


def broken_candidate(version: str, _uid: str) -> int:
    return 500 if version == "2" else 200


async def test_with_prometheus_gone_the_gates_hold_and_the_coins_still_close(
    desks: Desks, scraped: Scraped
) -> None:
    server, _ = scraped
    async with beginning(desks, scraped, gate(on_breach="retreat")) as (desk, rollout):
        await desk.open(rollout, 0)
        await desk.passed(rollout)
        server.kill()

        async def held() -> bool:
            await desk.gateway.serve(desk.uids)
            return "did not answer" in (await verdict(desk, rollout))["reason"]

        await until(held)
        assert (await desk.open(rollout, 1, 409))["error"]["code"] == "no-fresh-pass"
        assert (await desk.state(rollout))["state"] == "running"

        async def turned_back() -> bool:
            await desk.gateway.serve(desk.uids, broken_candidate)
            return (await desk.state(rollout))["state"] == "turned_back"

        await until(turned_back, every_s=0.1)
        assert "failure" in (await desk.state(rollout))["reason"]
