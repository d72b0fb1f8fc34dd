"""The gate's trigger against real servers: what it sees, what it says, and what it never does."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from plugins.gate import DISAGREEMENT, Look, Outcome
from plugins.triggers.gate import Gate, GateTrigger
from sluice.errors import FatalError
from sluice.spec_policy import Policy
from tests.plugins import pictures
from tests.plugins.pictures import EPOCH, NOW_S, ROLLOUT, STAGE
from tests.plugins.stand import refusal

NOW = datetime.fromtimestamp(NOW_S, UTC)
LEASE = ("POST", f"/v1/rollouts/{ROLLOUT}/lease")
GET = ("GET", f"/v1/rollouts/{ROLLOUT}")
EVIDENCE = ("GET", f"/v1/rollouts/{ROLLOUT}/evidence")
HOLD, RESUME = (("POST", f"/v1/rollouts/{ROLLOUT}/{name}") for name in ("hold", "resume"))
QUERY = ("GET", "/api/v1/query")


def trigger(**changes):
    values = {
        "service": "tiny",
        "rollout": ROLLOUT,
        "epoch": EPOCH,
        "stage": STAGE,
        "policy": pictures.spec().policy(),
        "deadline": "2999-01-01T00:00:00+00:00",
        "controller_conn_id": "sluice_controller",
        "prometheus_conn_id": "sluice_prometheus",
        "poll_s": 0.01,
        "first_look_s": 0.0,
    }
    return GateTrigger(**{**values, **changes})


def gate(controller, prometheus):
    from plugins.hooks.controller import ControllerClient
    from plugins.hooks.prometheus import PrometheusClient

    return Gate(
        controller=ControllerClient(f"http://127.0.0.1:{controller.port}", "secret"),
        prometheus=PrometheusClient(f"http://127.0.0.1:{prometheus.port}"),
        service="tiny",
        rollout=ROLLOUT,
        epoch=EPOCH,
        stage=STAGE,
        policy=Policy.from_json(pictures.spec().policy()),
    )


@pytest.fixture
def world(controller, prometheus):
    """Both sides pass."""
    controller.answers = {
        GET: (200, pictures.rollout()),
        LEASE: (200, pictures.rollout()),
        EVIDENCE: (200, {"verdict": pictures.verdict(), "evidence": None, "live": {}}),
    }
    prometheus.answers = {QUERY: (200, pictures.vector(pictures.watch()))}
    return controller, prometheus


def test_it_survives_a_move_to_another_triggerer():
    """`serialize` gives everything that an equal trigger needs, and its own importable path."""
    before = trigger()
    path, values = before.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(__import__(module, fromlist=[name]), name)(**values)
    assert again.serialize() == before.serialize()
    assert type(again) is GateTrigger


def test_two_passes_pass(world):
    look = gate(*world).look(NOW)
    assert (look.outcome, look.reason) == (Outcome.PASS, "the watch passed")


def test_the_lease_is_renewed_and_not_at_every_look(world):
    controller, _ = world
    looker = gate(*world)
    for seconds in (0, 1, 2):
        looker.look(NOW + timedelta(seconds=seconds))
    looker.look(NOW + timedelta(hours=1))
    assert [asked.body for asked in controller.calls(*LEASE)] == [{"epoch": EPOCH}] * 2


def test_it_asks_prometheus_for_this_stage_alone(world):
    _, prometheus = world
    gate(*world).look(NOW)
    wanted = f'{{__name__=~"sluice_.+",service="tiny",rollout="{ROLLOUT}",stage="{STAGE}"}}'
    assert [asked.query["query"] for asked in prometheus.asked] == [wanted]


HOLDS = [
    pytest.param({}, {QUERY: (503, {})}, "Prometheus answered 503", id="prometheus-answers-an-error"),
    pytest.param(
        {}, {QUERY: (200, pictures.vector(None))}, "found nothing", id="prometheus-holds-no-samples"
    ),
    pytest.param(
        {},
        {QUERY: (200, pictures.vector(pictures.with_nan(pictures.watch())))},
        "nan",
        id="a-sample-is-not-a-number",
    ),
    pytest.param(
        {EVIDENCE: (200, {"verdict": pictures.verdict("hold", "dwell: open for 3 of 300 s")})},
        {},
        "dwell: open for 3",
        id="the-controller-holds",
    ),
    pytest.param(
        {EVIDENCE: (200, {"verdict": None})},
        {},
        "no verdict of this stage",
        id="the-controller-has-no-verdict",
    ),
    pytest.param(
        {EVIDENCE: (200, {"verdict": pictures.verdict(stage=STAGE - 1)})},
        {},
        "no verdict of this stage",
        id="the-pass-is-of-another-stage",
    ),
    pytest.param(
        {},
        {QUERY: (200, pictures.vector(pictures.watch(ok=3)))},
        "disagree: pass by the controller, hold by Prometheus",
        id="only-the-controller-passes",
    ),
    pytest.param(
        {
            GET: (200, pictures.rollout(held={"since": "t", "reason": "lunch", "by": "eve"})),
            LEASE: (200, pictures.rollout(held={"since": "t", "reason": "lunch", "by": "eve"})),
        },
        {},
        "held since t by eve: lunch",
        id="a-person-holds-it",
    ),
    pytest.param({GET: (503, {})}, {}, "answered 503", id="the-controller-is-away"),
    pytest.param({GET: (401, {})}, {}, "answered 401", id="the-controller-does-not-take-the-token"),
    pytest.param(
        {GET: (200, pictures.rollout(stage=STAGE - 1)), LEASE: (200, pictures.rollout(stage=STAGE - 1))},
        {},
        "not open",
        id="the-stage-is-not-open",
    ),
]


@pytest.mark.parametrize(("theirs", "ours", "reason"), HOLDS)
def test_anything_less_than_two_passes_holds_and_says_why(world, theirs, ours, reason):
    controller, prometheus = world
    controller.answers |= theirs
    prometheus.answers |= ours
    look = gate(*world).look(NOW)
    assert look.outcome is Outcome.HOLD
    assert reason in look.reason


def test_harm_that_only_prometheus_shows_puts_the_rollout_on_hold(world):
    controller, prometheus = world
    prometheus.answers[QUERY] = (200, pictures.vector(pictures.watch(ok=1_000, bad=500)))
    controller.answers[HOLD] = (200, pictures.rollout())
    look = gate(*world).look(NOW)
    assert look.outcome is Outcome.HOLD
    assert "disagree: harm by Prometheus" in look.reason
    (held,) = controller.calls(*HOLD)
    assert (held.body["epoch"], held.body["by"]) == (EPOCH, DISAGREEMENT)


@pytest.mark.parametrize("status", [503, 409])
def test_a_hold_that_the_controller_does_not_take_is_tried_again_at_the_next_look(world, status):
    controller, prometheus = world
    prometheus.answers[QUERY] = (200, pictures.vector(pictures.watch(ok=1_000, bad=500)))
    controller.answers[HOLD] = [(status, refusal("ledger", "locked")), (200, pictures.rollout())]
    looker = gate(*world)
    assert [looker.look(NOW).outcome for _ in range(2)] == [Outcome.HOLD] * 2
    assert len(controller.calls(*HOLD)) == 2


def held_by(who):
    return pictures.rollout(held={"since": "t", "reason": "r", "by": who})


WITHHELD = (200, {"verdict": pictures.verdict("hold", f"held since t by {DISAGREEMENT}: r")})


def test_the_gate_lifts_its_own_hold_when_the_readings_agree_again_and_then_passes(world):
    """One scrape that came late must not need a person."""
    controller, _ = world
    controller.answers |= {
        GET: [(200, held_by(DISAGREEMENT)), (200, held_by(DISAGREEMENT)), (200, pictures.rollout())],
        LEASE: (200, held_by(DISAGREEMENT)),
        EVIDENCE: [WITHHELD, (200, {"verdict": pictures.verdict()})],
        RESUME: (200, pictures.rollout()),
    }
    looker = gate(*world)
    assert [looker.look(NOW).outcome for _ in range(2)] == [Outcome.HOLD, Outcome.PASS]
    (lifted,) = controller.calls(*RESUME)
    assert (lifted.body["epoch"], lifted.body["by"]) == (EPOCH, DISAGREEMENT)


HARMFUL = pictures.watch(ok=1_000, bad=500)
OLD = pictures.replace(pictures.watch(), newest_at_s=NOW_S - 3_600)
STAYS = [
    pytest.param({}, {QUERY: (503, {})}, id="prometheus-is-away"),
    pytest.param({}, {QUERY: (200, pictures.vector(None))}, id="prometheus-holds-no-samples"),
    pytest.param(
        {}, {QUERY: (200, pictures.vector(pictures.with_nan(pictures.watch())))}, id="prometheus-holds-a-nan"
    ),
    pytest.param({}, {QUERY: (200, pictures.vector(OLD))}, id="prometheus-holds-what-is-an-hour-old"),
    pytest.param({}, {QUERY: (200, pictures.vector(HARMFUL))}, id="prometheus-still-shows-harm"),
    pytest.param({EVIDENCE: (200, {"verdict": None})}, {}, id="the-controller-has-no-verdict"),
    pytest.param(
        {EVIDENCE: (200, {"verdict": pictures.verdict("harm", "9 of 9")})}, {}, id="the-controller-sees-harm"
    ),
    pytest.param(
        {GET: [(200, held_by(DISAGREEMENT)), (200, held_by("eve"))]}, {}, id="it-is-eves-hold-by-now"
    ),
    pytest.param({GET: (200, held_by("eve")), LEASE: (200, held_by("eve"))}, {}, id="it-is-eves-hold"),
]


@pytest.mark.parametrize(("theirs", "ours"), STAYS)
def test_a_hold_stays_while_the_readings_do_not_agree_and_when_it_is_not_the_gates(world, theirs, ours):
    controller, prometheus = world
    held = (200, held_by(DISAGREEMENT))
    controller.answers |= {GET: held, LEASE: held, EVIDENCE: WITHHELD, RESUME: (200, pictures.rollout())}
    controller.answers |= theirs
    prometheus.answers |= ours
    assert gate(*world).look(NOW).outcome is not Outcome.PASS
    assert controller.calls(*RESUME) == []


ENDS = [
    pytest.param(
        {"state": "turned_back", "reason": "harm: failure", "ended_at": "t"},
        Outcome.HARM,
        "turned back: harm: failure",
        id="turned-back",
    ),
    pytest.param({"state": "superseded", "ended_at": "t"}, Outcome.ENDED, "was superseded", id="superseded"),
    pytest.param({"state": "cancelled", "ended_at": "t"}, Outcome.ENDED, "was cancelled", id="cancelled"),
    pytest.param({"epoch": EPOCH + 1}, Outcome.ENDED, "another run took over", id="another-epoch"),
    pytest.param({"state": "promoted", "ended_at": "t"}, Outcome.PASS, "promoted already", id="promoted"),
]


@pytest.mark.parametrize(("changes", "outcome", "reason"), ENDS)
def test_a_rollout_that_is_over_ends_the_gate_whatever_the_numbers_say(world, changes, outcome, reason):
    controller, _ = world
    controller.answers[GET] = (200, pictures.rollout(**changes))
    look = gate(*world).look(NOW)
    assert look.outcome is outcome
    assert reason in look.reason
    assert controller.calls(*LEASE) == []


async def test_the_trigger_waits_through_holds_and_ends_with_the_verdict(world):
    controller, prometheus = world
    stamp = datetime.now(UTC).timestamp()
    now = pictures.replace(pictures.watch(), newest_at_s=stamp, opened_at_s=stamp - 7_200)
    controller.answers[EVIDENCE] = [
        (200, {"verdict": pictures.verdict("hold", "dwell")}),
        (200, {"verdict": pictures.verdict()}),
    ]
    prometheus.answers[QUERY] = (200, pictures.vector(now))
    async with asyncio.timeout(30):
        events = [event async for event in trigger().run()]
    assert len(controller.calls(*EVIDENCE)) == 2
    (event,) = events
    look = Look.from_event(event.payload)
    assert look.outcome is Outcome.PASS
    assert look.verdict["numbers"] == {"users": {"candidate": 7}}


async def test_holding_ends_at_the_absolute_deadline_with_the_reason(world):
    controller, _ = world
    controller.answers[EVIDENCE] = (200, {"verdict": pictures.verdict("hold", "too few users")})
    async with asyncio.timeout(30):
        (event,) = [event async for event in trigger(deadline="2020-01-01T00:00:00+00:00").run()]
    assert event.payload["outcome"] == "timeout"
    assert "too few users" in event.payload["reason"]


@pytest.mark.parametrize(
    "event",
    [
        None,
        {},
        {"v": 2, "outcome": "pass", "reason": "", "verdict": {}},
        {"v": 1, "outcome": "yes", "reason": "", "verdict": {}},
    ],
)
def test_an_event_of_another_shape_is_no_pass(event):
    with pytest.raises(FatalError):
        Look.from_event(event)
