"""The open stage's page in the evidence book: plain counters, and their form in a snapshot.

Problem: the tally must survive a restart of the controller in the middle of a stage without losing a coin or
tossing one twice.
Invariant: `from_json(to_json())` restores every counter that evidence depends on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sluice.evidence import KINDS, TESTS, Baseline, Kind, Test
from sluice.hashline import HashLine
from sluice.latency import SlowLimits
from sluice.processes import NEVER, Series

Purpose = Test | Literal["watch"]  # the tests of coins, and the candidate's own rate at 100 %
PURPOSES: Final[tuple[Purpose, ...]] = (*TESTS, "watch")
MARKS: Final = {(test, kind): i for i, (test, kind) in enumerate((t, k) for t in PURPOSES for k in KINDS)}


class User:
    """What is known of one user. Stages by index, NEVER for none."""

    __slots__ = ("counted", "marks", "prev", "sampled", "stage")

    def __init__(self) -> None:
        self.stage = NEVER  # the newest stage that saw the user
        self.prev = NEVER  # the newest one before that
        self.counted = NEVER  # the newest stage that counted the user after settling
        self.sampled = NEVER  # the newest stage that has the user's first sampled request
        self.marks: list[int] | None = None  # `Series.toss` marks of the newest stage, by MARKS

    def see(self, stage: int) -> None:
        """Note that evidence used this user in this stage."""
        if self.stage != stage:
            self.prev, self.stage, self.marks = self.stage, stage, None

    def recount(self, stage: int) -> None:
        """Forget what this stage counted of the user, not that it saw them."""
        if self.stage == stage:
            self.counted, self.sampled, self.marks = NEVER, NEVER, None

    def to_json(self) -> list[Any]:
        """For a snapshot."""
        return [self.stage, self.prev, self.counted, self.sampled, self.marks]

    @classmethod
    def from_json(cls, row: list[Any]) -> "User":
        """The inverse of `to_json`."""
        user = cls()
        user.stage, user.prev, user.counted, user.sampled, user.marks = row
        return user


@dataclass(slots=True, kw_only=True)
class Page:
    """The counters of one stage. [candidate, stable] and [ok, bad] are pairs of ints."""

    stage: int
    percent: float
    line: HashLine
    opened_at_s: float
    counts_from_s: float
    limits_ms: SlowLimits | None
    baselines: tuple[Baseline, ...] = ()
    newest_at_s: float | None = None
    users: list[int] = field(default_factory=lambda: [0, 0])
    users_coin: int = 0
    sampled_users: int = 0
    requests: list[int] = field(default_factory=lambda: [0, 0])
    misrouted: int = 0
    settling_events: int = 0
    event_users: dict[Kind, list[int]] = field(default_factory=lambda: {kind: [0, 0] for kind in KINDS})
    objective: dict[Kind, list[list[int]]] = field(
        default_factory=lambda: {kind: [[0, 0], [0, 0]] for kind in KINDS}
    )  # per side
    series: dict[tuple[Purpose, Kind], Series] = field(
        default_factory=lambda: {key: Series() for key in MARKS}
    )

    def to_json(self) -> dict[str, Any]:
        """For a snapshot."""
        plain = {name: getattr(self, name) for name in (*_PLAIN, *_COUNTERS)}
        return plain | {
            "line": self.line.to_json(),
            "limits_ms": list(self.limits_ms) if self.limits_ms else None,
            "baselines": [[row.kind, row.rate] for row in self.baselines],
            "event_users": {str(kind): pair for kind, pair in self.event_users.items()},
            "objective": {str(kind): pairs for kind, pairs in self.objective.items()},
            "series": [[test, kind, series.to_json()] for (test, kind), series in self.series.items()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Page":
        """The inverse of `to_json`."""
        limits = data["limits_ms"]
        return cls(
            **{name: data[name] for name in (*_PLAIN, *_COUNTERS)},
            line=HashLine.from_json(data["line"]),
            limits_ms=(limits[0], limits[1], limits[2], limits[3]) if limits else None,
            baselines=tuple(Baseline(kind=Kind(kind), rate=rate) for kind, rate in data["baselines"]),
            event_users={Kind(kind): pair for kind, pair in data["event_users"].items()},
            objective={Kind(kind): pairs for kind, pairs in data["objective"].items()},
            series={(test, Kind(kind)): Series.from_json(rows) for test, kind, rows in data["series"]},
        )


_PLAIN: Final = ("stage", "percent", "opened_at_s", "counts_from_s", "newest_at_s", "users", "users_coin")
_COUNTERS: Final = ("sampled_users", "requests", "misrouted", "settling_events")
