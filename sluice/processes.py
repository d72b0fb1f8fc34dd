"""The coin processes of one kind and one test within one stage: who has been tossed, and the counts.

Problem: counted once per stage, busy users soon have all had an event, and a fault that starts late is then
invisible. So new processes start within the stage ("epochs"), each counting a user's first event since its own
start.

Invariants: a process starts right after the event that makes a twentieth of the active users (at least
EPOCH_MIN_USERS) users of the newest one, whichever sides they are on, so under the null its start is fixed
before any of its coins is tossed; a user is tossed at most once per process; at most LIVE_PROCESSES count at a
time (the first, and the newest ones), and which ones retire depends on their number alone.
"""

from collections.abc import Mapping
from typing import Any, Final

CoinKey = tuple[
    str, int
]  # stratum, last earlier stage that saw the user (-1: none): together they fix the bias

EPOCH_SHARE: Final = 0.05  # of the active users: a late fault meets a process that lost little before it
EPOCH_MIN_USERS: Final = 20  # below it an epoch would end on single events and use alpha up
LIVE_PROCESSES: Final = 8
NEVER: Final = -1


class Series:
    """All processes of one kind and test in one stage, numbered from 0 within the stage."""

    __slots__ = ("counts", "fresh", "live", "newest")

    def __init__(self) -> None:
        self.newest = 0
        self.live: list[int] = [0]
        self.fresh = 0  # users that had an event since the newest process started
        self.counts: dict[tuple[int, CoinKey], list[int]] = {}  # to [heads, tails]

    def toss(self, last: int, key: CoinKey | None, *, heads: bool, active: int) -> int:
        """Count one event in every live process in which this user had none; returns the user's new mark.

        last: the mark from the user's event before, NEVER for none. key: None when the user is no coin (the
        event still counts as activity). active: users seen in the stage so far.
        """
        newest = self.newest
        if last >= newest:
            return last
        if key is not None:
            for process in self.live:
                if process > last:
                    self.counts.setdefault((process, key), [0, 0])[0 if heads else 1] += 1
        self.fresh += 1
        if self.fresh >= max(EPOCH_MIN_USERS, EPOCH_SHARE * active):
            self._start_another()
        return newest

    def to_json(self) -> dict[str, Any]:
        """For a snapshot."""
        rows = [[process, *key, *pair] for (process, key), pair in self.counts.items()]
        return {"newest": self.newest, "live": self.live, "fresh": self.fresh, "counts": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Series":
        """The inverse of `to_json`."""
        series = cls()
        series.newest, series.fresh = int(data["newest"]), int(data["fresh"])
        series.live = [int(process) for process in data["live"]]
        series.counts = {
            (int(process), (str(stratum), int(seen))): [int(heads), int(tails)]
            for process, stratum, seen, heads, tails in data["counts"]
        }
        return series

    def _start_another(self) -> None:
        self.newest += 1
        self.fresh = 0
        self.live.append(self.newest)
        if len(self.live) > LIVE_PROCESSES:
            retired = self.live.pop(1)
            self.counts = {key: pair for key, pair in self.counts.items() if key[0] != retired}
