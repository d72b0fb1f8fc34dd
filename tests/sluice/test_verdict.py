"""Verdicts, the worst reading first: harm beats doubt, doubt beats success."""

import dataclasses
import json
import math

import pytest

from sluice.errors import FatalError
from sluice.evidence import KINDS, TESTS, Baseline, EventUsers, Kind, ObjectiveCount
from sluice.judgement import Action, GatePolicy, StagePolicy, Verdict, stage_policy
from sluice.spec_policy import DEFAULT_STAGES, Gates
from sluice.verdict import judge
from tests.sluice.evidence_world import coin, coins_with, evidence

GATE = GatePolicy()
STAGE = StagePolicy(percent=50, dwell_s=600, needs_no_harm=True)
EARLY = StagePolicy(percent=50, dwell_s=600, needs_no_harm=False)
WATCH = StagePolicy(percent=100, dwell_s=600, needs_no_harm=False)
NOW = 1700.0
HARM = coins_with(coin(heads=60, tails=5))
SLOW_HARM = coins_with(coin(Kind.SLOW_P99X125, heads=60, tails=5))
BUSY = tuple(ObjectiveCount(kind=kind, ok=8500, bad=500) for kind in KINDS)  # 5.6 %: above every objective
SAFE = tuple(coin(kind, test="no_harm", heads=100, tails=200) for kind in KINDS)


def _judged(
    stage: StagePolicy = STAGE, now_s: float = NOW, gate: GatePolicy = GATE, **changes: object
) -> Verdict:
    return judge(evidence(**changes), gate, stage, now_s=now_s)


def _alone(**changes: object) -> dict[str, object]:
    return {"percent": 100.0, "coins": (), "users_stable": 0} | changes


def test_a_healthy_stage_passes():
    verdict = _judged()
    assert (verdict.action, verdict.stage, verdict.epoch, verdict.forecast_s) == (Action.PASS, 2, 7, None)


@pytest.mark.parametrize(
    ("changes", "now_s"),
    [
        pytest.param({}, NOW, id="alone"),
        pytest.param({"stale": "gw-1: silent"}, NOW, id="over-stale"),
        pytest.param({"newest_at_s": 1100.0}, NOW, id="over-old"),
        pytest.param({"newest_at_s": None}, NOW, id="over-no-traffic"),
        pytest.param({"requests_misrouted": 9999}, NOW, id="over-misrouted"),
        pytest.param({"opened_at_s": 1698.0}, NOW, id="over-settling"),
        pytest.param({"opened_at_s": 1500.0}, NOW, id="over-dwell"),
        pytest.param({"users_coin": 5}, NOW, id="over-power"),
        pytest.param({"like_load": False}, NOW, id="over-unlike-load"),
    ],
)
@pytest.mark.parametrize("coins", [HARM, SLOW_HARM], ids=["failure", "slow"])
def test_harm_beats_everything(changes, now_s, coins):
    verdict = _judged(coins=coins, now_s=now_s, **changes)
    assert verdict.action is Action.HARM
    assert "60 of 65" in verdict.reason


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        pytest.param({"stale": "gw-1: silent for 12 s"}, "silent for 12 s", id="stale"),
        pytest.param({"newest_at_s": None}, "no traffic", id="no-entry-yet"),
        pytest.param({"newest_at_s": 1600.0}, "100 s old", id="old"),
        pytest.param({"newest_at_s": 1800.0}, "in the future", id="future"),
        pytest.param({"requests_misrouted": 401}, "other version", id="misrouted"),
        pytest.param({"opened_at_s": 1696.0}, "settling", id="settling"),
        pytest.param({"opened_at_s": 1101.0}, "dwell", id="dwell"),
        pytest.param({"opened_at_s": 5000.0}, "settling", id="opened-in-the-future"),
        pytest.param({"users_coin": 305}, "305 of 306", id="power"),
        pytest.param({"users_coin": 0}, "0 of 306", id="nobody"),
        pytest.param({"users_stable": 0}, "no user of stable", id="nobody-to-compare-with"),
        pytest.param({"objective": BUSY}, "no harm not shown for failure", id="no-harm-not-shown"),
    ],
)
def test_anything_missing_is_a_hold_that_says_why(changes, text):
    verdict = _judged(**changes)
    assert verdict.action is Action.HOLD
    assert text in verdict.reason


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"opened_at_s": math.nan}, id="opened"),
        pytest.param({"newest_at_s": math.nan}, id="newest"),
        pytest.param({"users_coin": math.nan}, id="users"),
        pytest.param({"requests_stable": math.inf}, id="requests"),
        pytest.param({"slow_limits_ms": (1.0, math.nan, 1.0, 1.0)}, id="limits"),
        pytest.param({"users_stable": -1}, id="negative"),
        pytest.param({"objective": (ObjectiveCount(kind=Kind.FAILURE, ok=1, bad=-1),)}, id="objective"),
        pytest.param({"coins": ()}, id="no-coins"),
        pytest.param({"coins": HARM[2:]}, id="no-coins-of-one-kind"),
        pytest.param({"event_users": ()}, id="no-event-users"),
        pytest.param({"objective": ()}, id="no-objective"),
        pytest.param({"percent": 5.0}, id="of-another-stage"),
    ],
)
def test_numbers_that_are_none_hold(changes):
    assert _judged(**changes).action is Action.HOLD
    assert _judged(stage=EARLY, **changes).action is Action.HOLD


