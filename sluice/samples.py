"""Metric samples, read strictly.

Problem: an empty answer of Prometheus, a doubled series or NaN must not turn into a number.
Invariant: every read names what it wants and raises ValueError or KeyError, with the metric in it, when that
is not there exactly once and finite.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

Sample = tuple[str, Mapping[str, str], float]  # metric name, labels, value

OWN_LABELS = ("service", "rollout", "stage")


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a metric; the value is finite."""

    name: str
    labels: Mapping[str, str]
    value: float

    @property
    def count(self) -> int:
        """The value as a number of things, 0 or more."""
        if self.value < 0 or self.value != int(self.value):
            raise ValueError(f"{self.name} {dict(self.labels)} is {self.value!r}, not a count")
        return int(self.value)

    @property
    def flag(self) -> bool:
        """The value as 0 or 1."""
        if self.value not in (0, 1):
            raise ValueError(f"{self.name} is {self.value!r}, not 0 or 1")
        return self.value == 1


class SampleReader:
    """The samples of one stage of one rollout, by metric name."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        """Raises ValueError when there are none, or they are of several stages."""
        self._rows: dict[str, list[Row]] = {}
        owners: set[tuple[str, ...]] = set()
        for name, labels, value in samples:
            if not name.startswith("sluice_") or any(own not in labels for own in OWN_LABELS):
                continue
            owners.add(tuple(labels[own] for own in OWN_LABELS))
            self._rows.setdefault(name, []).append(Row(name, labels, float(value)))
        if len(owners) != 1:
            found = sorted("/".join(owner) for owner in owners) or "nothing"
            raise ValueError(f"wanted the samples of one service, rollout and stage, found {found}")

    def all(self, name: str) -> list[Row]:
        """Every row of a metric, none twice and each finite; an empty list when there is none."""
        rows = self._rows.get(name, [])
        seen: set[tuple[tuple[str, str], ...]] = set()
        for row in rows:
            key = tuple(sorted(row.labels.items()))
            if key in seen:
                raise ValueError(f"{name} {dict(row.labels)} comes twice")
            seen.add(key)
            if not isfinite(row.value):
                raise ValueError(f"{name} {dict(row.labels)} is {row.value!r}")
        return rows

    def maybe(self, name: str, **labels: str) -> Row | None:
        """The one row with these labels, or None; raises ValueError when there are several."""
        rows = [row for row in self.all(name) if all(row.labels.get(k) == v for k, v in labels.items())]
        if len(rows) > 1:
            raise ValueError(f"{name} {labels} has {len(rows)} rows, wanted one")
        return rows[0] if rows else None

    def only(self, name: str, **labels: str) -> Row:
        """The one row with these labels; raises ValueError when it is missing."""
        row = self.maybe(name, **labels)
        if row is None:
            raise ValueError(f"{name} {labels or ''} is missing")
        return row
