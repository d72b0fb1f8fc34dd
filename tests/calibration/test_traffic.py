"""Recorded traffic as a dataset takes it: what others wrote, under other hashes, long ago."""

from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.recordings import Recorded, Recording, RecordingError, recording_of, write_recording
from artifacts.store import Store
from calibration.dataset import divided
from calibration.dataset_checks import CALIBRATE, HELD_OUT
from calibration.traffic import recorded, source_of
from sluice.contents import content_of
from sluice.reservoir import Reservoir
from sluice.spec import ReleaseSpec
from tests.calibration.recorded import PARTS, RECORDING
from tests.sluice.specs import parse

TODAY = date(2026, 11, 25)
INPUTS = [{"name": "x", "dtype": "float32", "dims": ["batch", "rows", 8]}]


def spec_of(**recording: Any) -> ReleaseSpec:
    axes = {
        "batch": {"min": 1, "opt": 1, "max": 4, "buckets": [1]},
        "rows": {"min": 1, "opt": 4, "max": 9, "buckets": [4]},
    }
    model = {"source": "/s", "inputs": INPUTS, "outputs": [{**INPUTS[0], "name": "y"}], "axes": axes}
    return parse({**PARTS, "model": model, "recording": {**RECORDING, **recording}})


def sample(number: int, rows: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.full((rows, 8), number, np.float32)}


def write(
    store: Store, name: str, day: date, numbers: list[int], *, salt: str = "one", times: int = 1
) -> None:
    """A day's file as a recorder with this salt leaves it."""
    spec = spec_of()
    reservoir: Reservoir[Any] = Reservoir(spec.service, 1000, (3, 5))
    for number in numbers * times:
        one = sample(number)
        reservoir.offer(content_of(one, spec.model.inputs, salt), 2, day, one)
    folder = store.root / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    write_recording(
        recording_of(reservoir, spec.service, 1000), spec.model.inputs, folder / f"{name}.parquet"
    )


def test_a_recorder_that_died_is_not_traffic_that_does_not_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, "old", TODAY - timedelta(days=31), [1, 2, 3])
    with pytest.raises(RecordingError, match=r"newest input was seen on 2026-10-25, more than .* \(30\) ago"):
        recorded(store, spec_of(), TODAY)


def test_what_is_older_than_the_retention_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, "old", TODAY - timedelta(days=31), [1, 2, 3])
    write(store, "new", TODAY - timedelta(days=30), [3, 4])
    assert sorted(int(row.sample["x"][0, 0]) for row in recorded(store, spec_of(), TODAY).rows) == [3, 4]


def test_one_input_under_two_salts_is_one_row_and_in_one_part(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), spec_of()
    write(store, "one", TODAY, list(range(40)), salt="one")
    write(store, "two", TODAY, list(range(40)), salt="two")
    found = recorded(store, spec, TODAY)
    assert len(found.rows) == 40
    assert {row.count for row in found.rows} == {2}
    parts = divided(found, spec)
    values = {name: {float(row.sample["x"][0, 0]) for row in rows} for name, rows in parts.items()}
    assert not values[CALIBRATE] & values[HELD_OUT]


def test_requests_whose_contents_turned_frequent_over_days_are_counted_with_them(tmp_path: Path) -> None:
    """Four days, each input once a day: rare in every file, frequent in all of them together."""
    store, spec = Store(tmp_path), spec_of()
    for back in range(4):
        write(store, f"day-{back}", TODAY - timedelta(days=back), list(range(40)))
    found = recorded(store, spec, TODAY)
    kept = Counter(row.stratum for row in found.rows)
    assert set(found.strata) <= set(kept)
    assert sum(found.strata.values()) == found.seen == 160
    assert len(divided(found, spec)[CALIBRATE]) == 20


def test_a_stratum_without_rows_whose_class_has_none_stays_and_is_an_error_later() -> None:
    row = Recorded(
        content="a",
        length=2,
        stratum="short-rare",
        count=1,
        first_seen=TODAY,
        last_seen=TODAY,
        sample=sample(1),
    )
    from calibration.traffic import _settled

    recording = Recording(
        service="s", seen=9, strata={"short-frequent": 4, "long-rare": 5}, lengths={}, rows=(row,)
    )
    assert _settled(recording).strata == {"long-rare": 5, "short-rare": 4}
    assert _settled(replace(recording, rows=())).strata == recording.strata


def test_as_many_of_each_stratum_are_read_as_the_spec_says(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, first in (("one", 0), ("two", 600)):
        write(store, name, TODAY, list(range(first, first + 600)))
    assert len(recorded(store, spec_of(), TODAY).rows) == 1000
    assert len(recorded(store, spec_of(per_stratum=1200), TODAY).rows) == 1200


@pytest.mark.parametrize(
    ("source", "wanted"),
    [("s3://bucket/x", "s3://bucket/x"), ("/abs/x", "/abs/x"), ("recordings/x", "{store}/recordings/x")],
)
def test_a_relative_source_lies_in_the_store(tmp_path: Path, source: str, wanted: str) -> None:
    assert source_of(Store(tmp_path), spec_of(source=source)) == wanted.format(store=tmp_path)