def test_no_evidence_at_all_holds():
    assert judge(None, GATE, STAGE, now_s=NOW).action is Action.HOLD


def test_without_slow_limits_a_stage_holds_unless_only_failures_are_asked_for():
    changes = {
        "slow_limits_ms": None,
        "coins": tuple(coin(test=test) for test in TESTS),
        "event_users": evidence().event_users[:2],
        "objective": evidence().objective[:1],
    }
    assert "slow limits" in _judged(**changes).reason
    only = dataclasses.replace(GATE, metrics=("failure",))
    assert _judged(gate=only, **changes).action is Action.PASS


def test_no_harm_is_shown_by_coins_where_the_objective_cannot():
    assert _judged(objective=BUSY, coins=coins_with(*SAFE)).action is Action.PASS


def test_every_kind_must_be_shown_harmless():
    """Shown for four of five kinds: a hold that names the fifth."""
    for missing in KINDS:
        verdict = _judged(objective=BUSY, coins=coins_with(*(row for row in SAFE if row.kind is not missing)))
        assert verdict.action is Action.HOLD
        assert verdict.reason == f"no harm not shown for {missing.value}"


def test_the_two_ways_may_differ_by_kind():
    mixed = (ObjectiveCount(kind=Kind.FAILURE, ok=9000, bad=0), *BUSY[1:])
    assert _judged(objective=mixed, coins=coins_with(*SAFE[1:])).action is Action.PASS


def test_each_way_has_half_of_beta():
    """log e of about 5 would be enough for all of beta (4.61) and is not for half of it (5.30)."""
    ok = next(n for n in range(1000, 3000, 10) if _log_e_below(n) >= 5.0)
    assert _log_e_below(ok) > math.log(1 / GATE.beta)
    rows = (ObjectiveCount(kind=Kind.FAILURE, ok=ok, bad=0), *evidence().objective[1:])
    assert _judged(objective=rows).reason == "no harm not shown for failure"


def _log_e_below(ok: int) -> float:
    rows = (ObjectiveCount(kind=Kind.FAILURE, ok=ok, bad=0), *evidence().objective[1:])
    return float(_judged(objective=rows).numbers["objective"]["failure"]["log_e"])


def test_a_stage_that_does_not_ask_for_no_harm_passes_without():
    assert _judged(stage=EARLY, objective=BUSY).action is Action.PASS


def test_under_unlike_load_slow_holds_where_no_harm_is_asked_for():
    verdict = _judged(like_load=False, objective=(evidence().objective[0], *BUSY[1:]))
    assert verdict.action is Action.HOLD
    assert "load per replica" in verdict.reason


def test_a_pass_under_unlike_load_says_that_slowness_was_not_judged():
    verdict = _judged(stage=EARLY, like_load=False)
    assert verdict.action is Action.PASS
    assert "slowness not judged" in verdict.reason
    assert verdict.numbers["unjudged"] == [kind.value for kind in KINDS if kind is not Kind.FAILURE]
    failures = dataclasses.replace(GATE, metrics=("failure",))
    assert "not judged" not in _judged(stage=EARLY, like_load=False, gate=failures).reason
    assert _judged(stage=EARLY).numbers["unjudged"] == []


