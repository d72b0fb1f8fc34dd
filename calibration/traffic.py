"""Recorded traffic as a dataset takes it: recent, each input once whatever its hash, strata that agree with the rows.

Problem: recordings are files that others write: of a recorder that died last year, of two recorders with two salts, of
days that were merged. Invariants: no row is older than the spec's retention, and none at all is an error, since a
recorder that is gone looks like traffic that does not change; two rows of one input become one; requests are counted
under a stratum of which something was kept.
"""

from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from artifacts.recordings import Recorded, Recording, RecordingError, read_recording
from artifacts.store import Store
from sluice.contents import content_of
from sluice.errors import FatalError
from sluice.reservoir import FREQUENT, RARE
from sluice.spec import Recording as Rules
from sluice.spec import ReleaseSpec


def source_of(store: Store, spec: ReleaseSpec) -> str:
    """Where the recordings are: a URI or an absolute path as the spec has it, any other path within the store.

    Raises FatalError for a spec that names none.
    """
    source = _rules(spec).source
    if source is None:
        raise FatalError(
            f"recording.source of {spec.service} is not set",
            "name the recorder's folder, a file, or an object store's URI in the spec",
        )
    if "://" in source or Path(source).is_absolute():
        return source
    return str(store.root / source)


def recorded(store: Store, spec: ReleaseSpec, today: date) -> Recording:
    """What was recorded of the service and is not older than the spec's retention. Raises the readers' errors."""
    source, rules = source_of(store, spec), _rules(spec)
    found = read_recording(
        source,
        spec.model.inputs,
        spec.model.axes,
        service=spec.service,
        salt=spec.service,  # of foreign logs alone: ours bring their hashes along
        lengths=rules.lengths,
        per_stratum=rules.per_stratum,
    )
    rows = _recent(found, source, today, rules.retention_days)
    return _settled(replace(found, rows=_by_value(rows, spec)))


def _rules(spec: ReleaseSpec) -> Rules:
    return spec.recording or Rules()


def _recent(recording: Recording, source: str, today: date, days: int) -> tuple[Recorded, ...]:
    """Raises RecordingError where every row is older than `days`."""
    since = today - timedelta(days=days)
    kept = tuple(row for row in recording.rows if row.last_seen >= since)
    if not kept:
        newest = max(row.last_seen for row in recording.rows)
        raise RecordingError(
            source,
            "",
            f"its newest input was seen on {newest}, more than recording.retention_days ({days}) ago",
            "look whether the recorder still runs and the gateways still copy to it",
        )
    return kept


def _by_value(rows: tuple[Recorded, ...], spec: ReleaseSpec) -> tuple[Recorded, ...]:
    """Each input once, under a hash of its values that no recorder's salt is in."""
    found: dict[str, Recorded] = {}
    for row in rows:
        content = content_of(row.sample, spec.model.inputs, spec.service)
        other = found.get(content)
        if other is None:
            found[content] = replace(row, content=content)
        else:
            often = FREQUENT if FREQUENT in row.stratum + other.stratum else RARE
            found[content] = replace(
                other,
                stratum=f"{other.stratum.split('-')[0]}-{often}",
                count=row.count + other.count,
                first_seen=min(row.first_seen, other.first_seen),
                last_seen=max(row.last_seen, other.last_seen),
            )
    return tuple(found.values())


def _settled(recording: Recording) -> Recording:
    """Requests of a stratum without rows belong to the other one of their length class, where that has some.

    Files that are merged, and a table that forgets, leave requests counted as rare whose contents are frequent.
    """
    kept = Counter(row.stratum for row in recording.rows)
    strata: Counter[str] = Counter()
    for stratum, requests in recording.strata.items():
        name, _, often = stratum.partition("-")
        other = f"{name}-{RARE if often == FREQUENT else FREQUENT}"
        strata[other if not kept[stratum] and kept[other] else stratum] += requests
    return replace(recording, strata=dict(sorted(strata.items())))
