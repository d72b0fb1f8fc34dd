"""Each peer reproduces its row of the yardstick, so that no straw man is beaten."""

import numpy as np
import pytest

from benchmarks.verdict.cells import HEALTHY, Fault, World
from benchmarks.verdict.peers import YARDSTICK, is_high, peer_rollouts, z_score

RPS = (20.0, 200.0, 2000.0)
MANY = 100
POINTS = 15.0  # percentage points; three deviations of such a share at 100 runs, where it is a half


def _share(policy: str, rps: float, fault: Fault, ended: str, *, incident: bool = False) -> float:
    world = World(rps=rps, sigma=0.0, users=5000, incident="before 100 %" if incident else "no")
    done = peer_rollouts(policy, world, fault, MANY, np.random.default_rng(int(rps)))
    return 100 * sum(one.ended == ended for one in done) / MANY


@pytest.mark.parametrize("policy", YARDSTICK)
def test_a_peer_has_the_yardstick_s_error_rates(policy: str) -> None:
    """A figure of the incident depends on when it begins, which the yardstick leaves open: 20 points there."""
    row = YARDSTICK[policy]
    for index, rps in enumerate(RPS):
        found = _share(policy, rps, HEALTHY, "turned back")
        assert found == pytest.approx(row.healthy_back[index], abs=POINTS), rps
        found = _share(policy, rps, HEALTHY, "turned back", incident=True)
        assert found == pytest.approx(row.incident_back[index], abs=20), rps
        found = _share(policy, rps, Fault(rho=2.0), "promoted")
        assert found == pytest.approx(row.rho2_promoted[index], abs=POINTS), rps
        found = _share(policy, rps, Fault(rho=4.0), "promoted")
        assert found == pytest.approx(row.rho4_promoted[index], abs=POINTS), rps


@pytest.mark.parametrize("policy", YARDSTICK)
def test_a_peer_takes_the_yardstick_s_time(policy: str) -> None:
    row, rng = YARDSTICK[policy], np.random.default_rng(4)
    world = World(sigma=0.0, users=5000)
    healthy = peer_rollouts(policy, world, HEALTHY, MANY, rng)
    reached = np.median([one.reached_s or np.inf for one in healthy]) / 60
    assert reached == pytest.approx(row.healthy_min, abs=1)
    bad = peer_rollouts(policy, world, Fault(rho=4.0), MANY, rng)
    found = np.median([np.inf if one.found_s is None else one.found_s for one in bad]) / 60
    assert found == pytest.approx(row.rho4_found_min or np.inf, abs=1.5)
    exposed = 100 * np.mean([one.bad_s for one in bad]) / (4 * 3600)
    assert exposed == pytest.approx(row.rho4_exposure, rel=0.3)


def test_a_z_test_without_requests_or_failures_says_nothing() -> None:
    assert z_score(np.array([0.0, 10.0]), np.array([0.0, 1.0])) == 0.0
    assert z_score(np.array([10.0, 10.0]), np.zeros(2)) == 0.0
    assert z_score(np.array([1000.0, 1000.0]), np.array([30.0, 10.0])) > 3


def test_kayenta_needs_a_shift_and_not_a_difference_in_noise() -> None:
    rng = np.random.default_rng(5)
    same = rng.random(60)
    assert not is_high(same, same.copy())
    assert is_high(same + 1.0, same)
    assert not is_high(np.zeros(0), same)
