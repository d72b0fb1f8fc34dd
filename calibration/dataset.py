"""From recordings to the dataset of one calibration: which inputs, in which part, and whether they may be used.

Problem: a calibration is as good as its samples, and nobody looks at those. Invariants: a dataset is published with
its verdict and its Data Docs whether it passed or not, so that it can be looked at; one that did not pass stops its run
each time, with the rows to blame; the first lines of its file calibrate and the rest never does.
"""

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Final

from artifacts.calibrations import Calibrations
from artifacts.recordings import Recorded, Recording
from artifacts.samples import SAMPLES_FILE, raise_if_failed
from artifacts.store import Artifact, Store
from calibration.dataset_checks import CALIBRATE, HELD_OUT, judged
from calibration.traffic import recorded, source_of
from sluice.errors import FatalError
from sluice.model_inputs import Sample
from sluice.release import Release, dataset_rules
from sluice.sample_split import split
from sluice.spec import ReleaseSpec

LEAST: Final = 8  # of each stratum in either part, where so many were recorded
REPORT_FILE: Final = "report.json"


def gather_release(store: Store, release: Release) -> Artifact:
    """Publish the release's `dataset`, or read it again. Raises DatasetError, SplitError, the readers' errors."""
    if release.calibrated_on is None:
        raise FatalError("the release names no dataset", "run the DAG that calibrates: it names one")
    key = release.calibrated_on.dataset
    dataset = store.get("dataset", key) if store.has("dataset", key) else _published(store, release, key)
    raise_if_failed(dataset)
    return dataset


def _published(store: Store, release: Release, key: str) -> Artifact:
    spec, today = release.spec, datetime.now(UTC).date()
    recording = recorded(store, spec, today)
    parts = divided(recording, spec)
    with store.staged("dataset", key) as draft:
        lines = [json_line(row.sample) for rows in parts.values() for row in rows]
        (draft.path / SAMPLES_FILE).write_text("".join(lines), encoding="utf-8")
        verdict = judged(parts, recording, spec, docs=draft.path / "docs")
        report = {
            "schema": 1,
            "service": recording.service,
            "source": source_of(store, spec),
            "gathered": today.isoformat(),
            "seen": recording.seen,
            "different": len(recording.rows),
            "parts": {name: len(rows) for name, rows in parts.items()},
            **verdict,
        }
        (draft.path / REPORT_FILE).write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")
        return draft.publish(
            {
                "passed": verdict["passed"],
                "why": verdict["why"],
                "seen": recording.seen,
                "service": spec.service,
                "gathered": today.isoformat(),
                "rules": dataset_rules(spec),
            }
        )


def forget_old(store: Store, spec: ReleaseSpec) -> list[str]:
    """Remove this service's datasets that are older than its recordings may be; the keys."""
    if spec.recording is None:
        return []
    before = datetime.now(UTC).date() - timedelta(days=spec.recording.retention_days)
    return Calibrations(store).forget(spec.service, before)


def divided(recording: Recording, spec: ReleaseSpec) -> dict[str, list[Recorded]]:
    """{part: its rows}. Raises SplitError."""
    contents: dict[str, list[str]] = defaultdict(list)
    for row in recording.rows:
        contents[row.stratum].append(row.content)
    parts = split(
        contents,
        recording.strata,
        calibrate=spec.calibration.samples,
        held_out=spec.numerics.samples,
        least=LEAST,
    )
    rows = {row.content: row for row in recording.rows}
    return {
        CALIBRATE: [rows[content] for content in parts.calibrate],
        HELD_OUT: [rows[content] for content in parts.held_out],
    }


def json_line(sample: Sample) -> str:
    """As a line of the file that `sluice.model_inputs` reads."""
    return json.dumps({name: array.tolist() for name, array in sample.items()}, allow_nan=False) + "\n"
