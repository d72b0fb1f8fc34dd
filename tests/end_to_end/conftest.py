"""The real parts, started once per test session."""

from __future__ import annotations

import pytest

from local.stack.programs import REPO
from local.stack.stack import Stack
from tests.end_to_end.town import DAG, Town, write_checkpoint


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    """MLflow, Airflow, the cluster, the controller, Envoy and Prometheus, with the test model's checkpoint."""
    folder = tmp_path_factory.mktemp("town")
    with Stack(folder, dags=REPO / "tests" / "end_to_end" / "dags") as stack:
        people = Town(stack, folder)
        people.checkpoint.parent.mkdir(parents=True)
        write_checkpoint(people.checkpoint)
        stack.await_dag(DAG)
        yield people
