"""The whole state machine, pair by pair; and when a stage may open."""

import math
from dataclasses import replace
from itertools import product

import pytest

from sluice.stages import (
    ENDED,
    LIVE,
    MOVES,
    RETREATS,
    Action,
    IllegalMoveError,
    Opening,
    Pass,
    State,
    may_open,
    move,
    next_stage,
    retreat_action,
)

# Written out apart from the code: what each action does, by state. What is not here must be refused.
WANTED = {
    "preparing": {
        "attach": "preparing",
        "open": "running",
        "hold": "preparing",
        "resume": "preparing",
        "renew": "preparing",
        "harm": "turned_back",
        "reject": "rejected",
        "cancel": "cancelled",
        "abandon": "abandoned",
        "supersede": "superseded",
    },
    "running": {
        "open": "running",
        "promote": "promoted",
        "hold": "running",
        "resume": "running",
        "renew": "running",
        "harm": "turned_back",
        "reject": "rejected",
        "cancel": "cancelled",
        "abandon": "abandoned",
        "supersede": "superseded",
    },
}


@pytest.mark.parametrize(("state", "action"), list(product(State, Action)), ids=str)
def test_every_pair_of_state_and_action(state, action):
    wanted = WANTED.get(state, {}).get(action)
    if wanted is not None:
        assert move(state, action) is State(wanted)
        return
    with pytest.raises(IllegalMoveError) as caught:
        move(state, action)
    assert (caught.value.state, caught.value.action) == (state, action)
    assert str(state) in caught.value.message
    assert caught.value.next_step


def test_an_ended_rollout_can_do_nothing():
    assert {state for state, _ in MOVES} == LIVE
    assert frozenset(State) == LIVE | ENDED


def test_every_live_state_can_be_left_by_every_retreat():
    """The guard must be able to close a rollout at any moment."""
    assert all(MOVES[state, action] is end for state in LIVE for action, end in RETREATS.items())


@pytest.mark.parametrize("outcome", list(State), ids=str)
def test_an_outcome_names_its_retreat_or_is_refused(outcome):
    if outcome in RETREATS.values():
        assert move(State.RUNNING, retreat_action(outcome)) is outcome
    else:
        with pytest.raises(ValueError, match="turned_back"):
            retreat_action(outcome)


@pytest.mark.parametrize(
    ("current", "straight", "want"),
    [
        pytest.param(None, False, 0, id="first"),
        pytest.param(0, False, 1, id="no-stage-is-skipped"),
        pytest.param(3, False, None, id="none-after-the-last"),
        pytest.param(None, True, 3, id="first-deployment-goes-straight"),
        pytest.param(3, True, None, id="and-has-no-second-stage"),
    ],
)
def test_next_stage(current, straight, want):
    assert next_stage(current, 4, straight=straight) == want


@pytest.mark.parametrize("current", [-1, 4])
def test_a_stage_that_is_none_is_refused(current):
    with pytest.raises(ValueError, match="index"):
        next_stage(current, 4, straight=False)


FRESH = Pass(stage=1, epoch=7, version="2", age_s=1.0)


def opening(wanted, verdict=FRESH, *, state=State.RUNNING, current=1, straight=False):
    return may_open(
        wanted,
        state=state,
        current=current,
        stages=4,
        straight=straight,
        epoch=7,
        version="2",
        verdict=verdict,
        max_age_s=30.0,
    )


@pytest.mark.parametrize(
    "verdict",
    [
        pytest.param(None, id="none"),
        pytest.param(replace(FRESH, stage=0), id="of-the-stage-before"),
        pytest.param(replace(FRESH, stage=2), id="of-the-stage-wanted"),
        pytest.param(replace(FRESH, epoch=6), id="of-an-older-epoch"),
        pytest.param(replace(FRESH, version="1"), id="of-another-version"),
        pytest.param(replace(FRESH, age_s=30.1), id="too-old"),
        pytest.param(replace(FRESH, age_s=-0.1), id="from-the-future"),
        pytest.param(replace(FRESH, age_s=math.nan), id="of-no-age"),
    ],
)
def test_only_a_fresh_pass_of_exactly_this_stage_opens_the_next(verdict):
    assert opening(2, verdict) is Opening.NO_FRESH_PASS


def test_a_fresh_pass_opens_the_next_stage():
    assert opening(2) is Opening.YES
    assert opening(2, replace(FRESH, age_s=30.0)) is Opening.YES


@pytest.mark.parametrize("wanted", [-1, 0, 3, 4], ids=str)
def test_any_other_stage_is_wrong_even_with_a_pass(wanted):
    assert opening(wanted) is Opening.WRONG_STAGE


def test_the_open_stage_is_no_error():
    assert opening(1, None) is Opening.ALREADY


@pytest.mark.parametrize("state", sorted(ENDED), ids=str)
@pytest.mark.parametrize("wanted", [1, 2], ids=["the-open-stage", "the-next"])
def test_nothing_opens_after_the_end(state, wanted):
    assert opening(wanted, state=state) is Opening.ENDED


def test_the_first_stage_needs_no_verdict():
    assert opening(0, None, state=State.PREPARING, current=None) is Opening.YES


def test_only_a_first_deployment_goes_straight_to_the_last_stage():
    assert opening(3, None, state=State.PREPARING, current=None, straight=True) is Opening.YES
    assert opening(0, None, state=State.PREPARING, current=None, straight=True) is Opening.WRONG_STAGE
    assert opening(3, None, state=State.PREPARING, current=None) is Opening.WRONG_STAGE
