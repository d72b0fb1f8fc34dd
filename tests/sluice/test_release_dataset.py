"""A release that is calibrated on recorded traffic: what it names, and which keys that changes."""

import json

import pytest

from sluice.release import CalibratedOn, Params, Release, ReleaseError, dataset_key, drift_key
from tests.sluice.specs import SHA, parse

DATASET, OTHER_DATASET, EARLIER = "a" * 64, "b" * 64, "c" * 64


def release(on: CalibratedOn | None = None) -> Release:
    return Release(parse(), SHA, Params(), on)


def test_recorded_traffic_makes_another_calibration_and_engine_and_the_same_onnx() -> None:
    plain, recorded = release().keys, release(CalibratedOn(dataset=DATASET)).keys
    assert (plain.onnx, plain.numerics) == (recorded.onnx, recorded.numerics)
    assert plain.calibration != recorded.calibration
    assert plain.engines != recorded.engines
    assert release(CalibratedOn(dataset=OTHER_DATASET)).keys.calibration != recorded.calibration


def test_ranges_that_may_be_reused_make_a_calibration_of_their_own() -> None:
    fresh = release(CalibratedOn(dataset=DATASET))
    reusing = release(CalibratedOn(dataset=DATASET, reuse=EARLIER))
    assert fresh.keys.calibration != reusing.keys.calibration
    assert fresh.digest != reusing.digest


def test_a_promotion_of_what_was_calibrated_already_takes_that_very_calibration() -> None:
    """The calibrating run found ranges anew; a promotion of the same checkpoint names them as reusable."""
    accepted = release(CalibratedOn(dataset=DATASET))
    promoted = release(CalibratedOn(dataset=DATASET, reuse=accepted.keys.calibration))
    assert promoted.keys == accepted.keys
    assert promoted.digest == accepted.digest


def test_it_round_trips_and_a_release_without_a_dataset_says_nothing_of_one() -> None:
    one = release(CalibratedOn(dataset=DATASET, reuse=EARLIER))
    again = Release.from_json(one.to_json())
    assert again == one
    assert again.document_sha256 == one.document_sha256
    assert "calibrated_on" not in json.loads(release().to_json())


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        ({"calibrated_on": None}, "digest"),
        ({"calibrated_on": {"dataset": OTHER_DATASET}}, "digest"),
        ({"calibrated_on": {"dataset": "short"}}, "calibrated_on.dataset"),
        ({"calibrated_on": {"dataset": DATASET, "reuse": "short"}}, "calibrated_on.reuse"),
        ({"calibrated_on": {"reuse": EARLIER}}, "calibrated_on"),
        ({"calibrated_on": DATASET}, "calibrated_on"),
    ],
)
def test_an_edited_document_is_refused_by_the_field(edit: dict[str, object], field: str) -> None:
    document = {**json.loads(release(CalibratedOn(dataset=DATASET, reuse=EARLIER)).to_json()), **edit}
    with pytest.raises(ReleaseError) as caught:
        Release.from_json(json.dumps(document))
    assert caught.value.field_name == field


def test_each_run_has_a_dataset_of_its_own_and_each_comparison_a_key_of_its_own() -> None:
    spec = parse()
    assert dataset_key(spec, "one") == dataset_key(spec, "one") != dataset_key(spec, "two")
    one, other = release(CalibratedOn(dataset=DATASET)), release(CalibratedOn(dataset=OTHER_DATASET))
    keys = {drift_key(one, EARLIER), drift_key(other, EARLIER), drift_key(one, OTHER_DATASET)}
    assert len(keys) == 3


def test_the_limit_is_part_of_a_calibration_that_may_reuse_ranges_and_of_no_other() -> None:
    """It decides whether they are used again."""
    other = parse({"calibration": {"drift_limit": 0.5}})
    for on, same in (
        (CalibratedOn(dataset=DATASET), True),
        (CalibratedOn(dataset=DATASET, reuse=EARLIER), False),
    ):
        keys = {Release(spec, SHA, Params(), on).keys.calibration for spec in (parse(), other)}
        assert (len(keys) == 1) is same
