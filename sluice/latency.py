"""Stable's recent latencies, the slow limits made from them, and live figures per version for people.

Problem: "slow" must mean slower than stable is, with limits that do not move while a stage is open.
Invariants: limits come from sampled requests that stable served in the last 15 minutes, at least MIN_LATENCIES
of them, else there are none; live figures never enter a verdict.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, TypedDict

from sluice.entry import Entry

WINDOW_S: Final = 900.0
MIN_LATENCIES: Final = 200  # below it the p99 is two requests
PER_SECOND: Final = 20  # kept at most: 18 000 in the window, sorted in 2 ms
LIVE_WINDOW_S: Final = 10.0
LIVE_ENTRIES: Final = 5_000  # per version; 200 sampled requests a second for 10 s, twice over

SlowLimits = tuple[float, float, float, float]  # p95, p99, 1.25 x p99, 1.5 x p99, milliseconds


class Latencies:
    """A window over sampled durations, at most PER_SECOND of each second."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, float]] = deque()
        self._second = 0
        self._in_second = 0

    def add(self, at_s: float, duration_ms: float) -> None:
        """Keep one duration, unless its second has enough."""
        second = int(at_s)
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        if self._in_second <= PER_SECOND:
            self._kept.append((at_s, duration_ms))

    def limits(self, now_s: float) -> SlowLimits | None:
        """The limits as of now, or None with fewer than MIN_LATENCIES durations in the window."""
        while self._kept and self._kept[0][0] < now_s - WINDOW_S:
            self._kept.popleft()
        if len(self._kept) < MIN_LATENCIES:
            return None
        ordered = sorted(duration for _, duration in self._kept)
        p95, p99 = quantile(ordered, 0.95), quantile(ordered, 0.99)
        return p95, p99, 1.25 * p99, 1.5 * p99


class LiveFigures(TypedDict):
    """One version now: rps and quantiles over the last 10 s; events and requests since the stage opened."""

    rps: float
    events: int
    p50_ms: float | None
    p99_ms: float | None
    users: int
    requests: int


class Live:
    """What a version does now, from both logs."""

    __slots__ = ("events", "recent", "requests")

    def __init__(self) -> None:
        self.recent: deque[tuple[float, float | None]] = deque(maxlen=LIVE_ENTRIES)
        self.events = 0
        self.requests = 0

    def add(self, entry: Entry) -> None:
        """Take one entry of either log."""
        if entry.event_log:
            self.events += 1
            return
        self.requests += 1
        self.recent.append((entry.at_s, entry.duration_ms))

    def figures(self, now_s: float, *, users: int, sample_fraction: float) -> LiveFigures:
        """The figures; rps is scaled up by the sampled share of requests, quantiles are None without any."""
        recent = [duration for at_s, duration in self.recent if at_s > now_s - LIVE_WINDOW_S]
        durations = sorted(duration for duration in recent if duration is not None)
        return LiveFigures(
            rps=len(recent) / LIVE_WINDOW_S / sample_fraction,
            events=self.events,
            p50_ms=quantile(durations, 0.5) if durations else None,
            p99_ms=quantile(durations, 0.99) if durations else None,
            users=users,
            requests=self.requests,
        )


def quantile(ordered: list[float], share: float) -> float:
    """The least of the ordered values that at least `share` of them do not exceed; not empty."""
    rank = -(-len(ordered) * share // 1)  # ceil
    return ordered[max(int(rank), 1) - 1]


class RecentIds:
    """Whether a request id was seen lately: two generations of at most `size` ids each."""

    __slots__ = ("_new", "_old", "_size")

    def __init__(self, size: int = 50_000, ids: Iterable[str] = ()) -> None:
        self._size = size
        self._new: set[str] = set(ids)
        self._old: set[str] = set()

    def seen(self, request_id: str) -> bool:
        """True when this id came before; an empty id never did."""
        if not request_id:
            return False
        if request_id in self._new or request_id in self._old:
            return True
        self._new.add(request_id)
        if len(self._new) >= self._size:
            self._old, self._new = self._new, set()
        return False
