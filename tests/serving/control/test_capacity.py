"""Capacity follows the share: first the pods, then the weight."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.control.capacity import wanted_replicas
from tests.serving.control.conftest import Desk, Desks, Json
from tests.serving.control.kube import Kube
from tests.serving.control.parts import policy


@pytest.mark.parametrize(
    ("stable", "of_policy", "percent", "wanted"),
    [
        pytest.param(12, 12, 1, 1, id="never-less-than-one"),
        pytest.param(12, 12, 5, 1, id="rounded-up-from-0.63"),
        pytest.param(100, 100, 5, 6, id="rounded-up-from-5.26"),
        pytest.param(12, 12, 50, 12, id="as-many-as-stable-at-half"),
        pytest.param(12, 12, 90, 12, id="never-more-than-the-policy"),
        pytest.param(12, 20, 100, 20, id="the-policy-at-the-end"),
        pytest.param(3, 3, 25, 1, id="exactly-one-stays-one"),
    ],
)
def test_a_replica_of_the_candidate_carries_what_one_of_stable_carries(
    stable: int, of_policy: int, percent: float, wanted: int
) -> None:
    assert wanted_replicas(stable_replicas=stable, policy_replicas=of_policy, percent=percent) == wanted


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_a_share_that_is_none_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        wanted_replicas(stable_replicas=1, policy_replicas=1, percent=percent)


RULES = policy(
    stages=[{"percent": p, "dwell_s": 0.2} for p in (10, 30, 100)],
    targets=[{"arch": "cpu", "share": 1.0, "replicas": 6}],
)


@contextlib.asynccontextmanager
async def stable_on_kubernetes(desks: Desks, kube: Kube, folder: Path) -> AsyncIterator[Desk]:
    """Version 1 is stable, four of the six pods that its policy wants are left."""
    kube.deploy("minilm-v1-cpu", 4)
    async with (
        kube.running(folder) as kubeconfig,
        desks(kubeconfig=kubeconfig, capacity_wait_s=0.3, ack_wait_s=2.0) as desk,
    ):
        first = await desk.begin("run-0", policy=RULES)
        await attach(desk, first, "1")
        await desk.open(first, 2)
        await desk.passed(first)
        await desk.post(f"/v1/rollouts/{first['id']}/promote", {"epoch": first["epoch"]})
        kube.deploy("minilm-v1-cpu", 4)
        kube.patches.clear()
        yield desk


async def attach(desk: Desk, rollout: Json, version: str) -> None:
    workload = {"arch": "cpu", "deployment": f"minilm-v{version}-cpu", "port": 8000}
    body = {"epoch": rollout["epoch"], "version": version, "signature": {}, "workloads": [workload]}
    await desk.post(f"/v1/rollouts/{rollout['id']}/candidate", body)


async def test_no_weight_moves_before_the_pods_are_ready(desks: Desks, tmp_path: Path) -> None:
    kube = Kube()
    async with stable_on_kubernetes(desks, kube, tmp_path) as desk:
        kube.deploy("minilm-v2-cpu", 0)
        kube.slow = True
        second = await desk.begin("run-2", policy=RULES)
        await attach(desk, second, "2")
        refused = await desk.api.post(
            f"/v1/rollouts/{second['id']}/open", json={"epoch": second["epoch"], "stage": 0}
        )
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "capacity"
        assert "minilm-v2-cpu 0/1" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
        assert (desk.gateway.share("2"), (await desk.state(second))["stage"]) == (0, None)
        kube.set_ready("minilm-v2-cpu", 1)
        await desk.open(second, 0)
        assert desk.gateway.share("2") == 1_000
        assert kube.patches == [("minilm-v2-cpu", 1)]


async def test_the_candidate_grows_with_its_share_and_stable_stays_whole(
    desks: Desks, tmp_path: Path
) -> None:
    kube = Kube()
    async with stable_on_kubernetes(desks, kube, tmp_path) as desk:
        kube.deploy("minilm-v2-cpu", 1)
        second = await desk.begin("run-2", policy=RULES)
        await attach(desk, second, "2")
        for stage in range(3):
            await desk.open(second, stage)
            await desk.passed(second)
        assert kube.patches == [("minilm-v2-cpu", 3), ("minilm-v2-cpu", 6)]
        assert kube.replicas["minilm-v1-cpu"] == 4


@pytest.mark.parametrize(
    ("ready", "wanted"),
    [pytest.param(1, 3, id="not-what-is-left-of-stable"), pytest.param(12, 6, id="what-it-was-scaled-up-to")],
)
async def test_the_candidate_is_sized_by_what_stable_is_meant_to_have(
    desks: Desks, tmp_path: Path, ready: int, wanted: int
) -> None:
    """A stable that has lost pods would give the candidate as little, and the candidate's overload looks like harm."""
    kube = Kube()
    async with stable_on_kubernetes(desks, kube, tmp_path) as desk:
        kube.deploy("minilm-v2-cpu", 1)
        second = await desk.begin("run-2", policy=RULES)
        await attach(desk, second, "2")
        await desk.open(second, 0)
        await desk.passed(second)
        kube.patches.clear()
        kube.deploy("minilm-v1-cpu", ready)
        await desk.gateway.until(lambda: len(desk.gateway.addresses["minilm_v1_cpu"]) == ready)
        await desk.open(second, 1)
        assert kube.patches == [("minilm-v2-cpu", wanted)]


