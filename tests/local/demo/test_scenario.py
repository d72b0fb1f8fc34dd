"""The story's own rules: without a first version there is nothing to play."""

import io

import pytest
from rich.console import Console

from local.demo.scenario import DAG, Options, Scenario
from sluice.errors import FatalError
from tests.local.demo.fakes import FakeAirflow, FakeStack, task

OPTIONS = Options(faults=("fail",), rate_rps=1.0, users=1, review=False, kill_airflow=False)


def scenario(stack, folder):
    return Scenario(stack, OPTIONS, Console(file=io.StringIO()), folder)


def test_a_first_deployment_that_fails_ends_the_demo_with_the_reason_and_the_link(tmp_path):
    """The others would wait for traffic that nobody sends, and the report for a journal that nobody writes."""
    airflow = FakeAirflow(
        state="failed", rows=[task("resolve", "success"), task("validate_numerics", "failed")]
    )
    stack = FakeStack(airflow)
    one = scenario(stack, tmp_path)
    with pytest.raises(
        FatalError, match=r"not promoted but has no rollout: validate_numerics failed"
    ) as error:
        one.play()
    assert f"http://airflow/dags/{DAG}/runs/demo-" in str(error.value)
    assert len(airflow.triggered) == 1


def test_the_reason_of_the_ledger_comes_before_the_colours_of_tasks(tmp_path):
    airflow = FakeAirflow(state="failed", rows=[task("deploy", "failed")])
    rollout = {"id": "minilm-1", "state": "abandoned", "percent": 0, "reason": "no capacity"}
    stack = FakeStack(airflow)
    stack.service = lambda: {"line": [], "rollout": {**rollout, "run_id": airflow.triggered[-1]["run_id"]}}
    with pytest.raises(FatalError, match=r"not promoted but abandoned: no capacity"):
        scenario(stack, tmp_path).first()
