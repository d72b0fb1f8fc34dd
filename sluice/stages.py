"""A rollout's states, and which stage may be opened.

Problem: traffic must never rise because of a call that came late, twice or out of order. Invariant: `MOVES`
is the whole machine; a pair that it does not list does not exist, and `move` refuses it. A rollout that ended
stays as it ended: no ended state is left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sluice.errors import FatalError


class State(StrEnum):
    """How a rollout stands."""

    PREPARING = "preparing"  # no stage is open yet: the candidate gets no traffic
    RUNNING = "running"  # a stage is open, possibly held
    PROMOTED = "promoted"  # the candidate is stable now
    TURNED_BACK = "turned_back"  # the evidence said harm
    REJECTED = "rejected"  # a reviewer, or a check before traffic, said no
    CANCELLED = "cancelled"  # a person stopped the run
    ABANDONED = "abandoned"  # nobody renewed the lease and the spec says retreat
    SUPERSEDED = "superseded"  # a newer rollout of the service took over


class Action(StrEnum):
    """What can be asked of a rollout."""

    ATTACH = "attach"  # the candidate's pods and signature become known
    OPEN = "open"  # the next stage
    HOLD = "hold"  # a person or a rule stops it from going on; traffic stays
    RESUME = "resume"
    RENEW = "renew"  # the lease
    HARM = "harm"
    REJECT = "reject"
    CANCEL = "cancel"
    ABANDON = "abandon"
    SUPERSEDE = "supersede"
    PROMOTE = "promote"


LIVE: Final = frozenset({State.PREPARING, State.RUNNING})
ENDED: Final = frozenset(State) - LIVE

# An action that takes traffic away, by the state in which it ends; it is taken in every live state.
RETREATS: Final[Mapping[Action, State]] = {
    Action.HARM: State.TURNED_BACK,
    Action.REJECT: State.REJECTED,
    Action.CANCEL: State.CANCELLED,
    Action.ABANDON: State.ABANDONED,
    Action.SUPERSEDE: State.SUPERSEDED,
}

MOVES: Final[Mapping[tuple[State, Action], State]] = {
    (State.PREPARING, Action.ATTACH): State.PREPARING,
    (State.PREPARING, Action.OPEN): State.RUNNING,
    (State.RUNNING, Action.OPEN): State.RUNNING,
    (State.RUNNING, Action.PROMOTE): State.PROMOTED,
    **{(state, action): state for state in LIVE for action in (Action.HOLD, Action.RESUME, Action.RENEW)},
    **{(state, action): end for state in LIVE for action, end in RETREATS.items()},
}


class IllegalMoveError(FatalError):
    """The table has no such move."""

    def __init__(self, state: State, action: Action) -> None:
        super().__init__(state, action)
        self.state, self.action = state, action

    @property
    def message(self) -> str:
        return f"a rollout that is {self.state} cannot {self.action}"

    @property
    def next_step(self) -> str:
        if self.state in ENDED:
            return "it has ended: start a new rollout"
        possible = sorted(action for state, action in MOVES if state is self.state)
        return f"possible now: {', '.join(possible)}"


def move(state: State, action: Action) -> State:
    """The state after `action`. Raises IllegalMoveError; nothing changes then."""
    try:
        return MOVES[state, action]
    except KeyError:
        raise IllegalMoveError(state, action) from None


def retreat_action(outcome: State) -> Action:
    """The action that ends a rollout in `outcome`. Raises ValueError for a state that is no retreat."""
    for action, end in RETREATS.items():
        if end is outcome:
            return action
    raise ValueError(f"outcome {outcome}: one of {', '.join(RETREATS.values())}")


def next_stage(current: int | None, stages: int, *, straight: bool) -> int | None:
    """The index of the stage that comes next; None when the last one is open.

    current: index of the open stage, None before the first. stages: how many there are, from 1 on.
    straight: a first deployment with nothing to compare with goes to the last stage at once.
    Raises ValueError when `current` is no index of a stage.
    """
    if stages < 1 or (current is not None and not 0 <= current < stages):
        raise ValueError(f"stage {current} of {stages}: an index from 0 to {stages - 1}, or None")
    if straight:
        return stages - 1 if current is None else None
    wanted = 0 if current is None else current + 1
    return wanted if wanted < stages else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A recorded pass verdict. age_s: since its evidence was read, from 0 on."""

    stage: int
    epoch: int
    version: str
    age_s: float


class Opening(StrEnum):
    """What comes of a wish to open a stage; the refusals are the error codes of the controller's API."""

    YES = "yes"
    ALREADY = "already-open"  # nothing to do, no error
    ENDED = "ended"
    WRONG_STAGE = "wrong-stage"
    NO_FRESH_PASS = "no-fresh-pass"  # noqa: S105 a code, no password


def may_open(
    wanted: int,
    *,
    state: State,
    current: int | None,
    stages: int,
    straight: bool,
    epoch: int,
    version: str,
    verdict: Pass | None,
    max_age_s: float,
) -> Opening:
    """Whether stage `wanted` may be opened. No clock in here: `verdict.age_s` was read at the edge.

    verdict: the controller's own latest pass, None when its latest verdict is anything else.
    The first stage (or the straight one) needs none: nothing was left.
    """
    if state not in LIVE:
        return Opening.ENDED
    if current is not None and wanted == current:
        return Opening.ALREADY
    if wanted != next_stage(current, stages, straight=straight):
        return Opening.WRONG_STAGE
    if current is None or fresh_pass(
        verdict, stage=current, epoch=epoch, version=version, max_age_s=max_age_s
    ):
        return Opening.YES
    return Opening.NO_FRESH_PASS


def fresh_pass(verdict: Pass | None, *, stage: int, epoch: int, version: str, max_age_s: float) -> bool:
    """Whether this is a pass of exactly this stage, epoch and version, 0 to `max_age_s` seconds old."""
    return (
        verdict is not None
        and (verdict.stage, verdict.epoch, verdict.version) == (stage, epoch, version)
        and 0 <= verdict.age_s <= max_age_s  # NaN and a clock that went back are not fresh
    )
