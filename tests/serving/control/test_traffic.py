"""From ledger rows to routes, as a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.control.capacity import Address
from serving.control.evidence import line_of
from serving.control.ledger import Head
from serving.control.traffic import NOBODY, Sight, Standing, hash_line, service_traffic
from serving.control.xds.interface import Endpoint, Mirror, ServiceTraffic
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

# what a new release may wish to change, all of it other than stable's
WISHES = {
    "recording": {"percent": 5, "recorder": "http://new.test:9"},
    "traffic": {"prefix": "/v2/other", "uid_header": "x-tenant", "timeout_s": 1},
    "gateway_lost": {"ttl_s": 3},
    "targets": [{"arch": "a1", "share": 0.75, "replicas": 2}, {"arch": "a2", "share": 0.25, "replicas": 2}],
}
WISHED = Policy.from_json(policy(**WISHES)).to_dict()
OPENED = ({"stage": 0, "percent": 10, "at": NOON, "acked_at": NOON},)


def wished(stage: int | None, **changes: Any) -> Head:
    opened = () if stage is None else OPENED
    return head(stage, policy=WISHED, candidate=version("2", "a1", "a2"), opened=opened, **changes)


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


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(wished(None), id="preparing"),
        pytest.param(wished(0), id="running"),
        pytest.param(wished(0, state="turned_back", ended_at=NOON), id="turned-back"),
        pytest.param(wished(None, state="rejected", ended_at=NOON), id="rejected-before-a-stage"),
    ],
)
def test_path_header_and_timeout_are_stables_until_the_candidate_is_stable(made: Head) -> None:
    """Clients of stable would otherwise get 404s, other buckets and other timeouts from a `begin` alone."""
    routed = traffic(made, STABLE)
    assert routed is not None
    rules_of_stable = (routed.prefix, routed.uid_header, routed.timeout_s, routed.gateway_ttl_s)
    assert rules_of_stable == ("/v2/models/minilm", "x-user-id", 5, 600)


@pytest.mark.parametrize(
    ("made", "marks"),
    [
        pytest.param(wished(None), {}, id="preparing"),
        pytest.param(wished(None), {"lowering": True}, id="cancelled-before-a-stage"),
        pytest.param(wished(0, state="turned_back", ended_at=NOON), {}, id="turned-back"),
        pytest.param(wished(0), {"closed": True}, id="closed"),
    ],
)
def test_nobody_changes_architecture_for_a_rollout_that_is_not_open(
    made: Head, marks: dict[str, bool]
) -> None:
    routed = traffic(made, STABLE, **marks)
    assert {name: n for name, n in weights(routed).items() if n} == {"m_v1_a0": 7_500, "m_v1_a1": 2_500}


def test_the_shares_of_an_open_rollout_are_those_that_its_evidence_counts_by() -> None:
    made = wished(0)
    standing = Standing(service="m", salt="s", policy=rules(0.75, 0.25), stable=STABLE, head=made)
    assert hash_line(standing) == line_of(made)
    assert weights(traffic(made, STABLE)) == {
        "m_v2_a1": 750,
        "m_v1_a1": 6_750,
        "m_v2_a2": 250,
        "m_v1_a2": 2_250,
    }


def test_before_there_is_a_stable_version_the_rollouts_own_rules_hold() -> None:
    routed = traffic(wished(3, first_deployment=True), None)
    assert routed is not None
    assert (routed.prefix, routed.uid_header) == ("/v2/other", "x-tenant")
    assert weights(routed) == {"m_v2_a1": 7_500, "m_v2_a2": 2_500}


@pytest.mark.parametrize(
    ("made", "marks"),
    [
        pytest.param(wished(0, state="turned_back", ended_at=NOON), {}, id="in-the-ledger"),
        pytest.param(wished(0), {"closed": True}, id="not-in-the-ledger-yet"),
    ],
)
def test_a_retreat_is_first_a_change_of_weights_alone(made: Head, marks: dict[str, bool]) -> None:
    """Whatever else changed with it would have to be acknowledged before the traffic is known to be away."""
    before, lowered = traffic(wished(0), STABLE), traffic(made, STABLE, lowering=True, **marks)
    assert before is not None
    assert lowered is not None
    assert lowered.candidate_weight == 0
    moved = {piece.cluster: piece.weight for piece in lowered.line}
    same = tuple(replace(piece, weight=moved[piece.cluster]) for piece in before.line)
    assert lowered == replace(before, line=same)


@pytest.mark.parametrize(
    ("made", "marks"),
    [
        pytest.param(head(1, state="turned_back", ended_at=NOON, opened=OPENED), {}, id="turned-back"),
        pytest.param(head(None, state="rejected", ended_at=NOON), {}, id="rejected-before-a-stage"),
        pytest.param(head(1, opened=OPENED), {"closed": True}, id="not-in-the-ledger-yet"),
        pytest.param(
            head(3, state="turned_back", ended_at=NOON, opened=OPENED), {"stable": None}, id="without-stable"
        ),
    ],
)
def test_no_label_leads_to_a_candidate_that_is_over(made: Head, marks: dict[str, Any]) -> None:
    """Testers and tenants who name a version would go on getting what was just turned back."""
    marks = {"stable": STABLE, **marks}
    live = traffic(head(1, opened=OPENED), STABLE)
    over = traffic(made, **marks)
    assert live is not None
    assert over is not None
    assert live.labels["2"] == "m_v2_a0"
    assert "2" not in over.labels


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
    made = head(stage, policy=rules(share / 100, 1 - share / 100), opened=OPENED)
    built = traffic(made, STABLE)
    assert built is not None
    assert sum(piece.weight for piece in built.line) == 10_000
    assert sum(piece.weight for piece in built.line if piece.arch == "a0") == share * 100
    assert all("_v1_" in cluster for cluster, _ in built.stable_fallback)
    assert abs(built.candidate_weight / 100 - made.percent) < 0.01


# --- copies for the recorder ---------------------------------------------------------------------

RECORDED = {"recording": {"percent": 2.5, "recorder": "http://recorder.test:8000"}}


def test_what_is_recorded_is_what_stable_was_promoted_with():
    """A candidate's wish waits for its promotion, as its path does."""
    policy_of_stable = Policy.from_json(policy(**RECORDED)).to_dict()
    running = head(0, policy=WISHED, opened=OPENED)
    standing = Standing(service="m", salt="s", policy=policy_of_stable, stable=STABLE, head=running)
    made = service_traffic(standing, lambda _: (), Sight())
    assert made is not None
    assert made.mirror == Mirror(percent=2.5, recorder=Endpoint(host="recorder.test", port=8000))


def test_a_policy_stored_before_there_were_recorders_mirrors_nothing():
    made = traffic(None, STABLE)
    assert made is not None
    assert made.mirror is None
