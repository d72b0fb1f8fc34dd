"""What is counted per service: which answers say how fast stable is."""

from __future__ import annotations

import pytest

from serving.control.book import Meter
from sluice.latency import MIN_LATENCIES
from tests.sluice.evidence_world import entry


def fed(meter: Meter, version: str, duration_ms: float, *, start_s: float, route: str = "hash") -> None:
    for number in range(MIN_LATENCIES):
        at_s = start_s + number / 10
        meter.add(entry(version=version, at_s=at_s, duration_ms=duration_ms, route=route))


def test_what_is_slow_is_measured_against_todays_stable_alone() -> None:
    """A version three times slower than stable would look normal beside the slow one that stable replaced."""
    meter = Meter(200.0)
    meter.follow_stable("1")
    fed(meter, "1", 60.0, start_s=0.0)
    meter.follow_stable("2")
    assert meter.latencies.limits(30.0) is None
    fed(meter, "2", 20.0, start_s=30.0)
    meter.follow_stable("2")
    assert meter.latencies.limits(60.0) == (20.0, 20.0, 25.0, 30.0)


@pytest.mark.parametrize("route", ["label:1", "nouid", "unidentified"])
def test_requests_that_are_no_evidence_move_no_limit(route: str) -> None:
    meter = Meter(200.0)
    meter.follow_stable("1")
    fed(meter, "1", 20.0, start_s=0.0)
    fed(meter, "1", 5_000.0, start_s=30.0, route=route)
    assert meter.latencies.limits(60.0) == (20.0, 20.0, 25.0, 30.0)
