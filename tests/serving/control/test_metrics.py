"""What Prometheus scrapes is what the guard judges."""

from __future__ import annotations

from datetime import datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluice.evidence import from_samples
from sluice.spec_policy import Policy
from sluice.verdict import judge, stage_policy
from tests.serving.control.conftest import Desk
from tests.serving.control.parts import policy


def flaky(_version: str, uid: str) -> int:
    return 500 if uid.endswith("17") else 200


async def scraped(desk: Desk) -> list[tuple[str, dict[str, str], float]]:
    text = (await desk.api.get("/metrics")).text
    return [(s.name, s.labels, s.value) for f in text_string_to_metric_families(text) for s in f.samples]


async def test_the_sensor_gets_the_very_evidence_that_the_guard_judges(desk: Desk) -> None:
    rollout = await desk.running()
    verdict = await desk.passed(rollout, answer=flaky)
    evidence = from_samples(await scraped(desk))
    head = desk.controller.ledger.head(rollout["id"])
    assert head is not None
    assert evidence == desk.controller.evidence.current(head)
    rules = Policy.from_json(head.policy)
    stage = stage_policy(rules.stages, rules.gates.no_harm_before, 0)
    again = judge(evidence, rules.gates, stage, now_s=datetime.fromisoformat(verdict["at"]).timestamp())
    assert (again.action, again.numbers["harm"]["failure"]["tails"] > 0) == ("pass", True)


async def test_people_see_the_share_the_e_values_and_each_versions_requests(desk: Desk) -> None:
    rollout = await desk.running()
    await desk.passed(rollout, answer=flaky)
    rows = {
        (name, labels.get("version", labels.get("kind", ""))): value
        for name, labels, value in await scraped(desk)
    }
    assert rows["sluice_rollout_percent", ""] == 10
    assert ("sluice_log_e", "failure") in rows
    assert rows["sluice_requests_total", "2"] > 0
    assert rows["sluice_requests_total", "adopted"] > rows["sluice_requests_total", "2"]
    assert ("sluice_latency_ms", "2") in rows


async def test_a_version_that_serves_nobody_any_more_has_no_latency(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last values would stand in every graph until the controller restarts."""
    rollout = await desk.running()
    await desk.passed(rollout)
    monkeypatch.setattr("serving.control.metrics.LATENCY_S", 0.0)
    names = {name for name, _, _ in await scraped(desk)}
    assert "sluice_latency_ms" not in names
    assert "sluice_requests_total" in names


async def test_without_an_open_stage_there_is_nothing_to_judge(desk: Desk) -> None:
    """An empty answer must be empty: a zero could be taken for evidence."""
    rules = policy(first_deployment={"adopt": "http://127.0.0.1:9001"})
    await desk.begin(policy=rules)
    names = {name for name, _, _ in await scraped(desk)}
    assert not names & {"sluice_coins", "sluice_users", "sluice_stage_info", "sluice_stale"}


async def test_the_picture_is_in_the_api_as_well(desk: Desk) -> None:
    rollout = await desk.running()
    await desk.passed(rollout, answer=flaky)
    answer = await desk.get(f"/v1/rollouts/{rollout['id']}/evidence")
    assert answer["evidence"]["users_candidate"] == answer["verdict"]["numbers"]["users"]["candidate"]
    assert answer["live"]["2"]["requests"] > 0
    assert answer["exposed"]["stages"][0]["users"] > 0