TWO_ARCHS = policy(
    first_deployment={"adopt": "http://127.0.0.1:9001"},
    stages=[{"percent": p, "dwell_s": 0.2} for p in (30, 100)],
    targets=[{"arch": "cpu", "share": 0.25, "replicas": 3}, {"arch": "gpu", "share": 0.75, "replicas": 9}],
)


async def test_a_workload_that_stands_in_for_another_architecture_gets_its_replicas_too(
    desks: Desks, tmp_path: Path
) -> None:
    """Two replicas for its own quarter of the line would carry all of it, at 2.6 times stable's load."""
    kube = Kube()
    kube.deploy("minilm-v2-cpu", 1)
    async with kube.running(tmp_path) as kubeconfig, desks(kubeconfig=kubeconfig) as desk:
        rollout = await desk.begin(policy=TWO_ARCHS)
        await attach(desk, rollout, "2")
        await desk.open(rollout, 0)
        assert kube.patches == [("minilm-v2-cpu", 2 + 4)]
        assert await like_load(desk, rollout)
        kube.set_ready("minilm-v2-cpu", 2)
        await desk.gateway.until(lambda: len(desk.gateway.addresses["minilm_v2_cpu"]) == 2)
        assert not await like_load(desk, rollout)


async def like_load(desk: Desk, rollout: Json) -> bool:
    return (await desk.get(f"/v1/rollouts/{rollout['id']}/evidence"))["evidence"]["like_load"]


async def test_a_pod_that_is_not_ready_gets_no_traffic(desks: Desks, tmp_path: Path) -> None:
    kube = Kube()
    async with stable_on_kubernetes(desks, kube, tmp_path) as desk:
        addresses = desk.gateway.addresses
        await desk.gateway.until(lambda: len(desk.gateway.addresses["minilm_v1_cpu"]) == 4)
        kube.set_ready("minilm-v1-cpu", 3)
        await desk.gateway.until(lambda: len(desk.gateway.addresses["minilm_v1_cpu"]) == 3)
        assert addresses["minilm_v1_cpu"][0] == ("127.1.10.1", 8000)


async def test_a_start_without_kubernetes_serves_the_last_known_addresses(
    desks: Desks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty endpoints would answer 503 to everybody because of an outage that touches no pod."""
    monkeypatch.setattr("serving.control.main.LISTED_WAIT_S", 0.2)
    kube = Kube()
    async with stable_on_kubernetes(desks, kube, tmp_path) as desk:
        await desk.gateway.until(lambda: len(desk.gateway.addresses["minilm_v1_cpu"]) == 4)
    async with desks(kubeconfig=tmp_path / "kubeconfig") as desk:
        await desk.gateway.until(lambda: len(desk.gateway.addresses.get("minilm_v1_cpu", [])) == 4)
        await desk.gateway.until(lambda: desk.gateway.share("1") == 10_000)


async def test_a_deployment_is_refused_by_a_controller_without_kubernetes(desk: Desk) -> None:
    rollout = await desk.begin()
    workload = {"arch": "cpu", "deployment": "minilm-v1-cpu", "port": 8000}
    body = {"epoch": rollout["epoch"], "version": "1", "signature": {}, "workloads": [workload]}
    error = (await desk.post(f"/v1/rollouts/{rollout['id']}/candidate", body, 422))["error"]
    assert (error["code"], "kubeconfig" in error["next_step"]) == ("no-kubernetes", True)
