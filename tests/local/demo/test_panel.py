"""What the person at the terminal sees of the gate's evidence is what decides."""

import io

import pytest
from rich.console import Console

from local.demo.follow import Seen
from local.demo.panel import evidence, panel


def reading(log_e: float, bar: float = 6.0) -> dict[str, float]:
    return {"log_e": log_e, "bar": bar}


def drawn(seen: Seen) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(panel("version 2", seen, 12.0))
    return console.export_text()


def test_harm_shows_the_kind_that_is_nearest_to_its_bar():
    readings = {"failure": reading(0.5), "slow_p95": reading(1.0), "slow_p99x125": reading(4.0)}
    assert list(evidence({"numbers": {"harm": readings}})) == [
        ("harm", "failure", 0.5, 6.0),
        ("harm", "slow", 4.0, 6.0),
    ]


def test_no_harm_shows_the_kind_that_lacks_most_by_its_better_way():
    """Slowness is shown harmless when its last kind is, and each kind by coins or by its own rate."""
    coins = {"failure": reading(1.0), "slow_p95": reading(5.0), "slow_p99": reading(0.0)}
    rates = {"failure": reading(3.0), "slow_p95": reading(0.0), "slow_p99": reading(2.0)}
    assert list(evidence({"numbers": {"no_harm": coins, "objective": rates}})) == [
        ("no harm", "failure", 3.0, 6.0),
        ("no harm", "slow", 2.0, 6.0),
    ]


def test_the_watch_shows_its_own_harm():
    assert list(evidence({"numbers": {"watch": {"failure": reading(2.0)}}})) == [
        ("harm", "failure", 2.0, 6.0)
    ]


@pytest.mark.parametrize("found", [{}, {"numbers": {}}, {"numbers": {"harm": {}}}])
def test_without_numbers_there_is_no_evidence_to_show(found):
    assert list(evidence(found)) == []


def test_the_panel_names_both_sides_the_stages_and_the_gate():
    live = {
        "1": {"rps": 37.5, "events": 12, "p50_ms": 11.2, "p99_ms": None, "users": 1711},
        "2": {"rps": 39.1, "events": 6, "p50_ms": 5.2, "p99_ms": 27.2, "users": 1766},
    }
    verdict = {
        "action": "hold",
        "reason": "dwell",
        "forecast_s": 8.0,
        "numbers": {"harm": {"failure": reading(1.0)}},
    }
    rollout = {"percent": 5.0, "candidate": {"version": "2"}, "opened": [{"percent": 1}, {"percent": 5}]}
    tasks = [{"task_id": "gate_5", "state": "deferred"}]
    text = drawn(Seen(run_id="r", tasks=tasks, rollout=rollout, evidence={"verdict": verdict, "live": live}))
    for wanted in ("gate_5 (deferred)", "1 % → 5 %", "about 8 s more", "hold  dwell"):
        assert wanted in text
    lines = [line.split() for line in text.splitlines()]
    assert ["│", "candidate", "2", "39.1", "6", "5.2", "27.2", "1766", "│"] in lines
    assert ["│", "stable", "1", "37.5", "12", "11.2", "-", "1711", "│"] in lines


def test_a_run_that_has_not_begun_has_a_panel_too():
    assert "task" in drawn(Seen(run_id="r"))
