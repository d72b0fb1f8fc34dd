"""From ledger rows to routes, as a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.control.capacity import Address
from serving.control.ledger import Head
from serving.control.traffic import NOBODY, Sight, Standing, service_traffic
from serving.control.xds.interface import ServiceTraffic
from sluice.spec_policy import Policy
from tests.serving.control.parts import policy

NOON = "2026-01-01T12:00:00.000000+00:00"


def rules(*shares: float) -> Mapping[str, Any]:
    targets = [{"arch": f"a{i}", "share": share, "replicas": 2} for i, share in enumerate(shares)]
    return Policy.from_json(policy(targets=targets)).to_dict()


def version(name: str, *archs: str) -> dict[str, Any]:
    return {"version": name, "workloads": [{"arch": arch, "deployment": f"{name}-{arch}"} for arch in archs]}


def head(stage: int | None, **changes: Any) -> Head:
    made = Head(
        id="m-1",
        service="m",
        run_id="r",
        release_digest="d",
        epoch=1,
        counter=0,
        state="preparing" if stage is None else "running",
        policy=rules(0.75, 0.25),
        salt="s",
        started_at=NOON,
        stage=stage,
        candidate=version("2", "a0", "a1"),
    )
    return replace(made, **changes)


def traffic(made: Head | None, stable: dict[str, Any] | None, **more: Any) -> ServiceTraffic | None:
    standing = Standing(service="m", salt="s", policy=rules(0.75, 0.25), stable=stable, head=made, **more)
    return service_traffic(standing, lambda w: (Address(f"{w['deployment']}.test", 80),), Sight())


def weights(made: ServiceTraffic | None) -> dict[str, int]:
    assert made is not None
    return {piece.cluster: piece.weight for piece in made.line}


STABLE = version("1", "a0", "a1")


def test_each_architecture_is_split_by_the_stage() -> None:
    assert weights(traffic(head(1), STABLE)) == {
        "m_v2_a0": 1_875,
        "m_v1_a0": 5_625,
        "m_v2_a1": 625,
        "m_v1_a1": 1_875,
    }


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(head(None), id="nothing-open"),
        pytest.param(head(1, state="turned_back", ended_at=NOON), id="turned-back"),
        pytest.param(head(1, state="abandoned", ended_at=NOON), id="abandoned"),
        pytest.param(head(3, state="superseded", ended_at=NOON), id="superseded-at-100"),
    ],
)
def test_only_an_open_stage_gives_the_candidate_traffic(made: Head) -> None:
    """Its slices stay on the line, so that taking traffic away is a change of weights alone."""
    assert weights(traffic(made, STABLE)) == {
        "m_v2_a0": 0,
        "m_v1_a0": 7_500,
        "m_v2_a1": 0,
        "m_v1_a1": 2_500,
    }


def test_closed_beats_what_the_ledger_still_says() -> None:
    made = traffic(head(1), STABLE, closed=True)
    assert made is not None
    assert made.candidate_weight == 0


def test_a_promoted_candidate_keeps_its_clusters_as_stable() -> None:
    before = weights(traffic(head(3), STABLE))
    after = weights(traffic(head(3, state="promoted", ended_at=NOON), version("2", "a0", "a1")))
    assert {name: n for name, n in before.items() if n} == after == {"m_v2_a0": 7_500, "m_v2_a1": 2_500}


def test_a_first_deployment_serves_requests_without_a_uid_too() -> None:
    made = traffic(head(3, first_deployment=True), None)
    assert made is not None
    assert weights(made) == {"m_v2_a0": 7_500, "m_v2_a1": 2_500}
    assert made.stable_fallback == (("m_v2_a0", 7_500), ("m_v2_a1", 2_500))


def test_before_a_first_deployment_opens_nobody_but_testers_reach_it() -> None:
    made = traffic(head(None, first_deployment=True), None)
    assert made is not None
    assert {piece.version for piece in made.line} == {NOBODY}
    assert all(made.endpoints[piece.cluster] == () for piece in made.line)
    assert made.labels == {"2": "m_v2_a0"}
    assert made.endpoints["m_v2_a0"][0].host == "2-a0.test"


def test_nothing_to_serve_is_no_route_at_all() -> None:
    assert traffic(None, None) is None
    assert traffic(head(None, candidate=None), None) is None


def test_an_architecture_that_a_version_lacks_is_served_by_its_first_workload() -> None:
    """Shares stay what they are: who is on which part of the line does not depend on what was built."""
    made = traffic(head(2, candidate=version("2", "a0")), STABLE)
    assert made is not None
    assert weights(made)["m_v2_a1"] == 1_250
    assert made.endpoints["m_v2_a1"][0].host == "2-a0.test"


def test_an_adopted_upstream_is_one_address_for_every_architecture() -> None:
    made = traffic(head(0), {"version": "adopted", "upstream": "http://10.0.0.9:8080"})
    assert made is not None
    assert {made.endpoints[f"m_vadopted_a{i}"][0].port for i in (0, 1)} == {8080}


@given(share=st.integers(1, 99), stage=st.integers(0, 3))
def test_every_line_is_whole_and_stable_first_choice_without_a_uid(share: int, stage: int) -> None:
    """ServiceTraffic checks itself; here: it can always be built, and the fallback is stable's alone."""
    made = head(stage, policy=rules(share / 100, 1 - share / 100))
    built = traffic(made, STABLE)
    assert built is not None
    assert sum(piece.weight for piece in built.line) == 10_000
    assert all("_v1_" in cluster for cluster, _ in built.stable_fallback)
    assert abs(built.candidate_weight / 100 - made.percent) < 0.01
