"""Ranges of an earlier calibration: used again while the traffic is the same, found anew when it has moved.

Driven through the pods' own commands, on recordings in a real store.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper, numpy_helper

from artifacts.store import ArtifactMissingError, Store
from calibration.__main__ import main
from calibration.cache import CalibrationCache
from calibration.moved import compare_release
from calibration.reuse import read_cache
from sluice.release import CalibratedOn, Release, drift_key
from tests.build_images.support import publish_onnx
from tests.calibration.recorded import DATASET, OTHER_DATASET, PARTS, rows, town, write_log
from tests.calibration.test_calibration import model_of

LIMIT = 0.02  # of 200 small samples: fewer values than the default limit is for
SPEC = {"calibration": {**PARTS["calibration"], "samples": 200, "drift_limit": LIMIT}}


def call(store: Store, release: Release, *words: str) -> int:
    """A pod's command on this release, published first."""
    if not store.has("release", release.document_sha256):
        with store.staged("release", release.document_sha256) as draft:
            (draft.path / "release.json").write_text(release.to_json())
            draft.publish({})
    command, *more = words
    first = [] if command == "calibrate" else [command]
    return main([*first, "--store", str(store.root), "--release", release.document_sha256, *more])


def report_of(store: Store, release: Release) -> dict[str, Any]:
    folder = store.get("calibration", release.keys.calibration).path
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def calibrated(tmp_path: Path) -> tuple[Store, Release]:
    store, release = town(tmp_path, rows(400), **SPEC)
    assert call(store, release, "gather") == 0
    assert call(store, release, "calibrate") == 0
    return store, release


def next_week(store: Store, release: Release, *, scale: float, reuse: bool = True) -> Release:
    """The release of another dataset; the model is the same."""
    write_log(store, rows(400, seed=2, scale=scale))
    earlier = release.keys.calibration if reuse else None
    return replace(release, calibrated_on=CalibratedOn(dataset=OTHER_DATASET, reuse=earlier))


def ranges_of(cache: CalibrationCache) -> dict[str, Any]:
    return {name: tensor.ranges for name, tensor in cache.tensors.items()}


def test_the_same_traffic_keeps_the_ranges_bit_by_bit(tmp_path: Path) -> None:
    store, first = calibrated(tmp_path)
    second = next_week(store, first, scale=1.0)
    assert call(store, second, "gather") == call(store, second, "calibrate") == 0
    assert report_of(store, second)["ranges_of"]["reused"] is True
    one, other = (read_cache(store, each.keys.calibration) for each in (first, second))
    assert ranges_of(one) == ranges_of(other)
    assert one.dataset_sha256 != other.dataset_sha256
    assert one.tensors["x"].counts != other.tensors["x"].counts  # its histograms are of today's traffic


def test_traffic_that_moved_has_ranges_of_its_own_and_the_report_names_the_tensors(tmp_path: Path) -> None:
    store, first = calibrated(tmp_path)
    second = next_week(store, first, scale=3.0)
    assert call(store, second, "gather") == call(store, second, "calibrate") == 0
    told = report_of(store, second)["ranges_of"]
    assert told["reused"] is False
    assert "x (" in told["why"]
    assert told["worst"]["divergence"] > LIMIT
    one, other = (read_cache(store, each.keys.calibration) for each in (first, second))
    assert other.tensors["x"].ranges["minmax"].high > 2 * one.tensors["x"].ranges["minmax"].high


def test_a_first_calibration_says_that_there_was_none(tmp_path: Path) -> None:
    store, first = calibrated(tmp_path)
    assert report_of(store, first)["ranges_of"] == {"reused": False, "why": "there is no earlier calibration"}


@pytest.mark.parametrize(("scale", "valid"), [(1.0, True), (3.0, False)])
def test_the_comparison_is_an_artifact_and_says_which_tensors_moved(
    tmp_path: Path, scale: float, valid: bool
) -> None:
    store, first = calibrated(tmp_path)
    second, against = next_week(store, first, scale=scale, reuse=False), first.keys.calibration
    assert call(store, second, "gather") == 0
    assert call(store, second, "drift", "--against", against) == 0
    facts = store.get("drift", drift_key(second, against)).facts
    assert facts["valid"] is valid
    assert set(facts["moved"]) == (set() if valid else {"x", "r"})
    assert call(store, second, "drift", "--against", against) == 0  # unchanged


def test_another_graph_is_never_the_same_traffic(tmp_path: Path) -> None:
    store, first = calibrated(tmp_path)
    second = next_week(store, first, scale=1.0)
    assert call(store, second, "gather") == 0
    model = model_of()
    model.graph.node.append(helper.make_node("Neg", ["y"], ["z"], "neg"))
    model.graph.output[0].name = "z"
    onnx.save(model, store.path("onnx", first.keys.onnx) / "model.onnx")
    receipt = store.path("onnx", first.keys.onnx) / "receipt.json"
    receipt.unlink()
    republish(store, first)
    facts = compare_release(store, second, first.keys.calibration).facts
    assert facts["valid"] is False
    assert "another graph" in facts["why"]


def republish(store: Store, release: Release) -> None:
    """The artifact again, with the file as it is now."""
    folder = store.path("onnx", release.keys.onnx)
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").unlink()
    folder.rmdir()
    with store.staged("onnx", release.keys.onnx) as draft:
        (draft.path / "model.onnx").write_bytes(data)
        draft.publish({"onnx_sha256": "0" * 64})


def test_a_calibration_that_is_gone_is_an_error_and_not_a_first_one(tmp_path: Path) -> None:
    store, first = calibrated(tmp_path)
    second = replace(first, calibrated_on=CalibratedOn(dataset=DATASET, reuse="f" * 64))
    with pytest.raises(ArtifactMissingError, match="ffffffffffff"):
        compare_release(store, second, "f" * 64)
    assert call(store, second, "calibrate") == 3


def test_a_model_that_was_trained_again_is_not_traffic_that_moved(tmp_path: Path) -> None:
    """Traffic is compared on the weights that the ranges were found on, while those are there."""
    store, first = calibrated(tmp_path)
    write_log(store, rows(400, seed=2))
    again = replace(first, checkpoint_sha256="7" * 64, calibrated_on=CalibratedOn(dataset=OTHER_DATASET))
    model = model_of()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, tmp_path / "again.onnx")
    publish_onnx(store, again, tmp_path / "again.onnx")
    assert call(store, again, "gather") == 0
    assert compare_release(store, again, first.keys.calibration).facts["valid"] is True
    reusing = replace(again, calibrated_on=CalibratedOn(dataset=OTHER_DATASET, reuse=first.keys.calibration))
    assert call(store, reusing, "calibrate") == 0  # its own activations are others: its ranges are its own
    assert report_of(store, reusing)["ranges_of"]["reused"] is False
