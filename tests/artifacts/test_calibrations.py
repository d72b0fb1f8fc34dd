"""The pointer to the calibration in use: whole or nothing, and only to what is in the store."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from artifacts.calibrations import Accepted, Calibrations
from artifacts.samples import DatasetError
from artifacts.store import ArtifactMissingError, Store
from sluice.release import dataset_rules
from tests.sluice.specs import parse

RECORDING = {"source": "recordings/tiny"}
SPEC = parse({"recording": RECORDING, "precisions": ["fp32", "int8"]})
DATASET, CALIBRATION, OTHER = "a" * 64, "b" * 64, "c" * 64


def publish(store: Store, kind: str, key: str, **facts: Any) -> None:
    with store.staged(kind, key) as draft:
        (draft.path / "file").write_text("x", encoding="utf-8")
        draft.publish({"passed": True, **facts})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    for key in (CALIBRATION, OTHER):
        publish(made, "calibration", key)
    publish(made, "dataset", DATASET, rules=dataset_rules(SPEC), service="tiny", gathered="2026-01-01")
    return made


def test_what_was_accepted_last_is_current_for_its_service_alone(store: Store) -> None:
    calibrations = Calibrations(store)
    assert calibrations.current("minilm") is None
    for key in (CALIBRATION, OTHER):
        calibrations.accept("minilm", Accepted(dataset=DATASET, calibration=key))
    assert calibrations.current("minilm") == Accepted(dataset=DATASET, calibration=OTHER)
    assert calibrations.current("other") is None


@pytest.mark.parametrize("missing", [{"dataset": "d" * 64}, {"calibration": "d" * 64}])
def test_what_is_not_in_the_store_is_not_accepted(store: Store, missing: dict[str, str]) -> None:
    with pytest.raises(ArtifactMissingError, match="dddddddddddd"):
        Calibrations(store).accept(
            "minilm", Accepted(**{"dataset": DATASET, "calibration": CALIBRATION, **missing})
        )
    assert Calibrations(store).current("minilm") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "no JSON",
        "[1]",
        '{"dataset": 1, "calibration": 2}',
        '{"dataset": "' + "d" * 64 + '", "calibration": "' + CALIBRATION + '"}',
    ],
)
def test_a_pointer_that_is_damaged_or_points_nowhere_is_none(store: Store, text: str) -> None:
    Calibrations(store).accept("minilm", Accepted(dataset=DATASET, calibration=CALIBRATION))
    (store.root / ".calibrations" / "minilm").write_text(text, encoding="utf-8")
    assert Calibrations(store).current("minilm") is None


def test_a_dataset_that_did_not_pass_is_never_accepted(store: Store) -> None:
    publish(store, "dataset", "e" * 64, passed=False, why="too short")
    with pytest.raises(DatasetError, match="too short"):
        Calibrations(store).accept("tiny", Accepted(dataset="e" * 64, calibration=CALIBRATION))
    assert Calibrations(store).current("tiny") is None


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("an axis", {"model.axes.batch.max": 9}),
    ("samples that calibrate", {"calibration.samples": 300}),
    ("samples that are held out", {"numerics.samples": 300}),
    ("values", {"calibration": {"values": [0, 9]}}),
    ("lengths", {"recording": {**RECORDING, "lengths": [9, 99]}}),
    ("no int8", {"precisions": ["fp32"]}),
    ("no source", {"recording": {"percent": 1, "recorder": "http://r:1"}}),
    ("no section", {"recording": None}),
]


@pytest.mark.parametrize("changes", [change for _, change in CHANGES], ids=[name for name, _ in CHANGES])
def test_what_was_accepted_serves_no_spec_that_asks_for_something_else(
    store: Store, changes: dict[str, Any]
) -> None:
    """Else every promotion would fail on a dataset that is too small, or of other inputs, until somebody deletes it."""
    calibrations = Calibrations(store)
    accepted = Accepted(dataset=DATASET, calibration=CALIBRATION)
    calibrations.accept("tiny", accepted)
    assert calibrations.serving(SPEC) == accepted
    changed = parse({"recording": RECORDING, "precisions": ["fp32", "int8"], **changes})
    assert calibrations.serving(changed) is None


def test_old_datasets_are_removed_but_for_the_one_in_use_and_those_of_others(store: Store) -> None:
    for key, service, day in (
        ("1" * 64, "tiny", "2026-01-01"),
        ("2" * 64, "tiny", "2026-03-01"),
        ("3" * 64, "other", "2026-01-01"),
    ):
        publish(store, "dataset", key, service=service, gathered=day)
    calibrations = Calibrations(store)
    calibrations.accept("tiny", Accepted(dataset=DATASET, calibration=CALIBRATION))
    assert calibrations.forget("tiny", date(2026, 2, 1)) == ["1" * 64]
    assert store.keys("dataset") == ["2" * 64, "3" * 64, DATASET]
    assert not list((store.root / ".drafts").glob("*/*"))