def test_later_processes_pay_a_higher_bar():
    """What is harm in the first process of a rollout is not in its 40th."""
    first = coins_with(coin(heads=20, tails=2))
    late = coins_with(coin(process=40, heads=20, tails=2))
    assert _judged(coins=first).action is Action.HARM
    assert _judged(coins=late).action is not Action.HARM


def test_a_stable_with_events_asks_for_more_or_fewer_users():
    events = tuple(
        EventUsers(kind=row.kind, side=row.side, users=45 if row.side == "stable" else 0)
        for row in evidence().event_users
    )
    assert _judged(users_coin=400, event_users=events).numbers["power"]["need"] == 492


def test_a_hold_lasts_as_long_as_its_last_reason():
    """Dwell ends in 100 s; of 306 users 100 came in 495 s."""
    verdict = _judged(stage=EARLY, opened_at_s=1200.0, users_coin=100)
    assert verdict.forecast_s == pytest.approx(206 * 495 / 100)
    assert verdict.numbers["holds"] == [
        "dwell: open for 500 of 600 s",
        "power floor: 100 of 306 candidate users seen",
    ]
    assert _judged(opened_at_s=1200.0).forecast_s == pytest.approx(100)
    assert _judged(stale="x").forecast_s is None


def test_no_harm_has_a_forecast_from_its_nearer_way():
    rows = (ObjectiveCount(kind=Kind.FAILURE, ok=600, bad=0), *evidence().objective[1:])
    forecast = _judged(objective=rows).forecast_s
    assert forecast == pytest.approx((1263 / 600 - 1) * 695, rel=0.03)


class TestWatch:
    """At 100 % the candidate is alone: absolute limits on its own users."""

    def test_a_good_one_passes(self):
        verdict = _judged(stage=WATCH, **_alone())
        assert verdict.action is Action.PASS
        assert verdict.numbers["unjudged"] == []

    @pytest.mark.parametrize("kind", [Kind.FAILURE, Kind.SLOW_P99X150])
    def test_a_rate_shown_above_its_limit_is_harm_at_once(self, kind):
        rows = tuple(ObjectiveCount(kind=k, ok=100, bad=60 if k is kind else 0) for k in KINDS)
        verdict = _judged(stage=WATCH, **_alone(objective=rows, stale="x", opened_at_s=1699.0))
        assert verdict.action is Action.HARM
        assert kind.value in verdict.reason

    def test_an_hour_in_which_everything_is_a_little_slower_is_no_harm(self):
        rows = tuple(ObjectiveCount(kind=k, ok=900, bad=300 if k is Kind.SLOW_P95 else 0) for k in KINDS)
        assert _judged(stage=WATCH, **_alone(objective=rows)).action is Action.PASS

    def test_the_limit_is_rho0_times_stables_own_rate_when_that_is_more(self):
        rows = tuple(ObjectiveCount(kind=k, ok=975, bad=25) for k in KINDS)
        assert _judged(stage=WATCH, **_alone(objective=rows)).action is Action.HARM
        stable = (Baseline(kind=Kind.FAILURE, rate=0.02),)
        assert _judged(stage=WATCH, **_alone(objective=rows, baselines=stable)).action is Action.PASS

    def test_too_few_users_hold(self):
        rows = tuple(ObjectiveCount(kind=k, ok=20, bad=0) for k in KINDS)
        verdict = _judged(stage=WATCH, **_alone(objective=rows))
        assert (verdict.action, "watch floor: 20 of" in verdict.reason) == (Action.HOLD, True)
        assert verdict.forecast_s is not None

    def test_a_rate_above_its_limit_but_not_shown_holds(self):
        rows = tuple(ObjectiveCount(kind=k, ok=997, bad=7) for k in KINDS)
        verdict = _judged(stage=WATCH, **_alone(objective=rows))
        assert verdict.action is Action.HOLD
        assert "not shown to stay there" in verdict.reason

    @pytest.mark.parametrize(
        "changes", [{"stale": "x"}, {"newest_at_s": None}, {"opened_at_s": 1500.0}, {"objective": ()}]
    )
    def test_doubt_holds(self, changes):
        assert _judged(stage=WATCH, **_alone(**changes)).action is Action.HOLD

    def test_without_slow_limits_it_holds_where_there_was_a_stable_version(self):
        """Only a first deployment may be judged by failures alone."""
        unknown = {
            "slow_limits_ms": None,
            "event_users": evidence().event_users[:2],
            "objective": evidence().objective[:1],
        }
        verdict = _judged(stage=WATCH, **_alone(**unknown))
        assert (verdict.action, "slow limits are not known" in verdict.reason) == (Action.HOLD, True)

    def test_a_fault_that_begins_late_is_harm_although_everybodys_first_request_was_good(self):
        late = ObjectiveCount(kind=Kind.FAILURE, process=40, ok=0, bad=30)
        verdict = _judged(stage=WATCH, **_alone(objective=(*evidence().objective, late)))
        assert verdict.action is Action.HARM
        assert "30 of 30" in verdict.reason

    def test_a_later_process_pays_a_higher_bar(self):
        for process, wanted in ((1, Action.HARM), (2000, Action.PASS)):
            rows = (*evidence().objective, ObjectiveCount(kind=Kind.FAILURE, process=process, ok=0, bad=3))
            assert _judged(stage=WATCH, **_alone(objective=rows)).action is wanted

    def test_a_rate_that_is_above_its_limit_lately_holds(self):
        late = ObjectiveCount(kind=Kind.FAILURE, process=40, ok=497, bad=4)
        verdict = _judged(stage=WATCH, **_alone(objective=(*evidence().objective, late)))
        assert (verdict.action, "rate 0.0080 is above" in verdict.reason) == (Action.HOLD, True)

    def test_a_first_deployment_is_judged_by_failures_and_says_so(self):
        alone = _alone(
            stable=None,
            slow_limits_ms=None,
            event_users=evidence().event_users[:2],
            objective=evidence().objective[:1],
        )
        verdict = _judged(stage=WATCH, **alone)
        assert verdict.action is Action.PASS
        assert verdict.numbers["unjudged"] == ["slow_p99x150"]

    def test_a_first_deployment_that_only_asks_for_slow_holds(self):
        alone = _alone(
            stable=None,
            slow_limits_ms=None,
            event_users=evidence().event_users[:2],
            objective=evidence().objective[:1],
        )
        only = dataclasses.replace(GATE, metrics=("slow",))
        assert "nothing to judge" in _judged(stage=WATCH, gate=only, **alone).reason


