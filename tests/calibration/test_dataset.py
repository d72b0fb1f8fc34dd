"""A dataset from recorded traffic: both parts, Great Expectations' verdict, and what a bad one says.

The recordings are real files, the checks are the real Great Expectations.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.recordings import RecordingError
from artifacts.samples import SAMPLES_FILE, DatasetError, samples_file
from calibration.__main__ import main
from calibration.dataset import divided, gather_release
from calibration.dataset_checks import CALIBRATE, HELD_OUT, judged, length_partition, strata_rows
from calibration.samples import calibration_samples
from calibration.traffic import recorded
from sluice.errors import FatalError
from sluice.release import CalibratedOn
from sluice.sample_split import SplitError
from tests.build_images.support import released, write_checkpoint
from tests.calibration.recorded import DATASET, PARTS, RECORDING, rows, town, write_log


def report_of(store: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store.path("dataset", DATASET) / "report.json").read_text())
    return found


def today() -> date:
    return datetime.now(UTC).date()


def bytes_of(sample: Any) -> bytes:
    return np.asarray(sample["x"], np.float32).tobytes()


def test_the_first_lines_calibrate_and_no_later_line_is_one_of_them(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(200))
    dataset = gather_release(store, release)
    lines = (dataset.path / SAMPLES_FILE).read_text().splitlines()
    assert len(lines) == len(set(lines)) == 32
    assert {bytes_of(json.loads(line)) for line in lines} <= {bytes_of(one) for one in rows(200)}
    file = samples_file(store, release)
    assert file == dataset.path / SAMPLES_FILE
    assert len(calibration_samples(file, release.spec)) == 20
    assert report_of(store)["parts"] == {CALIBRATE: 20, HELD_OUT: 12}
    assert report_of(store)["seen"] == 200


def test_what_was_gathered_once_is_read_again_whatever_was_recorded_since(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(200))
    before = (gather_release(store, release).path / SAMPLES_FILE).read_bytes()
    write_log(store, rows(300, seed=9))
    assert (gather_release(store, release).path / SAMPLES_FILE).read_bytes() == before


def test_the_data_docs_of_both_tables_are_kept(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(200))
    docs = gather_release(store, release).path / "docs"
    for table in ("rows", "strata"):
        assert "Data Docs" in (docs / table / "index.html").read_text(encoding="utf-8")


def test_values_out_of_range_stop_the_run_with_the_rows_to_blame_and_keep_the_docs(tmp_path: Path) -> None:
    samples = rows(32)
    samples[7]["x"][0][0] = 99.0
    limits = {"calibration": {**PARTS["calibration"], "values": [-10.0, 10.0]}}
    store, release = town(tmp_path, samples, **limits)
    for _ in range(2):  # published with its verdict: the next try says the same
        with pytest.raises(
            DatasetError, match=r"expect_column_values_to_be_between\(most\): part=\w+ stratum="
        ) as caught:
            gather_release(store, release)
    assert caught.value.next_step.startswith("see docs/index.html")
    assert (store.path("dataset", DATASET) / "docs" / "rows" / "index.html").is_file()
    with pytest.raises(DatasetError):
        samples_file(store, release)
    assert main(["gather", "--store", str(store.root), "--release", release.document_sha256]) == 3


def test_lengths_far_from_the_traffics_own_stop_the_run(tmp_path: Path) -> None:
    """A hundred thousand requests for one short text: what is left of it is one sample of 32."""
    busy = rows(1, seed=5, lengths=(2,)) * 2000
    store, release = town(tmp_path, busy + rows(32, lengths=(6,)))
    with pytest.raises(DatasetError, match="kl_divergence"):
        gather_release(store, release)


def test_one_text_that_is_sent_all_the_time_is_no_reason_to_stop(tmp_path: Path) -> None:
    """A probe's: a stratum of one input, which calibrates. Lengths weigh requests, so it has a common one."""
    probe = rows(1, seed=5, lengths=(4,)) * 60
    store, release = town(tmp_path, probe + rows(200))
    dataset = gather_release(store, release)
    strata = {(row["part"], row["stratum"]): row for row in report_of(store)["strata"]}
    assert dataset.facts["passed"] is True
    assert strata[CALIBRATE, "medium-frequent"]["rows"] == 1
    assert strata[HELD_OUT, "medium-frequent"]["rows"] == strata[HELD_OUT, "medium-frequent"]["wanted"] == 0


