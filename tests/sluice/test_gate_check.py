"""A gate that could never fire, or that reads something else than a version, is found before there is traffic."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.absolute import ask
from sluice.gate_check import NOBODY, Life, bad_value, check, injected, probes
from sluice.promql import Answer, read_answer
from tests.sluice.gates import CANDIDATE, NOW_S, SERVICE, STABLE, gate, row, vector

NOTHING = vector()
REFUSED = read_answer(400, {"status": "error", "error": "parse error"})
AWAY = read_answer(503, None)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def checked(
    of=None,
    *,
    stable=STABLE,
    now_s=NOW_S,
    value=90.0,
    samples=1_000.0,
    injection=None,
    nobody=NOTHING,
    **more,
):
    """What a check makes of these answers: a gate that is alive, but for what is given."""
    of = of or gate()

    def about(what, version):
        return what if isinstance(what, Answer) else vector(row(what, version))

    answers = {
        ask(of, SERVICE, NOBODY, "value"): nobody,
        ask(of, SERVICE, NOBODY, "samples"): more.get("nobody_samples", NOTHING),
        ask(of, SERVICE, STABLE, "value"): about(value, STABLE),
        ask(of, SERVICE, STABLE, "samples"): about(samples, STABLE),
        injected(of, SERVICE, STABLE): about(bad_value(of) if injection is None else injection, STABLE),
    }
    return check(of, answers, SERVICE, STABLE, now_s=NOW_S)


def test_a_gate_that_reads_stable_and_sees_what_is_bad_is_alive():
    assert checked().life is Life.ALIVE
    assert checked(gate(bad="below", limit=10.0)).life is Life.ALIVE


CASES = [
    pytest.param({"value": NOTHING}, Life.DEAD, "Prometheus has nothing", id="a-metric-with-a-typo"),
    pytest.param({"samples": NOTHING}, Life.DEAD, "samples_query: one series", id="samples-with-a-typo"),
    pytest.param({"value": float("nan")}, Life.DEAD, "is nan", id="not-a-number"),
    pytest.param({"value": float("inf")}, Life.DEAD, "is inf", id="not-finite"),
    pytest.param({"value": vector(row(1, STABLE), row(2, STABLE))}, Life.DEAD, "2 series", id="several"),
    pytest.param({"value": vector(row(1, None))}, Life.DEAD, "lacks the label", id="no-version-in-it"),
    pytest.param({"value": vector(row(1, CANDIDATE))}, Life.DEAD, 'of version="2"', id="another-version"),
    pytest.param({"value": REFUSED}, Life.DEAD, "parse error", id="no-promql"),
    pytest.param({"nobody": vector(row(0, NOBODY))}, Life.DEAD, "does not exist", id="or-vector-0"),
    pytest.param({"nobody": vector(row(90, STABLE))}, Life.DEAD, "does not exist", id="ignores-the-version"),
    pytest.param({"nobody_samples": vector(row(9, None))}, Life.DEAD, "samples_query has a", id="counts-all"),
    pytest.param({"injection": 500.0}, Life.DEAD, "not seen as bad", id="blind-to-bad-values"),
    pytest.param({"injection": NOTHING}, Life.DEAD, "not seen as bad", id="filters-bad-values-away"),
    pytest.param({"value": 501.0}, Life.WAIT, "stable itself is above", id="stable-is-beyond"),
    pytest.param({"of": gate(bad="below")}, Life.WAIT, "stable itself is below", id="the-wrong-way-round"),
    pytest.param({"samples": 99.0}, Life.WAIT, "99 of at least 100", id="too-few-samples"),
    pytest.param({"samples": 9.0, "value": NOTHING}, Life.WAIT, "9 of at least", id="no-traffic-no-value"),
    pytest.param({"value": AWAY}, Life.WAIT, "answered 503", id="prometheus-is-away"),
    pytest.param(
        {"value": vector(row(9, STABLE, at_s=NOW_S - 99))}, Life.WAIT, "99 s old", id="an-old-answer"
    ),
]


@pytest.mark.parametrize(("answers", "life", "why"), CASES)
def test_each_gate_that_could_not_be_relied_on_is_found(answers, life, why):
    found = checked(**answers)
    assert (found.life, why in found.reason) == (life, True), found.reason
    assert found.reason.startswith("gate p99_ms: ")


@pytest.mark.parametrize(("answers", "life", "why"), CASES)
def test_the_message_has_the_query_as_sent_and_what_came_back(answers, life, why):
    reason = checked(**answers).reason
    assert "; sent: " in reason
    assert 'version="1"}[60s]' in reason or f'version="{NOBODY}"}}[60s]' in reason
    assert "; came back: " in reason


def test_what_only_a_person_can_mend_is_said_first():
    assert checked(samples=AWAY, nobody=vector(row(1, None))).life is Life.DEAD


@pytest.mark.parametrize(("bad", "limit"), [("above", sys.float_info.max), ("below", -sys.float_info.max)])
def test_a_limit_that_no_number_is_beyond_is_found_without_prometheus(bad, limit):
    of = gate(bad=bad, limit=limit)
    assert check(of, {}, SERVICE, None, now_s=NOW_S).life is Life.DEAD
    assert "no number is" in check(of, {}, SERVICE, None, now_s=NOW_S).reason


def test_what_was_not_asked_is_not_alive():
    assert check(gate(), {}, SERVICE, STABLE, now_s=NOW_S).life is Life.WAIT
    assert check(gate(), {}, SERVICE, None, now_s=NOW_S).life is Life.WAIT


def test_a_first_deployment_is_asked_only_what_needs_no_stable():
    sent = probes([gate()], SERVICE, None)
    assert {probe.version for probe in sent} == {NOBODY}
    assert check(gate(), dict.fromkeys(sent, NOTHING), SERVICE, None, now_s=NOW_S).life is Life.ALIVE
    assert len(probes([gate()], SERVICE, STABLE)) == 5


def test_the_injection_is_the_gates_own_query_also_behind_a_comment():
    sent = injected(
        gate(query='x{version="{version}"}[{window}] # why', limit=0.5, bad="below"), SERVICE, STABLE
    )
    assert sent.query == 'clamp_max((\nx{version="1"}[60s] # why\n), 0.49999999999999994)'


@given(limit=FINITE, bad=st.sampled_from(["above", "below"]), value=FINITE)
def test_an_alive_gate_has_stable_within_and_a_bad_value_beyond(limit, bad, value):
    of = gate(limit=limit, bad=bad)
    within = value <= limit if bad == "above" else value >= limit
    fires = abs(bad_value(of)) < float("inf")
    wanted = Life.DEAD if not fires else Life.ALIVE if within else Life.WAIT
    assert checked(of, value=value).life is wanted
