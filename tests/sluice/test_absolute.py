"""An absolute gate is ok or breached by one good number alone; everything else holds and says why."""

from dataclasses import replace
from math import inf, nan, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.absolute import MAX_AGE_S, Outcome, asks, compared_with, looks, observed, weighed
from sluice.judgement import Action, Verdict
from sluice.promql import Answer, read_answer
from tests.sluice.gates import CANDIDATE, NOW_S, STABLE, STAND, answered, gate, gates, row, vector

BAD = 900.0
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def look(of=None, *, stand=STAND, now_s=NOW_S, settle_s=5.0, **answers):
    of = of or gate()
    (seen,) = looks(gates(of, settle_s=settle_s), answered(of, **answers), stand, now_s=now_s)
    return seen


@given(value=FINITE, limit=FINITE, bad=st.sampled_from(["above", "below"]))
def test_one_good_number_is_a_breach_exactly_beyond_the_limit(value, limit, bad):
    """With stable on the good side: the limit itself."""
    seen = look(gate(limit=limit, bad=bad), value=value, stable=limit)
    breached = value > limit if bad == "above" else value < limit
    assert seen.outcome is (Outcome.BREACH if breached else Outcome.OK)
    assert (seen.value, seen.gate.limit) == (value, limit)


@pytest.mark.parametrize("bad", ["above", "below"])
def test_the_limit_is_within_and_the_next_number_is_not(bad):
    of = gate(bad=bad)
    beyond = nextafter(500.0, inf if bad == "above" else -inf)
    got = [look(of, value=value, stable=500.0).outcome for value in (500.0, beyond)]
    assert got == [Outcome.OK, Outcome.BREACH]


DEFECTS = [
    pytest.param(vector(), "wanted, Prometheus has nothing", id="absent"),
    pytest.param(vector(row(BAD), row(1.0)), "Prometheus has 2 series", id="several"),
    pytest.param(vector(row(BAD, None, job="a")), "lacks the label version", id="no-label"),
    pytest.param(vector(row(BAD, "")), 'is of version=""', id="an-empty-label"),
    pytest.param(vector(row(BAD, "7")), 'is of version="7"', id="another-version-s"),
    pytest.param(vector(row(nan)), "is nan", id="nan"),
    pytest.param(vector(row(inf)), "is inf", id="infinite"),
    pytest.param(vector(row(-inf)), "is -inf", id="minus-infinite"),
    pytest.param(vector(row(BAD, at_s=NOW_S - MAX_AGE_S - 1)), "31 s old", id="stale"),
    pytest.param(vector(row(BAD, at_s=NOW_S + MAX_AGE_S + 1)), "-31 s old", id="of-the-future"),
    pytest.param(vector(row(BAD, at_s=nan)), "nan s old", id="of-no-time"),
    pytest.param(vector(row(BAD), warnings=["a replica is away"]), "a replica is away", id="partial"),
    pytest.param(read_answer(503, None), "answered 503", id="prometheus-away"),
    pytest.param(Answer(error="did not answer: refused"), "did not answer", id="nobody-listens"),
]


@pytest.mark.parametrize("field", ["value", "samples"])
@pytest.mark.parametrize(("answer", "why"), DEFECTS)
@pytest.mark.parametrize("on_breach", ["hold", "retreat"])
def test_what_is_no_good_number_of_the_candidate_holds_and_says_why(answer, why, field, on_breach):
    """Neither ok nor a breach, in either direction, and whichever of the two queries it is."""
    for bad in ("above", "below"):
        given_value = {"value": BAD if bad == "above" else 1.0, field: answer}
        seen = look(gate(bad=bad, on_breach=on_breach), **given_value)
        assert (seen.outcome, why in seen.reason) == (Outcome.HOLD, True)


@pytest.mark.parametrize("field", ["stable", "stable_samples"])
@pytest.mark.parametrize(("answer", "why"), DEFECTS)
def test_a_breach_that_cannot_be_compared_with_stable_holds(answer, why, field):
    """The same defects; where a series carries the candidate's label, it is another version's here."""
    seen = look(value=BAD, **{field: answer})
    assert seen.outcome is Outcome.HOLD
    assert "stable cannot be read" in seen.reason
    assert look(value=1.0, **{field: answer}).outcome is Outcome.OK


def test_a_breach_that_stable_shares_is_no_breach_of_the_candidate():
    seen = look(value=BAD, stable=700.0)
    assert seen.outcome is Outcome.HOLD
    assert "900 is above 500, and so is stable with 700" in seen.reason


def test_where_stable_serves_nobody_the_candidate_s_number_is_enough():
    seen = look(stand=replace(STAND, stable=None), value=BAD, stable=vector())
    assert (seen.outcome, seen.stable) == (Outcome.BREACH, None)


@given(samples=st.floats(0, 200), value=st.sampled_from([1.0, BAD]))
def test_too_few_samples_are_no_evidence(samples, value):
    seen = look(samples=samples, value=value)
    if samples < 100:
        assert (seen.outcome, "of at least 100 samples" in seen.reason) == (Outcome.HOLD, True)
    else:
        assert seen.outcome is (Outcome.BREACH if value == BAD else Outcome.OK)


def test_few_samples_explain_a_value_that_is_missing():
    assert "3 of at least 100" in look(samples=3.0, value=vector(row(nan))).reason


