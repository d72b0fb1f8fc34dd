"""The section `recording`: what it may say, and that it is part of the policy and of nothing that is built."""

import pytest

from sluice.errors import PolicyError, SpecError
from sluice.release import Release
from sluice.spec_policy import Policy
from tests.sluice.specs import SHA, parse

SECTION = {"percent": 1, "recorder": "http://recorder.sluice:8000"}


def test_left_out_nothing_is_recorded_and_the_policy_is_what_it_was():
    """A controller of before reads it: the section is not even there as null."""
    assert parse().recording is None
    assert "recording" not in parse().policy()
    assert "recording" not in Policy.from_json(parse().policy()).to_dict()


def test_the_controller_gets_the_share_and_the_recorder_and_no_more():
    spec = parse({"recording": {**SECTION, "source": "s3://bucket/tiny", "redact": "team.hooks:mask"}})
    assert spec.policy()["recording"] == {"percent": 1.0, "recorder": "http://recorder.sluice:8000"}
    assert Policy.from_json(spec.policy()).to_dict() == spec.policy()
    rest = {name: value for name, value in spec.policy().items() if name != "recording"}
    assert rest == parse().policy()


def test_defaults_are_those_of_the_reservoir():
    section = parse({"recording": SECTION}).recording
    assert (section.lengths, section.per_stratum, section.retention_days) == ((32, 128), 1000, 30)
    assert (section.source, section.redact) == (None, None)


@pytest.mark.parametrize(
    "section",
    [
        SECTION,
        {**SECTION, "percent": 50, "per_stratum": 3, "lengths": [1, 2], "source": "/x", "retention_days": 1},
    ],
)
def test_recording_changes_nothing_that_is_built_or_served(section):
    """Every key of the store and the release's digest stay."""
    plain, recorded = Release(parse(), SHA), Release(parse({"recording": section}), SHA)
    assert (recorded.keys, recorded.digest) == (plain.keys, plain.digest)
    assert Release.from_json(recorded.to_json()) == recorded


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"percent": 0}, "recording.percent", "at least 0.0001"),
        ({"percent": 100.5}, "recording.percent", "at most 100"),
        ({"percent": True}, "recording.percent", "number"),
        (
            {"recorder": "https://recorder:1"},
            "recording.recorder",
            "the address of the recorder, http://host:port",
        ),
        (
            {"recorder": "http://recorder"},
            "recording.recorder",
            "the address of the recorder, http://host:port",
        ),
        ({"lengths": [128, 32]}, "recording.lengths", "ascend"),
        ({"lengths": [32]}, "recording.lengths", ""),
        ({"lengths": [0, 32]}, "recording.lengths.0", "at least 1"),
        ({"per_stratum": 0}, "recording.per_stratum", "at least 1"),
        ({"retention_days": 0}, "recording.retention_days", "at least 1"),
        ({"redact": "hooks.py"}, "recording.redact", "module:function"),
        ({"redact": "os; rm:x"}, "recording.redact", "module:function"),
        ({"headers": []}, "recording.headers", "unknown"),
        ({"source": "s3://key:secret@bucket/x"}, "recording.source", "password"),
        ({"percent": None}, "recording.percent", "beside recording.recorder"),
        ({"recorder": None}, "recording.recorder", "beside recording.percent"),
        ({"percent": None, "recorder": None}, "recording", "or null for the section"),
    ],
)
def test_what_cannot_be_is_named_by_its_path(changes, path, words):
    with pytest.raises(SpecError) as caught:
        parse({"recording": {**SECTION, **changes}})
    [problem] = [one for one in caught.value.problems if one.path.startswith(path)]
    assert words in problem.message


def test_a_team_that_logs_already_names_its_source_alone_and_the_gateways_copy_nothing():
    spec = parse({"recording": {"source": "s3://bucket/tiny"}})
    assert (spec.recording.percent, spec.recording.recorder) == (None, None)
    assert "recording" not in spec.policy()


def test_the_controller_checks_it_by_the_same_rules():
    with pytest.raises(PolicyError, match=r"recording\.percent"):
        Policy.from_json({**parse().policy(), "recording": {**SECTION, "percent": 101}})
