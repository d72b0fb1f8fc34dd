"""One line a request, written while the load runs, read by whoever reports on it.

Invariant: a request that was sent has exactly one line, whatever became of it; a half-written last line is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request. Times are seconds since the epoch, just before the first byte and after the last one."""

    sent_at_s: float
    ended_at_s: float
    uid: str
    version: str  # of the answer's x-sluice-version; empty when no answer came
    status: int  # HTTP status; 0 when no answer came
    tokens: int  # length of the text

    @property
    def failed(self) -> bool:
        return not 200 <= self.status < 400

    def to_line(self) -> str:
        row = (self.sent_at_s, self.ended_at_s, self.uid, self.version, self.status, self.tokens)
        return json.dumps(row, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Sent:
        sent, ended, uid, version, status, tokens = json.loads(line)
        return cls(sent_at_s=sent, ended_at_s=ended, uid=uid, version=version, status=status, tokens=tokens)


def read(path: Path) -> Iterator[Sent]:
    """All whole lines of the journal, in the order in which the answers came."""
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                yield Sent.from_line(line)
