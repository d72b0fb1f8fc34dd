"""Which candidate is served. Pure.

Invariants: of the precisions that the spec asks for, the fastest that passes its accuracy bar and is good enough at the
spec's task, or the smallest where nothing could be timed; FP32 when none of them passes or can be built; never without
a reason that names the numbers, for the winner and for each that was turned down; a precision that was not measured is
not called inaccurate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from build_images.engine_builder.errors import NoEngineError
from build_images.engine_builder.task import TaskResult

FALLBACK = "fp32"
BY_SIZE = ("int8", "fp16", "fp32")  # smallest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One candidate's numbers. cosine: the least against FP32; p50_ms: at the ranked shape, None: not timed.

    task: None where it was not measured, which is no pass where the spec names a task.
    """

    name: str
    precision: str
    cosine: float
    p50_ms: float | None
    task: TaskResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The winner's name, why, and why each other candidate, and each precision left out, is not it."""

    name: str
    reason: str
    rejected: Mapping[str, str]


def passes(one: Measured, bars: Mapping[str, float], max_drop: float | None) -> bool:
    """Whether it is accurate enough to be served, and good enough at the task. NaN is not. max_drop: as in `choose`."""
    return _why_fails(one, bars, max_drop) is None


def _why_fails(one: Measured, bars: Mapping[str, float], max_drop: float | None) -> str | None:
    if not one.cosine >= bars[one.precision]:
        return f"cosine {one.cosine:.4f} < {bars[one.precision]:g}"
    if one.p50_ms is not None and not 0 < one.p50_ms < math.inf:
        return f"its p50 is {one.p50_ms} ms, which is no time"
    if max_drop is None:
        return None
    if one.task is None:
        return "its task was not measured"
    return None if one.task.passes(max_drop) else one.task.why_not(max_drop)


def choose(
    measured: Sequence[Measured],
    bars: Mapping[str, float],
    asked: Sequence[str],
    left_out: Mapping[str, str],
    max_drop: float | None = None,
) -> Choice:
    """bars: least cosine by precision. asked: the spec's precisions. left_out: those that cannot be built, and why.

    max_drop: at the spec's task, None without one. Raises NoEngineError.
    """
    failing = {one.name: why for one in measured if (why := _why_fails(one, bars, max_drop)) is not None}
    timed = all(one.p50_ms is not None for one in measured)
    passing = sorted((one for one in measured if one.name not in failing), key=_speed if timed else _size)
    wanted = [one for one in passing if one.precision in asked]
    fallback = [one for one in passing if one.precision == FALLBACK]
    if not wanted and not fallback:
        raise NoEngineError(_listed(failing) or "nothing was measured")
    best = (wanted or fallback)[0]
    others = {one.name: _why_not(one, best, timed) for one in passing if one.name != best.name}
    rejected = {**others, **failing, **left_out}
    reason = _won(best, timed) if best in wanted else _fell_back(measured, asked)
    return Choice(
        name=best.name,
        reason="; ".join(filter(None, (f"{best.name}: {reason}", _listed(rejected)))),
        rejected=rejected,
    )


UNTIMED = "smallest that is accurate enough, not timed since it cannot run here"


def _won(best: Measured, timed: bool) -> str:
    how = f"fastest that is accurate enough: p50 {best.p50_ms:.2f} ms" if timed else UNTIMED
    return f"{how}, cosine {best.cosine:.4f}"


def _fell_back(measured: Sequence[Measured], asked: Sequence[str]) -> str:
    built = any(one.precision in asked for one in measured)
    return f"no asked-for precision {'is accurate enough' if built else 'can be built'}, so {FALLBACK}"


def _speed(one: Measured) -> float:
    return one.p50_ms or 0.0


def _size(one: Measured) -> tuple[int, float]:
    """Smallest precision first, within one the most accurate."""
    return BY_SIZE.index(one.precision), -one.cosine


def _why_not(one: Measured, best: Measured, timed: bool) -> str:
    if timed:
        return f"{one.p50_ms:.2f} ms, {best.name} {best.p50_ms:.2f} ms"
    if one.precision == best.precision:
        return f"cosine {one.cosine:.4f}, {best.name} {best.cosine:.4f}"
    return f"larger than {best.name}, or not asked for"


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"not {name}: {why}" for name, why in reasons.items())
