"""Queries are filled in without room for other PromQL; whatever comes back becomes series or a reason."""

import json
from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.promql import duration, filled, placeholders, read_answer
from tests.sluice.gates import row, vector

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


def test_only_bare_names_in_braces_are_placeholders():
    """Selectors, quantifiers of regular expressions and empty braces are PromQL's own."""
    text = 'rate(x{version="{version}", path=~"[0-9]{2}"}[{window}]) / y{} # {service}'
    assert placeholders(text) == ("version", "window", "service")
    said = filled(text, service="s", version="2", window_s=60)
    assert said == 'rate(x{version="2", path=~"[0-9]{2}"}[60s]) / y{} # s'


def test_a_name_cannot_end_its_string():
    said = filled("x{version=\"{version}\", v='{version}'}", service="s", version="a\"b'c\\d\n", window_s=1)
    inside = "a\\x22b\\x27c\\\\d\\n"
    assert said == f"x{{version=\"{inside}\", v='{inside}'}}"


@pytest.mark.parametrize(("seconds", "said"), [(60, "60s"), (1.5, "1500ms"), (1, "1s"), (86_400.0, "86400s")])
def test_a_window_is_written_as_prometheus_reads_it(seconds, said):
    assert duration(seconds) == said


def test_a_vector_keeps_labels_values_and_times():
    answer = vector(row(1.5, "2", job="a"), row(float("nan"), None))
    assert [(dict(s.labels), s.value) for s in answer.series[:1]] == [({"version": "2", "job": "a"}, 1.5)]
    assert isnan(answer.series[1].value)
    assert answer.error is None


BAD = {"status": "error", "errorType": "bad_data", "error": "parse error"}
SCALAR = {"status": "success", "data": {"resultType": "scalar", "result": [1.0, "2"]}}
TORN = {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}}]}}


@pytest.mark.parametrize(
    ("status", "body", "says", "refused"),
    [
        pytest.param(400, BAD, "parse error", True, id="a-query-that-cannot-be-read"),
        pytest.param(422, BAD, "parse error", True, id="a-query-that-cannot-be-computed"),
        pytest.param(200, SCALAR, "instant vector is wanted, the query gives: scalar", True, id="a-scalar"),
        pytest.param(400, "<html>", "answered 400", False, id="a-proxy-s-400"),
        pytest.param(503, BAD, "answered 503", False, id="away"),
        pytest.param(200, None, "answered 200", False, id="no-json"),
        pytest.param(200, TORN, "cannot be read", False, id="a-row-without-a-value"),
    ],
)
def test_what_is_no_vector_is_an_error_and_says_whose_fault_it_is(status, body, says, refused):
    answer = read_answer(status, body)
    assert (answer.series, answer.refused, says in str(answer)) == ((), refused, True)


def test_a_partial_answer_is_none_and_a_note_on_style_is_no_warning():
    assert "replica b is away" in str(vector(row(1.0), warnings=["replica b is away"]))
    assert vector(row(1.0), warnings=["replica b is away"]).series == ()
    assert len(vector(row(1.0), warnings=["PromQL info: metric might not be a counter"]).series) == 1


@given(status=st.integers(200, 599), body=JSON)
def test_whatever_comes_back_is_series_or_a_reason(status, body):
    answer = read_answer(status, body)
    assert answer.series == () or (answer.error is None and status < 400)
    assert (answer.error is None) == (
        status < 400
        and isinstance(body, dict)
        and body.get("status") == "success"
        and not body.get("warnings")
    ) or answer.error is not None
    json.dumps(str(answer))
