"""What a gate is told and what it answers: policies in, a verdict out, and the verdict's form as JSON.

Problem: a verdict travels from the controller to Airflow, the ledger and MLflow; read loosely, a word that is not
known or a NaN could be taken for a pass.
Invariant: `Verdict.from_json` takes exactly what `to_json` makes, and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from math import isfinite
from typing import Any, Final, Protocol

from sluice.errors import FatalError


class Action(StrEnum):
    """What a verdict says to do."""

    PASS = "pass"  # noqa: S105 - the contract's word, no secret
    HARM = "harm"
    HOLD = "hold"


class GateLike(Protocol):
    """What a gate must have; the release spec's `Gates` and `GatePolicy` both do."""

    @property
    def alpha(self) -> float: ...
    @property
    def beta(self) -> float: ...
    @property
    def rho0(self) -> float: ...
    @property
    def settle_s(self) -> float: ...
    @property
    def metrics(self) -> Sequence[str]: ...
    @property
    def objectives(self) -> Mapping[str, float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """The gate's numbers. alpha, beta in (0, 1); rho0 > 1; objectives: metric to rate in (0, 1)."""

    alpha: float = 0.01
    beta: float = 0.01
    rho0: float = 2.0
    settle_s: float = 5.0
    metrics: tuple[str, ...] = ("failure", "slow")
    objectives: Mapping[str, float] = field(default_factory=lambda: {"failure": 0.005, "slow": 0.05})


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePolicy:
    """One stage's rules. percent: 0 to 100. dwell_s: since opening. needs_no_harm: before the next stage opens."""

    percent: float
    dwell_s: float
    needs_no_harm: bool


class StageLike(Protocol):
    """A stage of the release spec."""

    @property
    def percent(self) -> float: ...
    @property
    def dwell_s(self) -> float: ...


def stage_policy(stages: Sequence[StageLike], no_harm_before: Sequence[float], index: int) -> StagePolicy:
    """The rules of stage `index` of a spec: no harm must be shown when the next stage's percent asks for it."""
    follows = stages[index + 1].percent if index + 1 < len(stages) else None
    here = stages[index]
    return StagePolicy(
        percent=here.percent, dwell_s=here.dwell_s, needs_no_harm=follows in set(no_harm_before)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judgement. at_s: unix seconds, kept to the microsecond. forecast_s: of a hold, None when unknown."""

    action: Action
    reason: str
    at_s: float
    stage: int
    epoch: int
    numbers: Mapping[str, Any]
    forecast_s: float | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_s", round(self.at_s, 6))

    def to_json(self) -> dict[str, Any]:
        """The contract's form; `at` is ISO-8601 UTC with microseconds."""
        return {
            "action": self.action.value,
            "reason": self.reason,
            "at": datetime.fromtimestamp(self.at_s, UTC).isoformat(timespec="microseconds"),
            "stage": self.stage,
            "epoch": self.epoch,
            "numbers": dict(self.numbers),
            "forecast_s": self.forecast_s,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Verdict":
        """Strict inverse; raises FatalError naming the field that is missing, unknown or of another kind."""
        wanted = {"action", "reason", "at", "stage", "epoch", "numbers", "forecast_s"}
        if set(data) != wanted:
            raise FatalError(f"verdict has the fields {sorted(data)}", f"send exactly {sorted(wanted)}")
        for name, check in _FIELDS.items():
            if not check(data[name]):
                raise FatalError(f"verdict field {name} is {data[name]!r}", "send what Verdict.to_json makes")
        return cls(
            action=Action(data["action"]),
            reason=data["reason"],
            at_s=datetime.fromisoformat(data["at"]).timestamp(),
            stage=data["stage"],
            epoch=data["epoch"],
            numbers=dict(data["numbers"]),
            forecast_s=None if data["forecast_s"] is None else float(data["forecast_s"]),
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).utcoffset() is not None
    except ValueError:
        return False


def _is_finite(value: Any) -> bool:
    """No NaN or infinity at any depth: neither survives JSON."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_finite(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, float) or isfinite(value)


_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "action": lambda value: value in {action.value for action in Action},
    "reason": lambda value: isinstance(value, str) and bool(value),
    "at": _is_time,
    "stage": _is_whole,
    "epoch": _is_whole,
    "numbers": lambda value: isinstance(value, Mapping) and _is_finite(value),
    "forecast_s": lambda value: value is None or (isinstance(value, int | float) and _is_finite(value)),
}
