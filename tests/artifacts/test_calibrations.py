"""The pointer to the calibration in use: whole or nothing, and only to what is in the store."""

from pathlib import Path

import pytest

from artifacts.calibrations import Accepted, Calibrations
from artifacts.store import ArtifactMissingError, Store

DATASET, CALIBRATION, OTHER = "a" * 64, "b" * 64, "c" * 64


def publish(store: Store, kind: str, key: str) -> None:
    with store.staged(kind, key) as draft:
        (draft.path / "file").write_text("x", encoding="utf-8")
        draft.publish({})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    for key in (CALIBRATION, OTHER):
        publish(made, "calibration", key)
    publish(made, "dataset", DATASET)
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
