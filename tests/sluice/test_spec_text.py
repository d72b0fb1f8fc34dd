"""A spec's text: YAML and its traps, and the variables that are filled into it."""

import pytest
import yaml

from sluice.errors import SpecError
from sluice.spec import parse_spec
from tests.sluice.specs import whole

# --- YAML ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("service: tiny\nmodel: [", 2, "YAML syntax", id="open-list"),
        pytest.param("service: tiny\n\tmodel: {}", 2, "YAML syntax", id="tab"),
        pytest.param("selector: {arch: ${SLUICE_ARCH}}", 1, "put ${…} in quotes", id="unquoted-variable"),
        pytest.param("a: 1\n---\nb: 2", 2, "YAML syntax", id="two-documents"),
        pytest.param("", None, "must be a mapping", id="empty"),
        pytest.param("- service", None, "must be a mapping", id="list"),
    ],
)
def test_text_that_is_no_spec_is_refused_with_its_line(text, line, says):
    with pytest.raises(SpecError) as caught:
        parse_spec(text, {})
    (problem,) = caught.value.problems
    assert (problem.line, says in problem.message) == (line, True)


def spec_text(line="", **drop):
    return yaml.safe_dump(whole(**drop), sort_keys=False) + line


@pytest.mark.parametrize(
    ("line", "path", "says"),
    [
        pytest.param("service: other\n", "service", "stands twice", id="equal-keys"),
        pytest.param("schedule: !!python/name:os.system\n", "schedule", "tag", id="python-object"),
        pytest.param("review: &r {before: *r}\n", "review.before", "endless", id="ring"),
        pytest.param("gates: {alpha: .nan}\n", "gates.alpha", "a number", id="nan"),
        pytest.param("gates: {settle_s: 1:30}\n", "gates.settle_s", "a number", id="sixties"),
    ],
)
def test_yaml_traps_are_problems_and_never_values(line, path, says):
    with pytest.raises(SpecError) as caught:
        parse_spec(spec_text(line), {})
    assert [(p.path, says in p.message) for p in caught.value.problems] == [(path, True)]
    assert caught.value.problems[0].line


def test_a_problem_names_its_line():
    with pytest.raises(SpecError) as caught:
        parse_spec(spec_text("gates:\n  alpha: 2\n"), {})
    assert caught.value.problems[0].line == len(spec_text().splitlines()) + 2


def test_numbers_without_a_point_are_numbers():
    """YAML 1.1 reads 1e-4 as a text."""
    assert parse_spec(spec_text("numerics: {max_abs: 1e-4}\n"), {}).numerics.max_abs == 1e-4


# --- variables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "env", "says"),
    [
        pytest.param("${SLUICE_X}", {}, "SLUICE_X is not set", id="not-set"),
        pytest.param("${SLUICE_X}", {"SLUICE_X": ""}, "SLUICE_X is empty", id="empty"),
        pytest.param("${HOME}", {"HOME": "/root"}, "only variables named SLUICE_", id="credentials-stay-out"),
        pytest.param(
            "${AIRFLOW_CONN_X}", {"AIRFLOW_CONN_X": "secret"}, "only variables", id="connections-too"
        ),
    ],
)
def test_a_variable_that_cannot_be_filled_is_one_problem(text, env, says):
    with pytest.raises(SpecError) as caught:
        parse_spec(spec_text().replace("/checkpoints/tiny", text), env)
    (problem,) = caught.value.problems
    assert (problem.path, problem.value, says in problem.message) == ("model.source", text, True)
    assert "secret" not in str(caught.value)


def test_no_error_shows_what_a_forbidden_variable_holds():
    with pytest.raises(SpecError) as caught:
        parse_spec("${AIRFLOW_CONN_X}", {"AIRFLOW_CONN_X": "secret"})
    assert "only variables" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_variable_cannot_change_the_structure():
    env = {"SLUICE_X": "a\nservice: other"}
    spec = parse_spec(spec_text().replace("/checkpoints/tiny", "${SLUICE_X}/m"), env)
    assert (spec.service, spec.model.source) == ("tiny", "a\nservice: other/m")


def test_a_plain_variable_takes_the_kind_of_its_value_and_a_quoted_one_is_a_text():
    env = {"SLUICE_P": "8001"}
    text = spec_text("server:\n  image: runtime:1\n  port: ${SLUICE_P}\n", drop=("server",))
    assert parse_spec(text, env).server.port == 8001
    with pytest.raises(SpecError, match="whole number"):
        parse_spec(text.replace("${SLUICE_P}", '"${SLUICE_P}"'), env)


def test_a_doubled_dollar_is_a_literal():
    line = 'server: {image: "runtime:1", command: ["$${HOME}", "$5"]}\n'
    spec = parse_spec(spec_text(line, drop=("server",)), {})
    assert spec.server.command == ("${HOME}", "$5")
