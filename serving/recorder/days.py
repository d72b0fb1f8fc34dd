"""One service's recording: a reservoir for each UTC day, and its file.

Problem: what was recorded must survive a restart, must not grow, and must be gone when its time is over. Invariants: a
day has one reservoir and one file, `<out>/<service>/<day>.parquet`, which holds what was last seen on that day and is
replaced as a whole; a file of a day more than `retention_days` ago is deleted at the next write; no more than two days
are in memory (yesterday's until it is written).

Memory: two days x 6 x per_stratum samples, besides two tables of counts (sluice.reservoir.TABLE).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from artifacts.recordings import Recording, read_recording, recording_of, write_recording
from sluice.contents import content_of, length_of
from sluice.model_inputs import Sample
from sluice.reservoir import Reservoir
from sluice.spec import ReleaseSpec

DAYS_HELD: Final = 2
_DAY_FILE: Final = re.compile(r"(\d{4}-\d{2}-\d{2})\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A day's recording as it stood at one moment, to be written by a thread."""

    day: date
    recording: Recording


class Days:
    """Used by one thread, but for `write` and `clean`, which touch files only."""

    def __init__(self, spec: ReleaseSpec, out: Path, salt: str) -> None:
        """spec.recording must be there."""
        assert spec.recording is not None  # noqa: S101 - app.py refuses a spec without it
        self.service, self.inputs, self.folder = spec.service, spec.model.inputs, out / spec.service
        self._axes, self._rules, self._salt = spec.model.axes, spec.recording, salt
        self._days: dict[date, Reservoir[Sample]] = {}
        self._written: dict[date, int] = {}  # how much was seen of what is in the file

    def take(self, samples: Iterable[Sample], day: date) -> int:
        """Count and perhaps keep each; return how many they were."""
        reservoir, taken = self._of(day), 0
        for sample in samples:
            content = content_of(sample, self.inputs, self._salt)
            reservoir.offer(content, length_of(sample, self.inputs), day, sample)
            taken += 1
        return taken

    def set_aside(self, day: date) -> Path:
        """Rename that day's file so that no reader takes it, and the day begins anew; where it lies now."""
        path = self._path(day)
        aside = path.with_name(f".{path.name}.unreadable")
        path.replace(aside)
        return aside

    def resume(self, day: date) -> int:
        """Read that day's file back; return its rows, 0 without one. Raises RecordingError."""
        path = self._path(day)
        if not path.exists():
            return 0
        found = read_recording(
            str(path),
            self.inputs,
            self._axes,
            service=self.service,
            salt=self._salt,
            lengths=self._rules.lengths,
        )
        rows = [row.as_seen for row in found.rows]
        self._of(day).restore(rows, strata=found.strata, histogram=found.lengths)
        self._written[day] = found.seen
        return len(found.rows)

    def drafts(self) -> list[Draft]:
        """What is to be written now, oldest day first: each day of which more was seen than was written."""
        return [
            Draft(day=day, recording=recording_of(held, self.service, self._rules.per_stratum))
            for day, held in sorted(self._days.items())
            if held.seen != self._written.get(day, 0)
        ]

    def write(self, draft: Draft) -> Path:
        """Replace the day's file. Raises OSError."""
        path = self._path(draft.day)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_recording(draft.recording, self.inputs, path)
        return path

    def clean(self, today: date) -> list[Path]:
        """Delete the files whose days are over `retention_days` ago; return them. Raises OSError."""
        gone = []
        for path in self.folder.glob("*.parquet"):
            day = _day_of(path)
            if day is not None and day < today - timedelta(days=self._rules.retention_days):
                path.unlink(missing_ok=True)
                gone.append(path)
        return gone

    def wrote(self, draft: Draft, today: date) -> None:
        """Its file is there; the samples of a day that is over leave memory."""
        self._written[draft.day] = draft.recording.seen
        held = self._days.get(draft.day)
        if draft.day < today and held is not None and held.seen == draft.recording.seen:
            self._drop(draft.day)

    def _drop(self, day: date) -> None:
        self._days.pop(day, None)
        self._written.pop(day, None)

    def _of(self, day: date) -> Reservoir[Sample]:
        if day not in self._days:
            self._days[day] = Reservoir(self.service, self._rules.per_stratum, self._rules.lengths)
            while len(self._days) > DAYS_HELD:  # the disk has refused it for a day: what is new comes first
                self._drop(min(self._days))
        return self._days[day]

    def _path(self, day: date) -> Path:
        return self.folder / f"{day.isoformat()}.parquet"


def _day_of(path: Path) -> date | None:
    """None for a file that is no day's."""
    named = _DAY_FILE.fullmatch(path.name)
    try:
        return date.fromisoformat(named[1]) if named else None
    except ValueError:  # such as the thirtieth of February
        return None
