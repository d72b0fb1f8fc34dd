"""An absolute gate for tests, and Prometheus' answers to it, made through the real reader."""

from __future__ import annotations

from math import inf, isnan
from typing import Any

from sluice.absolute import Ask, Stand, ask
from sluice.promql import Answer, read_answer
from sluice.spec_policy import AbsoluteGate, Gates

NOW_S = 1_790_000_000.0
SERVICE, CANDIDATE, STABLE = "tiny", "2", "1"
GATE: dict[str, Any] = {
    "name": "p99_ms",
    "query": 'max by (version) (max_over_time(p99_ms{service="{service}", version="{version}"}[{window}]))',
    "limit": 500.0,
    "bad": "above",
    "window_s": 60.0,
    "min_samples": 100,
    "samples_query": 'sum by (version) (increase(requests_total{version="{version}"}[{window}]))',
    "on_breach": "hold",
}
STAND = Stand(service=SERVICE, candidate=CANDIDATE, stable=STABLE, opened_at_s=NOW_S - 3_600)


def gate(**changes: Any) -> AbsoluteGate:
    return AbsoluteGate(**{**GATE, **changes})


def gates(*given: AbsoluteGate, **changes: Any) -> Gates:
    return Gates(absolute=given or (gate(),), **changes)


def row(
    value: float, version: str | None = CANDIDATE, *, at_s: float = NOW_S, **labels: str
) -> dict[str, Any]:
    """One series of an instant vector as Prometheus writes it."""
    text = "NaN" if isnan(value) else {inf: "+Inf", -inf: "-Inf"}.get(value, repr(value))
    own = {} if version is None else {"version": version}
    return {"metric": {**own, **labels}, "value": [at_s, text]}


def vector(*rows: dict[str, Any], **more: Any) -> Answer:
    body = {"status": "success", "data": {"resultType": "vector", "result": list(rows)}, **more}
    return read_answer(200, body)


def answered(
    of: AbsoluteGate,
    *,
    value: Answer | float = 100.0,
    stable: Answer | float = 90.0,
    samples: Answer | float = 1_000.0,
    stable_samples: Answer | float = 1_000.0,
) -> dict[Ask, Answer]:
    """The four answers that a look at one gate takes: good ones, but for what is given."""
    given = {
        ask(of, SERVICE, CANDIDATE, "value"): (value, CANDIDATE),
        ask(of, SERVICE, CANDIDATE, "samples"): (samples, CANDIDATE),
        ask(of, SERVICE, STABLE, "value"): (stable, STABLE),
        ask(of, SERVICE, STABLE, "samples"): (stable_samples, STABLE),
    }
    return {
        sent: answer if isinstance(answer, Answer) else vector(row(answer, version))
        for sent, (answer, version) in given.items()
    }
