"""`gates.absolute` in a spec: each limit whole or refused by path; a spec without one is as it was."""

import json

import pytest

from sluice.errors import PolicyError, SpecError
from sluice.release import Release
from sluice.spec import ReleaseSpec
from sluice.spec_checks import DEFAULT_MAX_HOLD_S
from sluice.spec_policy import Gates, Policy
from tests.sluice.gates import GATE
from tests.sluice.specs import SHA, parse


def absolute(*changes):
    """A spec's change: one gate for each of these."""
    return {"gates.absolute": [{**GATE, **change} for change in changes]}


WRONG = [
    pytest.param({"query": "p99_ms[{window}]"}, "query", "{version} is missing", id="every-version-alike"),
    pytest.param({"query": 'x{version="{version}"}'}, "query", "{window} is missing", id="old-samples-count"),
    pytest.param(
        {"samples_query": 'x{version="{version}"}'},
        "samples_query",
        "{window} is missing",
        id="a-count-of-ever",
    ),
    pytest.param(
        {"query": "{version}[{window}]{versoin}"}, "query", "unknown placeholder {versoin}", id="typo"
    ),
    pytest.param({"query": ""}, "query", "must not be empty", id="empty"),
    pytest.param({"query": " \n"}, "query", "must not be empty", id="blank"),
    pytest.param({"limit": float("nan")}, "limit", "a finite number", id="nan"),
    pytest.param({"limit": float("inf")}, "limit", "a finite number", id="infinite"),
    pytest.param({"limit": "500"}, "limit", "a number", id="text-is-no-number"),
    pytest.param({"limit": True}, "limit", "a number", id="true-is-no-number"),
    pytest.param({"bad": "over"}, "bad", "'above' or 'below'", id="direction"),
    pytest.param({"on_breach": "panic"}, "on_breach", "'observe', 'hold' or 'retreat'", id="on-breach"),
    pytest.param({"window_s": 0.5}, "window_s", "at least 1", id="window-too-short"),
    pytest.param({"window_s": 86_400}, "window_s", "less than gates.max_hold_s", id="window-never-full"),
    pytest.param({"min_samples": 0}, "min_samples", "at least 1", id="no-samples-at-all"),
    pytest.param({"name": "p99-ms"}, "name", "lowercase letter", id="name"),
    pytest.param({"version_label": "a.b"}, "version_label", "name of a label", id="label"),
    pytest.param({"direction": "above"}, "direction", "unknown field", id="unknown-field"),
]


@pytest.mark.parametrize(("change", "field", "says"), WRONG)
def test_each_wrong_value_is_named_by_path_for_the_spec_and_for_the_controller(change, field, says):
    with pytest.raises(SpecError) as caught:
        ReleaseSpec.from_dict(
            {**parse().to_dict(), "gates": {"absolute": [{**GATE}, {**GATE, "name": "b", **change}]}}
        )
    (problem,) = caught.value.problems
    assert (problem.path, says in problem.message) == (f"gates.absolute.1.{field}", True), problem
    with pytest.raises(PolicyError, match=rf"gates\.absolute\.0\.{field}"):
        Policy.from_json({**parse().policy(), "gates": {"absolute": [{**GATE, **change}]}})


@pytest.mark.parametrize("field", list(GATE))
def test_nothing_of_a_gate_is_a_default(field):
    with pytest.raises(SpecError) as caught:
        parse({"gates.absolute": [{name: value for name, value in GATE.items() if name != field}]})
    assert [problem.path for problem in caught.value.problems] == [f"gates.absolute.0.{field}"]


def test_two_gates_of_one_name_are_refused():
    with pytest.raises(SpecError, match=r"gates\.absolute\.1\.name.*the same name as gates\.absolute\.0"):
        parse(absolute({}, {"limit": 9.0}))


def test_gates_reach_the_controller_and_come_back_equal():
    spec = parse(absolute({}, {"name": "gpu_mib", "bad": "below", "version_label": "model_version"}))
    policy = json.loads(json.dumps(spec.policy()))
    assert Policy.from_json(policy).gates.absolute == spec.gates.absolute
    assert Policy.from_json(policy).to_dict() == policy
    assert ReleaseSpec.from_dict(spec.to_dict()) == spec


def test_a_spec_without_gates_has_the_policy_and_the_documents_of_before():
    """A controller of before knows no such field, and a release's document must keep its digest."""
    assert "absolute" not in parse().policy()["gates"]
    assert parse({"gates.absolute": []}).policy() == parse().policy()
    assert '"absolute"' not in Release(parse(), SHA).to_json()
    assert "absolute" not in Gates().model_dump()


def test_gates_are_no_part_of_what_is_built():
    with_gates, without = Release(parse(absolute({})), SHA), Release(parse(), SHA)
    assert (with_gates.digest, with_gates.keys) == (without.digest, without.keys)
    assert with_gates.document_sha256 != without.document_sha256


def test_the_default_that_the_check_assumes_is_the_default():
    assert parse().gates.max_hold_s == DEFAULT_MAX_HOLD_S
