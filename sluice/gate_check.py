"""Is this gate alive? Asked before the first stage, while there is nothing to lose.

Problem: a gate whose query has a typo, adds `or vector(0)`, never reads the version or compares the wrong way round
lets everything through, and looks like a gate that passes. Invariant: `Life.ALIVE` is said only of a gate that

- has numbers on either side of its limit, and calls the bad side bad and the other good;
- says nothing of a version that does not exist: so its number depends on the version;
- gives one finite number of stable, from enough samples, that is within the limit;
- calls it a breach when the same query gives the same series with a bad value in it.

Without a stable version (a first deployment) the last two cannot be asked; the candidate's own readings then hold
until there is a number.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite, nextafter
from typing import Final

from sluice.absolute import Ask, Reading, ask, beyond, reading
from sluice.promql import Answer
from sluice.spec_policy import AbsoluteGate

NOBODY: Final = "sluice-no-such-version"


class Life(StrEnum):
    """ALIVE: the gate can be relied on. WAIT: time may mend it. DEAD: somebody has to correct it."""

    ALIVE = "alive"
    WAIT = "wait"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What became of one gate. reason: with the query as sent and what came back, unless it is alive."""

    gate: str
    life: Life
    reason: str


def bad_value(gate: AbsoluteGate) -> float:
    """The first number beyond the limit; infinite when there is none."""
    return nextafter(gate.limit, inf if gate.bad == "above" else -inf)


def injected(gate: AbsoluteGate, service: str, version: str) -> Ask:
    """The gate's own query with every value that is not bad replaced by one that is."""
    plain = ask(gate, service, version, "value")
    clamp = "clamp_min" if gate.bad == "above" else "clamp_max"
    query = (
        f"{clamp}((\n{plain.query}\n), {bad_value(gate)!r})"  # on lines of its own: it may end in a comment
    )
    return Ask(gate.name, version, "value", query)


def probes(gates: Iterable[AbsoluteGate], service: str, stable: str | None) -> tuple[Ask, ...]:
    """Everything that Prometheus has to be asked for a check."""
    return tuple(probe for gate in gates for probe in _probes(gate, service, stable))


def _probes(gate: AbsoluteGate, service: str, stable: str | None) -> Iterator[Ask]:
    for version in (NOBODY, stable):
        if version is not None:
            yield ask(gate, service, version, "value")
            yield ask(gate, service, version, "samples")
    if stable is not None and isfinite(bad_value(gate)):
        yield injected(gate, service, stable)


def check(
    gate: AbsoluteGate, answers: Mapping[Ask, Answer], service: str, stable: str | None, *, now_s: float
) -> Check:
    """One gate by the answers to its `probes`. What only a person can mend is said before what time may mend."""
    found = [_limit(gate), *_answered(gate, answers, service, stable), *_of_nobody(gate, answers, service)]
    if stable is not None:
        found += _of_stable(gate, answers, service, stable, now_s)
    troubles = [trouble for trouble in found if trouble is not None]
    for trouble in sorted(troubles, key=lambda trouble: trouble.life is Life.WAIT):
        return trouble
    return Check(gate=gate.name, life=Life.ALIVE, reason=f"gate {gate.name} is alive")


def _trouble(gate: AbsoluteGate, life: Life, why: str, sent: Ask | None, answer: Answer | None) -> Check:
    came = "" if sent is None else f"; sent: {sent.query}; came back: {answer or 'no answer'}"
    return Check(gate=gate.name, life=life, reason=f"gate {gate.name}: {why}{came}")


def _limit(gate: AbsoluteGate) -> Check | None:
    """On values injected on both sides of the limit."""
    good, bad = gate.limit, bad_value(gate)
    if isfinite(bad) and beyond(bad, gate) and not beyond(good, gate):
        return None
    return _trouble(gate, Life.DEAD, f"no number is {gate.bad} the limit {gate.limit!r}", None, None)


def _answered(
    gate: AbsoluteGate, answers: Mapping[Ask, Answer], service: str, stable: str | None
) -> Iterator[Check]:
    for probe in _probes(gate, service, stable):
        answer = answers.get(probe)
        if answer is None or answer.error is not None:
            life = Life.DEAD if answer is not None and answer.refused else Life.WAIT
            yield _trouble(gate, life, "a query was not answered", probe, answer)


def _of_nobody(gate: AbsoluteGate, answers: Mapping[Ask, Answer], service: str) -> Iterator[Check]:
    for sent in (ask(gate, service, NOBODY, "value"), ask(gate, service, NOBODY, "samples")):
        answer = answers.get(sent)
        if answer is not None and answer.series:
            why = f"{_field(sent)} has a number for a version that does not exist, so it says nothing of one that does"
            yield _trouble(gate, Life.DEAD, why, sent, answer)


def _of_stable(
    gate: AbsoluteGate, answers: Mapping[Ask, Answer], service: str, stable: str, now_s: float
) -> Iterator[Check]:
    seen = reading(gate, answers, service, stable, now_s=now_s)
    value = ask(gate, service, stable, "value")
    if seen.doubt is not None or seen.value is None:
        sent = value if seen.doubt is None else ask(gate, service, stable, seen.doubt.of)
        yield _trouble(gate, _life(seen), _why(seen, stable), sent, answers.get(sent))
        return
    if beyond(seen.value, gate):
        why = f"stable itself is {gate.bad} the limit {gate.limit:.6g}: correct limit or bad, or mend stable"
        yield _trouble(gate, Life.WAIT, why, value, answers.get(value))
    sent = injected(gate, service, stable)
    bad = reading(gate, {**answers, value: answers.get(sent, Answer())}, service, stable, now_s=now_s)
    if bad.doubt is not None or bad.value is None or not beyond(bad.value, gate):
        yield _trouble(
            gate, Life.DEAD, "a bad value in its place was not seen as bad", sent, answers.get(sent)
        )


def _life(seen: Reading) -> Life:
    return Life.WAIT if seen.doubt is not None and seen.doubt.passing else Life.DEAD


def _why(seen: Reading, stable: str) -> str:
    return f"no sane number of stable, version {stable}" + (
        "" if seen.doubt is None else f": {seen.doubt.why}"
    )


def _field(sent: Ask) -> str:
    return "query" if sent.of == "value" else "samples_query"
