"""The report names the engine that was chosen and why, as the builder wrote it down."""

import json

import pytest

from artifacts.store import Store
from local.demo.engines import engines_of
from sluice.release import Params, Release
from tests.sluice.specs import SHA, parse

REPORT = {"reason": "int8 is fastest", "rejected": {"fp32": "31.78 ms"}, "candidates": {}}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def publish(store, release, report=None):
    with store.staged("release", release.document_sha256) as draft:
        (draft.path / "release.json").write_text(release.to_json())
        draft.publish({})
    for key in release.keys.engines.values() if report else ():
        with store.staged("engine", key) as draft:
            (draft.path / "report.json").write_text(json.dumps(report))
            draft.publish({"precision": "int8", "reason": report["reason"], "built": True})


def test_precision_reason_and_what_was_turned_down_are_the_builder_s(store):
    release = Release(parse(), SHA)
    publish(
        store, Release(parse(), SHA, Params(precisions=["fp32"])), {**REPORT, "reason": "another release"}
    )
    publish(store, release, REPORT)
    wanted = {"precision": "int8", "reason": "int8 is fastest", "rejected": {"fp32": "31.78 ms"}}
    assert engines_of(store, release.digest) == {"cpu-avx2": wanted}


def test_a_run_with_another_policy_of_the_same_release_has_the_same_engines(store):
    publish(store, Release(parse(), SHA, Params(dwell_s=20)), REPORT)
    assert engines_of(store, Release(parse(), SHA).digest)["cpu-avx2"]["precision"] == "int8"


def test_an_engine_that_was_not_built_is_named_as_missing(store):
    release = Release(parse(), SHA)
    publish(store, release)
    (engine,) = engines_of(store, release.digest).values()
    assert engine["precision"] is None
    assert release.keys.engine("cpu-avx2")[:12] in engine["reason"]


def test_a_release_that_is_not_there_has_no_engine(store):
    assert engines_of(store, None) == {}
    assert engines_of(store, SHA) == {}
