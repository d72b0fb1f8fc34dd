"""What a run changed of the committed spec comes from the run's own form, value by value."""

import pytest

from local.demo.scenario import DWELL_S
from local.demo.spec import changes, differences, shipped
from local.stack.programs import Layout

DWELL = {
    "stages.0.dwell_s": [300.0, 20.0],
    "stages.1.dwell_s": [300.0, 20.0],
    "stages.2.dwell_s": [600.0, 20.0],
    "stages.3.dwell_s": [3600.0, 20.0],
}


@pytest.fixture
def release_spec(tmp_path):
    return shipped(Layout.make(tmp_path, tmp_path))


def test_the_good_run_changes_the_dwell_and_nothing_else(release_spec):
    assert changes(release_spec, {"dwell_s": DWELL_S}) == DWELL


def test_everything_that_a_form_changes_is_told(release_spec):
    conf = {"dwell_s": DWELL_S, "precisions": ["fp32"], "server_env": {"A": "1"}, "server_command": ["x"]}
    assert changes(release_spec, conf) == {
        **DWELL,
        "precisions": [["fp32", "int8"], ["fp32"]],
        "server.command": [["python", "-m", "serving.runtime"], ["x"]],
        "server.env.A": [None, "1"],
    }


def test_a_run_without_a_form_changes_nothing(release_spec):
    assert changes(release_spec, {}) == {}


def test_the_demo_s_spec_asks_a_person_before_it_deploys(release_spec):
    """Otherwise `--review` would leave nothing to anybody."""
    assert release_spec.review.before == ("deploy",)


def test_a_list_of_another_length_differs_as_a_whole():
    assert differences({"a": [1, 2]}, {"a": [1]}) == {"a": [[1, 2], [1]]}
    assert differences({"a": [1, 2]}, {"a": [1, 3]}) == {"a.1": [2, 3]}
