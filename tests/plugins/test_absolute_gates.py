"""Absolute gates at the sensor, through a real Prometheus: what it may say, and what the gate makes of it.

Covered: good, breach, NaN, no version label, two series, the target gone, Prometheus gone and back.
Left out: what no real Prometheus says (answers of another shape, old ones); `tests/sluice/test_absolute.py` has it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from plugins.gate import DISAGREEMENT, Outcome
from plugins.hooks.controller import ControllerClient
from plugins.hooks.prometheus import PrometheusClient
from plugins.triggers.gate import Gate
from sluice.absolute import ask, observed
from sluice.evidence import to_samples
from sluice.spec_policy import AbsoluteGate, Policy
from tests.plugins import pictures
from tests.plugins.pictures import EPOCH, ROLLOUT, STAGE
from tests.prometheus import gate, until

AT = f"/v1/rollouts/{ROLLOUT}"
MINE, NOBODY_S = ("tiny", "2"), ("tiny", None)


def own():
    """A watch that passes, of now, in the text format."""
    stamp = time.time()
    evidence = replace(pictures.watch(), newest_at_s=stamp, opened_at_s=stamp - 7_200)
    lines = []
    for name, labels, value in to_samples(evidence):
        inside = ",".join(f'{label}="{text}"' for label, text in labels.items())
        lines.append(f"{name}{{{inside}}} {value!r}")
    return "\n".join([*lines, ""])


@pytest.fixture
def world(scraped, controller):
    """Both sides pass but for what the gate says."""
    server, metrics = scraped
    metrics.own, metrics.latencies = own, {MINE: 100.0}
    controller.answers = {
        ("GET", AT): (200, pictures.rollout()),
        ("POST", f"{AT}/lease"): (200, pictures.rollout()),
        ("GET", f"{AT}/evidence"): (200, {"verdict": pictures.verdict(), "evidence": None, "live": {}}),
        ("POST", f"{AT}/hold"): (200, pictures.rollout()),
    }
    server.await_series('count_over_time(p99_ms{service="tiny",version="2"}[1s]) > 2')
    server.await_series(f'sluice_objective_users{{rollout="{ROLLOUT}"}}')
    return server, metrics, controller


def looker(world, **changes):
    server, _, controller = world
    policy = pictures.spec(**{"gates.absolute": [dict(gate(**changes))]}).policy()
    return Gate(
        controller=ControllerClient(f"http://127.0.0.1:{controller.port}", "secret"),
        prometheus=PrometheusClient(server.url),
        service="tiny",
        rollout=ROLLOUT,
        epoch=EPOCH,
        stage=STAGE,
        policy=Policy.from_json(policy),
    )


def awaited(looking, outcome, says):
    """Look until it looks like this; the look."""

    def seen():
        look = looking.look(datetime.now(UTC))
        return look if (look.outcome, says in look.reason) == (outcome, True) else None

    return until(seen)


def test_a_number_within_the_limit_passes(world):
    assert awaited(looker(world), Outcome.PASS, "the watch passed").disagree is False


HOLDS = [
    pytest.param({MINE: 900.0}, "900 is above 500 over 1 s", id="breach"),
    pytest.param({MINE: float("nan")}, "is nan", id="not-a-number"),
    pytest.param({NOBODY_S: 900.0}, "Prometheus has nothing", id="without-the-version-s-label"),
]


@pytest.mark.parametrize(("latencies", "says"), HOLDS)
def test_anything_else_holds_with_the_reason(world, latencies, says):
    _, metrics, _ = world
    metrics.latencies = latencies
    assert "gate p99_ms: " in awaited(looker(world), Outcome.HOLD, says).reason


def test_several_series_are_no_number(world):
    _, metrics, _ = world
    metrics.latencies = {MINE: 100.0, ("other", "2"): 100.0}
    query = 'max by (version, service) (max_over_time(p99_ms{version="{version}"}[{window}]))'
    look = awaited(looker(world, query=query), Outcome.HOLD, "Prometheus has 2 series")
    assert "gate p99_ms: " in look.reason


def test_a_target_that_is_gone_holds_until_it_is_back(world):
    _, metrics, _ = world
    looking = looker(world)
    metrics.away = True
    gone = awaited(
        looking, Outcome.HOLD, "samples_query: one series of version 2 is wanted, Prometheus has nothing"
    )
    metrics.away = False
    back = awaited(looking, Outcome.PASS, "the watch passed")
    assert ("gate p99_ms" in gone.reason, "gate p99_ms" in back.reason) == (True, False)


def test_a_breach_of_a_gate_that_retreats_holds_the_rollout_until_the_controller_sees_it_too(world):
    """Airflow does not lower; that the readings disagree stands on the rollout, so no mark leads past it."""
    _, metrics, controller = world
    metrics.latencies = {MINE: 900.0}
    look = awaited(
        looker(world, on_breach="retreat"), Outcome.HOLD, "harm by Prometheus (harm: gate p99_ms: 900"
    )
    assert look.disagree
    assert controller.calls("POST", f"{AT}/hold")[-1].body["by"] == DISAGREEMENT
    assert controller.calls("POST", f"{AT}/retreat") == []


def test_a_breach_that_is_only_observed_passes(world):
    _, metrics, _ = world
    metrics.latencies = {MINE: 900.0}
    looking = looker(world, on_breach="observe")

    def breached():
        verdict = looking._prometheus_verdict(datetime.now(UTC))
        return not isinstance(verdict, str) and "900 is above 500" in observed(verdict.numbers)

    until(breached)
    assert looking.look(datetime.now(UTC)).outcome is Outcome.PASS


def test_a_restart_of_prometheus_holds_and_what_it_kept_from_before_is_no_reading_of_now(world):
    """A server that died meanwhile leaves no mark: an instant selector gives its last word for minutes."""
    server, metrics, _ = world
    looking, client = looker(world), PrometheusClient(server.url)
    awaited(looking, Outcome.PASS, "the watch passed")
    server.kill()
    awaited(looking, Outcome.HOLD, "did not answer")
    metrics.away = True
    server.start()
    awaited(looking, Outcome.HOLD, "Prometheus has nothing")
    assert [series.value for series in client.answer('p99_ms{service="tiny",version="2"}').series] == [100.0]
    metrics.away = False
    awaited(looking, Outcome.PASS, "the watch passed")


def test_a_version_s_name_cannot_leave_its_string(world):
    """Whatever a registry calls a version, it is looked for and not run."""
    server, metrics, _ = world
    odd = "a\"b'c"
    metrics.latencies = {MINE: 1.0, ("tiny", odd.replace('"', '\\"')): 7.0}
    sent, client = ask(AbsoluteGate(**gate()), "tiny", odd, "value"), PrometheusClient(server.url)

    def answered():
        answer = client.answer(sent.query)
        return answer if answer.series or answer.error else None

    assert [(series.labels["version"], series.value) for series in until(answered).series] == [(odd, 7.0)]