def test_a_leak_and_a_duplicate_are_blamed_by_content(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(200))
    recording = recorded(store, release.spec, today())
    parts = divided(recording, release.spec)
    leaked = parts[CALIBRATE][0]
    broken = {CALIBRATE: parts[CALIBRATE], HELD_OUT: [leaked, *parts[HELD_OUT][1:]]}
    found = judged(broken, recording, release.spec, docs=tmp_path / "docs")
    assert not found["passed"]
    assert f"expect_column_values_to_be_unique(content): part={CALIBRATE}" in found["why"]


def test_a_stratum_without_rows_fails_by_name(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(200))
    recording = recorded(store, release.spec, today())
    parts = divided(recording, release.spec)
    broken = {part: [one for one in ones if one.stratum != "long-rare"] for part, ones in parts.items()}
    found = judged(broken, recording, release.spec, docs=tmp_path / "docs")
    assert "strata: " in found["why"]
    assert "long-rare" in found["why"]
    assert "expect_table_row_count_to_equal" in found["why"]


def test_nothing_at_all_fails(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(200))
    recording = recorded(store, release.spec, today())
    found = judged({CALIBRATE: [], HELD_OUT: []}, recording, release.spec, docs=tmp_path / "docs")
    assert not found["passed"]


def test_too_few_inputs_are_an_error_before_anything_is_published(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(20))
    with pytest.raises(
        SplitError, match=r"calibration\.samples asks for 20.*20 different inputs were recorded"
    ):
        gather_release(store, release)
    assert not store.has("dataset", DATASET)


def test_nothing_recorded_names_the_source(tmp_path: Path) -> None:
    store, release = town(tmp_path, None)
    with pytest.raises(RecordingError, match="recordings"):
        gather_release(store, release)


def test_a_spec_without_a_source_says_which_field(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(200), recording={**RECORDING, "source": None})
    with pytest.raises(FatalError, match=r"recording\.source of tiny is not set"):
        gather_release(store, release)


def test_a_release_without_a_dataset_calibrates_on_the_checkpoints_samples(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "ckpt", "")
    store, release = released(tmp_path / "store", checkpoint)
    assert samples_file(store, release).read_text() == (checkpoint / "samples.jsonl").read_text()
    with pytest.raises(FatalError, match="names no dataset"):
        gather_release(store, release)


def test_a_dataset_that_was_never_gathered_is_no_fallback_to_the_checkpoint(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(200))
    assert release.calibrated_on == CalibratedOn(dataset=DATASET)
    with pytest.raises(FatalError, match="dddddddddddd"):
        samples_file(store, release)


@pytest.mark.parametrize(
    ("lengths", "bins", "weights"),
    [
        ({5: 10}, [4.5, 5.5], [1.0]),
        ({1: 5, 2: 5, 9: 10}, [0.5, 1.5, 2.5, 9.5], [0.25, 0.25, 0.5]),
    ],
)
def test_length_bins_hold_all_requests(
    lengths: dict[int, int], bins: Sequence[float], weights: Sequence[float]
) -> None:
    found = length_partition(lengths)
    assert (found["bins"], found["weights"]) == (bins, weights)


def test_length_bins_are_few_and_about_even() -> None:
    found = length_partition(dict.fromkeys(range(1, 513), 3))
    assert len(found["weights"]) == 8
    assert sum(found["weights"]) == pytest.approx(1.0)
    assert max(found["weights"]) < 0.13
    with pytest.raises(ValueError, match="no request"):
        length_partition({})


def test_strata_of_less_than_a_percent_are_not_asked_for(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(200))
    recording = recorded(store, release.spec, today())
    table = strata_rows(divided(recording, release.spec), recording)
    assert {row["wanted"] for row in table} == {1}
    assert sum(row["share"] for row in table) == pytest.approx(2.0)  # once for each part


def test_the_pods_command_removes_old_datasets_and_writes_for_its_group_alone(tmp_path: Path) -> None:
    store, release = town(tmp_path, rows(200))
    with store.staged("release", release.document_sha256) as draft:
        (draft.path / "release.json").write_text(release.to_json())
        draft.publish({})
    with store.staged("dataset", "0" * 64) as draft:
        (draft.path / SAMPLES_FILE).write_text("{}")
        draft.publish({"service": "tiny", "gathered": "2020-01-01", "passed": True})
    argv = ["gather", "--store", str(store.root), "--release", release.document_sha256]
    done = subprocess.run(
        [sys.executable, "-m", "calibration", *argv], capture_output=True, text=True, check=True
    )
    assert "removed: dataset 000000000000" in done.stdout
    assert store.keys("dataset") == [DATASET]
    folder = store.path("dataset", DATASET)
    assert (folder.stat().st_mode & 0o777, (folder / SAMPLES_FILE).stat().st_mode & 0o777) == (0o750, 0o640)