@given(open_s=st.floats(-10, 200))
def test_the_window_lies_wholly_in_the_stage_and_after_it_has_settled(open_s):
    stand = replace(STAND, opened_at_s=NOW_S - open_s)
    for value in (1.0, BAD):
        seen = look(stand=stand, settle_s=5.0, value=value)
        if open_s < 65:
            assert seen.outcome is Outcome.HOLD
            assert seen.forecast_s == pytest.approx(65 - open_s, abs=1e-3)
        elif open_s > 65.001:
            assert seen.outcome is (Outcome.OK if value == 1.0 else Outcome.BREACH)


def test_nothing_is_compared_before_anything_was_read():
    (seen,) = looks(gates(), {}, STAND, now_s=NOW_S)
    assert (seen.outcome, "not read yet" in seen.reason) == (Outcome.HOLD, True)


def test_an_answer_to_another_window_is_no_answer():
    """A policy that changed must not be judged by what an earlier one had asked."""
    (seen,) = looks(gates(gate(window_s=30.0)), answered(gate()), STAND, now_s=NOW_S)
    assert seen.outcome is Outcome.HOLD


def test_both_versions_are_asked_and_stable_only_where_it_serves():
    assert len(asks([gate()], "tiny", [CANDIDATE, STABLE])) == 4
    assert {sent.version for sent in asks([gate()], "tiny", [CANDIDATE, None])} == {CANDIDATE}
    assert 'version="2"}[60s]' in asks([gate()], "tiny", [CANDIDATE])[0].query
    assert [compared_with(STABLE, percent) for percent in (1, 99, 100)] == [STABLE, STABLE, None]
    assert compared_with(None, 1) is None


# --- beside the verdict of the coins ------------------------------------------------------------

ACTIONS = st.sampled_from(list(Action))


def verdict(action, forecast_s=None):
    numbers = {"holds": ["dwell"]} if action is Action.HOLD else {}
    return Verdict(
        action=action,
        reason="the coins' reason",
        at_s=NOW_S,
        stage=0,
        epoch=1,
        numbers=numbers,
        forecast_s=forecast_s,
    )


ANSWERS = {
    Outcome.OK: {"value": 1.0},
    Outcome.BREACH: {"value": BAD},
    Outcome.HOLD: {"value": vector()},
}


@given(
    action=ACTIONS,
    seen=st.lists(
        st.tuples(st.sampled_from(list(Outcome)), st.sampled_from(["observe", "hold", "retreat"])), max_size=4
    ),
)
def test_gates_never_make_a_pass_and_only_a_breach_that_retreats_makes_harm(action, seen):
    given_looks = [
        look(gate(name=f"g{n}", on_breach=on_breach), **ANSWERS[outcome])
        for n, (outcome, on_breach) in enumerate(seen)
    ]
    after = weighed(verdict(action), given_looks)
    retreats = (Outcome.BREACH, "retreat") in seen
    shut = any(outcome is not Outcome.OK and on_breach != "observe" for outcome, on_breach in seen)
    if action is Action.HARM or retreats:
        assert after.action is Action.HARM
    elif action is Action.HOLD or shut:
        assert after.action is Action.HOLD
    else:
        assert after.action is Action.PASS
    assert (action is Action.HARM) <= (after.reason == "the coins' reason")
    assert Verdict.from_json(after.to_json()) == after
    assert list(after.numbers.get("absolute", {})) == [f"g{n}" for n in range(len(seen))]


def test_a_retreat_says_what_was_measured():
    after = weighed(verdict(Action.PASS), [look(gate(on_breach="retreat"), value=BAD)])
    assert after.reason == "harm: gate p99_ms: 900 is above 500 over 60 s, 1000 samples"
    figures = after.numbers["absolute"]["p99_ms"]
    assert (figures["value"], figures["stable"], figures["samples"], figures["limit"]) == (900, 90, 1000, 500)


def test_a_hold_names_every_gate_that_shuts_and_lasts_as_long_as_the_last():
    stand = replace(STAND, opened_at_s=NOW_S - 25)
    early = [look(gate(name="a"), stand=stand), look(gate(name="b", window_s=30.0), stand=stand)]
    after = weighed(verdict(Action.HOLD, forecast_s=10.0), early)
    assert after.reason == "the coins' reason"
    assert [reason.split(":")[0] for reason in after.numbers["holds"]] == ["dwell", "gate a", "gate b"]
    assert after.forecast_s == pytest.approx(40)
    assert weighed(verdict(Action.PASS), early).reason.startswith(
        "gate a: the stage has counted for 20.0 of 60"
    )


def test_without_gates_a_verdict_stays_as_it_is():
    assert weighed(verdict(Action.PASS), []) == verdict(Action.PASS)


def test_a_gate_that_observes_tells_in_the_numbers_and_moves_nothing():
    after = weighed(verdict(Action.PASS), [look(gate(on_breach="observe"), value=BAD)])
    assert (after.action, after.reason) == (Action.PASS, "the coins' reason")
    assert "900 is above 500" in observed(after.numbers)
    assert observed(weighed(verdict(Action.PASS), [look(gate(on_breach="observe"))]).numbers) == ""
    assert (
        observed(weighed(verdict(Action.PASS), [look(gate(on_breach="observe"), value=vector())]).numbers)
        == ""
    )
    assert observed(weighed(verdict(Action.PASS), [look(value=BAD)]).numbers) == ""
    assert observed({}) == ""
