"""What a gate makes of its two readings: the controller's own verdict, and Prometheus' counts judged again.

Pure. Invariants: `pass` needs both readings to pass, the same stage and epoch; a rollout that has ended ends the
gate, whatever the readings say; everything else is `hold` with the reason, disagreement included. A disagreement
about harm is more than a look: it stands on the rollout as a hold of its own, which nothing but a gate lifts, and
only when Prometheus passes; otherwise marking the gate as done would lead past it. The event that travels from the
trigger to the sensor has its one writer and its one strict reader here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sluice.errors import FatalError
from sluice.stages import LIVE, State
from sluice.verdict import Action, Verdict

EVENT_VERSION: Final = 1
DISAGREEMENT: Final = "airflow:gate"  # `held.by` of the hold for harm in one reading only


class Outcome(StrEnum):
    """How a look at the gate ends."""

    PASS = "pass"  # noqa: S105 the contract's word
    HARM = "harm"
    ENDED = "ended"  # the rollout is over, or another run has it
    TIMEOUT = "timeout"  # held for too long
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look. verdict: the controller's, as it came; {} when there is none.

    disagree: harm by Prometheus only. agree: Prometheus passes and the controller sees no harm; both are false where
    a reading is missing, for that is neither.
    """

    outcome: Outcome
    reason: str
    verdict: Mapping[str, Any]
    disagree: bool = False
    agree: bool = False

    def to_event(self) -> dict[str, Any]:
        """The trigger's event."""
        return {
            "v": EVENT_VERSION,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "verdict": dict(self.verdict),
        }

    @classmethod
    def from_event(cls, event: Any) -> Look:
        """The reverse of `to_event`. Raises FatalError on a shape, version or outcome that is not known."""
        wanted = {"v", "outcome", "reason", "verdict"}
        if not isinstance(event, Mapping) or set(event) != wanted or event["v"] != EVENT_VERSION:
            raise FatalError(
                f"gate event {event!r} is not of version {EVENT_VERSION}", "clear the gate's task"
            )
        if event["outcome"] not in set(Outcome) or not isinstance(event["reason"], str):
            raise FatalError(f"gate event has outcome {event['outcome']!r}", f"one of {', '.join(Outcome)}")
        return cls(outcome=Outcome(event["outcome"]), reason=event["reason"], verdict=dict(event["verdict"]))


def weigh(
    rollout: Mapping[str, Any],
    theirs: Mapping[str, Any] | None,
    ours: Verdict | str,
    *,
    stage: int,
    epoch: int,
) -> Look:
    """Put the readings together.

    rollout: as the controller gives it. theirs: its live verdict. ours: from Prometheus, or why there is none.
    """
    over = _over(rollout, stage=stage, epoch=epoch)
    if over is not None:
        return over
    verdict = dict(theirs or {})
    if verdict.get("action") == Action.HARM:
        return Look(outcome=Outcome.HARM, reason=str(verdict.get("reason")), verdict=verdict)
    held = rollout.get("held")
    if held and held["by"] != DISAGREEMENT:  # under that one the readings are compared on: it may be over
        why = f"held since {held['since']} by {held['by']}: {held['reason']}"
        return Look(outcome=Outcome.HOLD, reason=why, verdict=verdict)
    if (verdict.get("stage"), verdict.get("epoch")) != (stage, epoch):
        return Look(
            outcome=Outcome.HOLD, reason="the controller has no verdict of this stage yet", verdict=verdict
        )
    return _compared(verdict, ours, stage=stage, epoch=epoch)


def _over(rollout: Mapping[str, Any], *, stage: int, epoch: int) -> Look | None:
    """The look that needs no evidence, or None."""
    verdict, state = rollout.get("verdict") or {}, State(rollout["state"])
    if rollout["epoch"] != epoch:
        why = f"rollout {rollout['id']} is at epoch {rollout['epoch']}, this run has {epoch}: another run took over"
        return Look(outcome=Outcome.ENDED, reason=why, verdict=verdict)
    if state is State.PROMOTED:
        return Look(outcome=Outcome.PASS, reason="the rollout is promoted already", verdict=verdict)
    if state not in LIVE:
        outcome = Outcome.HARM if state is State.TURNED_BACK else Outcome.ENDED
        why = f"rollout {rollout['id']} was {state.replace('_', ' ')}: {rollout.get('reason') or 'no reason given'}"
        return Look(outcome=outcome, reason=why, verdict=verdict)
    now = rollout.get("stage")
    if now is not None and now > stage:
        return Look(outcome=Outcome.PASS, reason=f"{rollout['percent']:g} % is open already", verdict=verdict)
    if now != stage:
        return Look(outcome=Outcome.HOLD, reason="the stage is not open", verdict=verdict)
    return None


def _compared(theirs: Mapping[str, Any], ours: Verdict | str, *, stage: int, epoch: int) -> Look:
    if isinstance(ours, str):
        return Look(outcome=Outcome.HOLD, reason=ours, verdict=theirs)
    action, reason = theirs.get("action"), str(theirs.get("reason"))
    if ours.action is Action.HARM:
        why = f"the readings disagree: harm by Prometheus ({ours.reason}), {action} by the controller ({reason})"
        return Look(outcome=Outcome.HOLD, reason=why, verdict=theirs, disagree=True)
    if (ours.stage, ours.epoch) != (stage, epoch):
        return Look(
            outcome=Outcome.HOLD, reason="Prometheus has no evidence of this stage yet", verdict=theirs
        )
    if action == Action.PASS and ours.action is Action.PASS:
        return Look(outcome=Outcome.PASS, reason=reason, verdict=theirs, agree=True)
    if action == Action.PASS:
        why = f"the readings disagree: pass by the controller, hold by Prometheus ({ours.reason})"
        return Look(outcome=Outcome.HOLD, reason=why, verdict=theirs)
    return Look(outcome=Outcome.HOLD, reason=reason, verdict=theirs, agree=ours.action is Action.PASS)
