"""What was recorded of a service's traffic, and what can be wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from sluice.errors import FatalError
from sluice.model_inputs import Sample
from sluice.reservoir import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One distinct input. Days are UTC and no finer: a time of day would tell people apart."""

    content: str  # 16 hex digits: salted hash of the inputs' values
    length: int  # the largest size among the dynamic axes but the batch; 0 where there is none
    stratum: str  # one of sluice.reservoir.STRATA, such as short-rare
    count: int  # how often it was seen, 1 or more
    first_seen: date
    last_seen: date
    sample: Sample = field(compare=False)  # arrays have no single equality

    @property
    def as_seen(self) -> Seen[Sample]:
        """As a reservoir takes it."""
        return Seen(
            content=self.content,
            length=self.length,
            count=self.count,
            first=self.first_seen,
            last=self.last_seen,
            payload=self.sample,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Some of a service's traffic. A request of several rows counts once for each row: a row is one sample.

    seen: before sampling. strata, lengths: how many of those were of each; both sum to `seen`. A length of 1 024 or
    more is counted under sluice.reservoir.histogram_length.
    per_stratum: of each stratum at most so many were kept, those of the smallest sluice.reservoir.priority under the
    service's name as salt; None when that is not known.
    """

    service: str
    seen: int
    strata: Mapping[str, int]
    lengths: Mapping[int, int]
    rows: tuple[Recorded, ...]
    per_stratum: int | None = None


class RecordingError(FatalError):
    """Recorded traffic that cannot be used: file or URI, the place in it, what is wrong there, what to do."""

    def __init__(self, source: str, where: str, problem: str, fix: str) -> None:
        super().__init__(source, where, problem, fix)
        self.source, self.where, self.problem, self.fix = source, where, problem, fix

    @property
    def message(self) -> str:
        place = f", {self.where}" if self.where else ""
        return f"recording {self.source}{place}: {self.problem}"

    @property
    def next_step(self) -> str:
        return self.fix
