"""An engine runs only where it was built to run."""

import json

import pytest

from sluice.manifest import EngineManifest, ManifestError, ManifestMismatchError

SHA = "ab" * 32
WHOLE = {
    "schema": 1,
    "service": "tiny",
    "arch": "sm_80",
    "backend": "tensorrt",
    "backend_version": "10.16.0",
    "precision": "int8",
    "onnx_sha256": SHA,
    "engine_file": "engine.plan",
    "engine_sha256": SHA,
    "calibration_sha256": SHA,
    "timing_cache_sha256": SHA,
    "weights_sha256": None,
    "builder_image": "nvcr.io/nvidia/tensorrt:25.03-py3@sha256:" + SHA,
    "build_seconds": 61.5,
    "profiles": [{"x": {"least": [1, 3], "best": [2, 3], "most": [8, 3]}}],
    "inputs": [{"name": "x", "dtype": "float32", "dims": ["batch", 3]}],
    "outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", 2]}],
    "axes": {"batch": {"min": 1, "opt": 2, "max": 8, "buckets": [1, 8]}},
    "accuracy": {"y": {"cosine": 0.99}},
    "accuracy_of": "engine",
    "performance": {"p50_ms": 1.5},
    "device": {"name": "NVIDIA A100", "sm_count": 108},
}
HERE = {"arch": "sm_80", "backend": "tensorrt", "engine_sha256": SHA}


def test_it_round_trips_as_the_contract_spells_it():
    manifest = EngineManifest.from_json(json.dumps(WHOLE))
    assert json.loads(manifest.to_json()) == WHOLE
    assert EngineManifest.from_json(manifest.to_json()) == manifest
    assert [tensor.name for tensor in manifest.signature.outputs] == ["y"]


def test_it_fits_where_it_was_built_for():
    EngineManifest.from_json(WHOLE).check(**HERE)


@pytest.mark.parametrize(
    ("here", "field"),
    [
        pytest.param({"arch": "sm_86"}, "arch", id="other-architecture"),
        pytest.param({"backend": "onnxruntime"}, "backend", id="other-backend"),
        pytest.param({"engine_sha256": "cd" * 32}, "engine_sha256", id="other-file"),
        pytest.param({"engine_sha256": "cd" * 32, "arch": "sm_86"}, "arch", id="the-machine-comes-first"),
    ],
)
def test_it_fits_nowhere_else_and_says_why(here, field):
    manifest = EngineManifest.from_json(WHOLE)
    with pytest.raises(ManifestMismatchError) as caught:
        manifest.check(**{**HERE, **here})
    error = caught.value
    assert (error.field_name, error.wanted, error.got) == (field, {**HERE, **here}[field], WHOLE[field])
    assert error.next_step


@pytest.mark.parametrize(
    ("edit", "path"),
    [
        pytest.param({"engine_sha256": "ab"}, "engine_sha256", id="short-digest"),
        pytest.param({"engine_file": "../other.plan"}, "engine_file", id="file-elsewhere"),
        pytest.param({"precision": "int4"}, "precision", id="precision"),
        pytest.param({"schema": 2}, "schema", id="from-the-future"),
        pytest.param({"outputs": []}, "outputs", id="no-outputs"),
        pytest.param({"signed": True}, "signed", id="unknown-field"),
        pytest.param({"arch": None}, "arch", id="null"),
        pytest.param({"accuracy_of": "a guess"}, "accuracy_of", id="accuracy-of-something-else"),
    ],
)
def test_a_document_that_is_no_manifest_is_refused_by_field(edit, path):
    with pytest.raises(ManifestError) as caught:
        EngineManifest.from_json({**WHOLE, **edit})
    assert [problem.path for problem in caught.value.problems] == [path]


OLDER_LACK = {"timing_cache_sha256", "weights_sha256", "builder_image", "build_seconds", "profiles"}


@pytest.mark.parametrize(
    "name", sorted(set(WHOLE) - {"schema", "calibration_sha256", "accuracy_of"} - OLDER_LACK)
)
def test_every_field_is_required(name):
    """What a manifest does not say must not be guessed."""
    with pytest.raises(ManifestError) as caught:
        EngineManifest.from_json({key: value for key, value in WHOLE.items() if key != name})
    assert [problem.path for problem in caught.value.problems] == [name]


@pytest.mark.parametrize("text", ["{", "[]", "null", ""])
def test_what_is_no_mapping_is_refused(text):
    with pytest.raises(ManifestError):
        EngineManifest.from_json(text)


def test_a_measure_that_is_no_number_is_not_written():
    with pytest.raises(ManifestError, match="finite number"):
        EngineManifest.from_json({**WHOLE, "accuracy": {"y": {"cosine": float("nan")}}})
