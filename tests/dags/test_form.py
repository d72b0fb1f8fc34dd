"""The trigger form: a bad value is refused before a run exists (400), a good one reaches the release."""

import pytest
from airflow.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization

from plugins.params import from_form
from plugins.promotion import build_dag
from plugins.settings import Addresses
from sluice.errors import ParamsError
from sluice.release import Params
from tests.sluice.specs import parse


@pytest.fixture(scope="module")
def dag():
    """As the API server reads it."""
    spec = parse({"review": {"before": ["deploy", 50], "timeout_s": 60}})
    written = build_dag(spec, Addresses(namespace="n", store_volume={"emptyDir": {}}))
    return DagSerialization.from_dict(DagSerialization.to_dict(written))


def filled(dag, conf):
    """What Airflow makes of `conf`: the values of the form, or ParamValidationError."""
    return dag.params.deep_merge(conf).validate()


GOOD = [
    ({}, Params()),
    ({"checkpoint": "2026-02"}, Params(checkpoint="2026-02")),
    ({"precisions": ["fp32", "int8"]}, Params(precisions=("fp32", "int8"))),
    ({"dwell_s": 20}, Params(dwell_s=20)),
    ({"server_command": ["python", "-m", "x"]}, Params(server_command=("python", "-m", "x"))),
    ({"server_env": {"A": "1"}}, Params(server_env={"A": "1"})),
    ({"retry_reason": "fixed the tokenizer"}, Params(retry_reason="fixed the tokenizer")),
    ({"retry_reason": ""}, Params()),
    ({"review": []}, Params(review=())),
    ({"review": ["deploy", 50]}, Params(review=("deploy", 50))),
    ({"review": ["50"]}, Params(review=(50,))),
]


@pytest.mark.parametrize(("conf", "params"), GOOD)
def test_a_good_value_reaches_the_release(dag, conf, params):
    assert from_form(filled(dag, conf)) == params


BAD = [
    ("checkpoint", "../etc"),
    ("checkpoint", 7),
    ("precisions", []),
    ("precisions", ["fp8"]),
    ("precisions", "int8"),
    ("precisions", ["int8", "int8"]),
    ("dwell_s", "soon"),
    ("dwell_s", -1),
    ("server_command", "python -m x"),
    ("server_command", [""]),
    ("server_env", {"A": 1}),
    ("server_env", "A=1"),
    ("retry_reason", 5),
    ("review", True),
    ("review", ["lunch"]),
    ("review", [5]),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_with_the_name_of_its_field(dag, name, value):
    with pytest.raises(ParamValidationError, match=name):
        filled(dag, {name: value})


def test_every_param_of_a_release_is_on_the_form_with_a_title_and_help(dag):
    assert set(dag.params) == set(Params.model_fields)
    for name in dag.params:
        schema = dag.params.get_param(name).schema
        assert schema["title"], name
        assert "null" in schema["type"], name
        assert dag.params.get_param(name).description, name


def test_what_the_schema_cannot_know_is_a_params_error():
    with pytest.raises(ParamsError, match="server_env"):
        from_form({"server_env": {"not a name": "1"}})


def test_a_name_that_is_no_param_is_an_error_with_the_names_there_are(dag):
    """Airflow lets any name through. A misspelt `retry_reason` must not look like one that was given."""
    conf = filled(dag, {"retry_resaon": "fixed", "colour": None, "server_env": {"not a name": "1"}})
    with pytest.raises(ParamsError) as caught:
        from_form(conf)
    assert [problem.path for problem in caught.value.problems] == ["retry_resaon", "colour", "server_env"]
    for name in ("retry_resaon = 'fixed'", *Params.model_fields):
        assert name in str(caught.value)


def test_what_airflow_itself_adds_to_a_triggered_run_is_let_through(dag):
    from airflow.providers.standard.utils import openlineage

    conf = openlineage._inject_openlineage_parent_info_to_dagrun_conf({"dwell_s": 20}, {"parentRunId": "1"})
    assert set(conf) == {"dwell_s", "openlineage"}
    assert from_form(filled(dag, conf)) == Params(dwell_s=20)


def test_an_empty_form_is_good_for_every_dag_of_the_repository(bag):
    for dag in bag.dags.values():
        read = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        assert from_form(filled(read, {})) == Params()