def test_the_same_evidence_gives_the_same_verdict():
    assert _judged(users_coin=5) == _judged(users_coin=5)


def test_the_specs_own_gates_fit():
    assert judge(evidence(), Gates(), STAGE, now_s=NOW) == _judged()
    assert judge(evidence(users_coin=5), Gates(), STAGE, now_s=NOW) == _judged(users_coin=5)


def test_no_harm_is_asked_of_the_stage_before_the_named_percent():
    policies = [stage_policy(DEFAULT_STAGES, (100,), index) for index in range(4)]
    assert [policy.needs_no_harm for policy in policies] == [False, False, True, False]
    assert policies[2] == STAGE


class TestJson:
    """The form in which verdicts travel."""

    @pytest.mark.parametrize(
        "verdict",
        [
            _judged(),
            _judged(coins=HARM),
            _judged(users_coin=5),
            judge(None, GATE, STAGE, now_s=1.7e9 + 1 / 3),
        ],
    )
    def test_it_survives_json(self, verdict):
        assert Verdict.from_json(json.loads(json.dumps(verdict.to_json(), allow_nan=False))) == verdict

    def test_times_are_iso_utc_with_microseconds(self):
        assert _judged(now_s=1700.25).to_json()["at"] == "1970-01-01T00:28:20.250000+00:00"

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("action", "go"),
            ("action", "PASS"),
            ("action", None),
            ("reason", ""),
            ("reason", 5),
            ("at", 1700.0),
            ("at", "1970-01-01T00:28:20"),
            ("at", "today"),
            ("stage", "2"),
            ("stage", True),
            ("epoch", 7.0),
            ("numbers", []),
            ("numbers", {"a": [math.nan]}),
            ("forecast_s", "soon"),
            ("forecast_s", math.inf),
        ],
    )
    def test_anything_else_is_refused_by_name(self, field, value):
        with pytest.raises(FatalError, match=field):
            Verdict.from_json(_judged().to_json() | {field: value})

    def test_missing_and_further_fields_are_refused(self):
        whole = _judged().to_json()
        for name in whole:
            with pytest.raises(FatalError, match="fields"):
                Verdict.from_json({key: value for key, value in whole.items() if key != name})
        with pytest.raises(FatalError, match="fields"):
            Verdict.from_json(whole | {"more": 1})
