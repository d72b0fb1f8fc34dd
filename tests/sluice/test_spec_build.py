"""How an engine is built is part of the spec: what cannot be is an error before any pod starts."""

import pytest

from sluice.errors import SpecError
from sluice.release import Release
from tests.sluice.specs import SHA, parse

TARGET = {"targets.0.arch": "sm_80", "targets.0.backend": "tensorrt_rtx"}


def engine_key(**build):
    return Release(parse({**TARGET, "targets.0.build": build}), SHA).keys.engine("sm_80")


@pytest.mark.parametrize(
    ("build", "path", "says"),
    [
        pytest.param({"profiles": {"rows": [1]}}, "profiles.rows", "no such axis in model.axes", id="axis"),
        pytest.param({"profiles": {"batch": [3]}}, "profiles.batch.0", "no bucket of the axis", id="bucket"),
        pytest.param({"profiles": {"batch": [8, 1]}}, "profiles.batch.1", "increase strictly", id="order"),
        pytest.param({"profiles": {"batch": []}}, "profiles.batch", "must not be empty", id="empty"),
        pytest.param({"timing_cache": "fresh"}, "timing_cache", "reuse, off, or the SHA-256", id="cache"),
        pytest.param({"hardware_compatibility": "any"}, "hardware_compatibility", "ampere_plus", id="level"),
        pytest.param({"strip_weights": "yes"}, "strip_weights", "true or false", id="flag"),
    ],
)
def test_each_wrong_option_is_named_with_what_there_is(build, path, says):
    with pytest.raises(SpecError) as caught:
        parse({**TARGET, "targets.0.build": build})
    (problem,) = caught.value.problems
    assert problem.path == f"targets.0.build.{path}"
    assert says in problem.message


@pytest.mark.parametrize(
    "build",
    [
        {"profiles": {}},
        {"profiles": {"batch": [8]}},
        {"optimization_level": 5},
        {"hardware_compatibility": "ampere_plus"},
        {"version_compatible": True},
        {"strip_weights": True},
        {"compare_one_profile": True},
        {"timing_cache": "ab" * 32},
    ],
    ids=str,
)
def test_what_makes_another_engine_or_report_makes_another_key(build):
    assert engine_key(**build) != engine_key()


@pytest.mark.parametrize("build", [{"time_limit_s": 60.0}, {"timing_cache": "off"}], ids=str)
def test_what_only_says_how_long_or_from_what_start_does_not(build):
    assert engine_key(**build) == engine_key()
