"""Absolute gates: what Prometheus says of the candidate, held against a limit.

Problem: a query that finds nothing, finds too much or finds what is old looks, to a comparison, like good news.

Invariants: pure. A gate is `ok` or `breach` only by one finite number of the candidate, labelled with its version,
from a window that lies wholly in the open stage and holds the samples that the gate asks for; everything else is
`hold` with the reason. A breach that stable shares, or that cannot be compared with stable while stable serves, is
`hold` as well: it says nothing of the candidate. `weighed` can turn a pass into a hold, and anything into harm by a
gate that says `retreat`; it makes no pass.

The controller and the gate sensor ask the same `Ask`s and judge by this module, each with its own connection.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isfinite
from typing import Any, Final, Literal

from sluice.evidence import StageEvidence
from sluice.forecast import latest
from sluice.judgement import Action, Verdict
from sluice.promql import Answer, Series, filled
from sluice.spec_policy import AbsoluteGate, Gates

MAX_AGE_S: Final = 30.0  # of an answer; both readers ask every few seconds

Of = Literal["value", "samples"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One query as it is sent, and what it is asked for."""

    gate: str
    version: str
    of: Of
    query: str


class Outcome(StrEnum):
    """What one gate says."""

    OK = "ok"
    BREACH = "breach"
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Why there is no number, and which query is to blame. passing: time alone may mend it."""

    why: str
    passing: bool = False
    of: Of = "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One version through one gate's two queries. value, samples: None where there is no finite number."""

    value: float | None
    samples: float | None
    doubt: Doubt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLook:
    """A gate at one moment. stable: its value, None when it was not asked or cannot be read."""

    gate: AbsoluteGate
    outcome: Outcome
    reason: str
    value: float | None
    stable: float | None
    samples: float | None
    forecast_s: float | None = None

    def figures(self) -> dict[str, Any]:
        """For the numbers of a verdict."""
        return {
            "outcome": self.outcome.value,
            "on_breach": self.gate.on_breach,
            "value": self.value,
            "stable": self.stable,
            "samples": self.samples,
            "limit": self.gate.limit,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """What the gates are held against. stable: None where there is none that serves.

    opened_at_s: unix seconds, when every gateway had the open stage.
    """

    service: str
    candidate: str
    stable: str | None
    opened_at_s: float


def ask(gate: AbsoluteGate, service: str, version: str, of: Of) -> Ask:
    """The query of one gate for one version."""
    text = gate.query if of == "value" else gate.samples_query
    query = filled(text, service=service, version=version, window_s=gate.window_s)
    return Ask(gate.name, version, of, query)


def asks(gates: Iterable[AbsoluteGate], service: str, versions: Iterable[str | None]) -> tuple[Ask, ...]:
    """Everything that Prometheus has to be asked for one look at these versions; None is no version."""
    known = [version for version in versions if version is not None]
    sides: tuple[Of, ...] = ("value", "samples")
    return tuple(ask(gate, service, version, of) for gate in gates for version in known for of in sides)


def stand_of(evidence: StageEvidence) -> Stand:
    """At 100 % nobody uses stable, so there is nothing to compare with."""
    return Stand(
        service=evidence.service,
        candidate=evidence.version,
        stable=compared_with(evidence.stable, evidence.percent),
        opened_at_s=evidence.opened_at_s,
    )


def compared_with(stable: str | None, percent: float) -> str | None:
    """The stable version that serves beside a stage of `percent`, or None."""
    return stable if percent < 100 else None


def beyond(value: float, gate: AbsoluteGate) -> bool:
    """Whether a finite number is on the gate's bad side of the limit."""
    return value > gate.limit if gate.bad == "above" else value < gate.limit


def looks(gates: Gates, answers: Mapping[Ask, Answer], stand: Stand, *, now_s: float) -> tuple[GateLook, ...]:
    """Every gate in the spec's order. answers: to `asks`; one that is missing is a hold."""
    return tuple(_look(gate, gates.settle_s, answers, stand, now_s) for gate in gates.absolute)


def reading(
    gate: AbsoluteGate, answers: Mapping[Ask, Answer], service: str, version: str, *, now_s: float
) -> Reading:
    """One version as one gate sees it; too few samples are said first, for they explain a value that is missing."""
    found: dict[Of, float | Doubt] = {}
    for of in ("samples", "value"):
        answer = answers.get(ask(gate, service, version, of))
        found[of] = (
            Doubt(why="not read yet", passing=True) if answer is None else _one(answer, gate, version, now_s)
        )
    samples, value = found["samples"], found["value"]
    doubt = None
    if isinstance(samples, Doubt):
        doubt = replace(samples, of="samples", why=f"samples_query: {samples.why}")
    elif samples < gate.min_samples:
        why = f"{samples:.6g} of at least {gate.min_samples} samples in {gate.window_s:g} s"
        doubt = Doubt(why=why, passing=True, of="samples")
    elif isinstance(value, Doubt):
        doubt = replace(value, why=f"query: {value.why}")
    return Reading(
        value=None if isinstance(value, Doubt) else value,
        samples=None if isinstance(samples, Doubt) else samples,
        doubt=doubt,
    )


def _one(answer: Answer, gate: AbsoluteGate, version: str, now_s: float) -> float | Doubt:
    """The one finite number of `version` in an answer, or why there is none."""
    if answer.error is not None:
        return Doubt(why=answer.error, passing=not answer.refused)
    if len(answer.series) != 1:
        found = "nothing" if not answer.series else f"{len(answer.series)} series: {answer}"
        return Doubt(why=f"one series of version {version} is wanted, Prometheus has {found}")
    (series,) = answer.series
    return _doubt_about(series, gate.version_label, version, now_s) or series.value


def _doubt_about(series: Series, label: str, version: str, now_s: float) -> Doubt | None:
    said = series.labels.get(label)
    if said is None:
        return Doubt(why=f"the series lacks the label {label}, which says whose number it is: {series}")
    if said != version:
        return Doubt(why=f'the series is of {label}="{said}", version {version} was asked for')
    if not isfinite(series.value):
        return Doubt(why=f"the value of version {version} is {series.value}")
    if not abs(now_s - series.at_s) <= MAX_AGE_S:
        age_s = now_s - series.at_s
        return Doubt(why=f"the answer is {age_s:.0f} s old: check Prometheus and the clocks", passing=True)
    return None


def _look(
    gate: AbsoluteGate, settle_s: float, answers: Mapping[Ask, Answer], stand: Stand, now_s: float
) -> GateLook:
    mine = reading(gate, answers, stand.service, stand.candidate, now_s=now_s)
    theirs = None
    if stand.stable is not None:
        theirs = reading(gate, answers, stand.service, stand.stable, now_s=now_s)
    outcome, why, wait_s = _outcome(gate, mine, theirs, now_s - stand.opened_at_s - settle_s)
    return GateLook(
        gate=gate,
        outcome=outcome,
        reason=f"gate {gate.name}: {why}",
        value=mine.value,
        stable=None if theirs is None else theirs.value,
        samples=mine.samples,
        forecast_s=wait_s,
    )


def _outcome(
    gate: AbsoluteGate, mine: Reading, theirs: Reading | None, counted_s: float
) -> tuple[Outcome, str, float | None]:
    """Doubt first: what was read before the stage had settled is partly the stage before, or a cold start."""
    if not counted_s >= gate.window_s:
        wait_s = gate.window_s - counted_s
        why = f"the stage has counted for {max(counted_s, 0.0):.1f} of {gate.window_s:g} s"
        return Outcome.HOLD, why, wait_s if isfinite(wait_s) else None
    if mine.doubt is not None or mine.value is None:
        return Outcome.HOLD, "no number" if mine.doubt is None else mine.doubt.why, None
    side = gate.bad if beyond(mine.value, gate) else f"not {gate.bad}"
    said = f"{mine.value:.6g} is {side} {gate.limit:.6g}"
    if not beyond(mine.value, gate):
        return Outcome.OK, said, None
    if theirs is not None and (theirs.doubt is not None or theirs.value is None):
        why = "no number" if theirs.doubt is None else theirs.doubt.why
        return Outcome.HOLD, f"{said}, and stable cannot be read beside it: {why}", None
    if theirs is not None and theirs.value is not None and beyond(theirs.value, gate):
        return (
            Outcome.HOLD,
            f"{said}, and so is stable with {theirs.value:.6g}: not the candidate's doing",
            None,
        )
    return Outcome.BREACH, f"{said} over {gate.window_s:g} s, {mine.samples:.6g} samples", None


def weighed(verdict: Verdict, seen: Sequence[GateLook]) -> Verdict:
    """A stage's verdict with the gates beside it. Harm beats doubt, doubt beats success; `observe` only tells."""
    if not seen:
        return verdict
    numbers = {**verdict.numbers, "absolute": {look.gate.name: look.figures() for look in seen}}
    if verdict.action is Action.HARM:
        return replace(verdict, numbers=numbers)
    for look in seen:
        if look.outcome is Outcome.BREACH and look.gate.on_breach == "retreat":
            return replace(
                verdict, action=Action.HARM, reason=f"harm: {look.reason}", numbers=numbers, forecast_s=None
            )
    shut = [look for look in seen if look.outcome is not Outcome.OK and look.gate.on_breach != "observe"]
    if not shut:
        return replace(verdict, numbers=numbers)
    reasons = [look.reason for look in shut]
    numbers["holds"] = [*numbers.get("holds", ()), *reasons]
    held = verdict.action is Action.HOLD
    waits = [look.forecast_s for look in shut] + ([verdict.forecast_s] if held else [])
    reason = verdict.reason if held else reasons[0]
    return replace(verdict, action=Action.HOLD, reason=reason, numbers=numbers, forecast_s=latest(waits))


def observed(numbers: Mapping[str, Any]) -> str:
    """Breaches of the gates that only observe, from a verdict's numbers; empty when there is none."""
    rows = numbers.get("absolute")
    told = rows.values() if isinstance(rows, Mapping) else ()
    return "; ".join(
        str(row.get("reason"))
        for row in told
        if row.get("on_breach") == "observe" and row.get("outcome") == Outcome.BREACH
    )
