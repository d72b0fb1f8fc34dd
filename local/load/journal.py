"""One line a request, written while the load runs, read by whoever reports on it.

Invariant: a request that was sent has exactly one line, whatever became of it; a half-written last line is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request. Times are seconds since the epoch, just before the first byte and after the last one.

    upstream_ms: how long the version had it, as the gateway's header says; 0 when it says nothing.
    """

    sent_at_s: float
    ended_at_s: float
    uid: str
    version: str  # of the answer's x-sluice-version; empty when no answer came
    status: int  # HTTP status; 0 when no answer came
    tokens: int  # length of the text
    upstream_ms: int = 0

    @property
    def routed_by_s(self) -> float:
        """The latest moment at which the gateway can have given the request to its version."""
        return self.ended_at_s - self.upstream_ms / 1000

    @property
    def failed(self) -> bool:
        return not 200 <= self.status < 400

    def to_line(self) -> str:
        return json.dumps(astuple(self), separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Sent:
        return cls(**dict(zip(_FIELDS, json.loads(line), strict=True)))


_FIELDS: Final = tuple(field.name for field in fields(Sent))


def read(path: Path) -> Iterator[Sent]:
    """All whole lines of the journal, in the order in which the answers came."""
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                yield Sent.from_line(line)
