"""Airflow's plugin of Sluice: the run's note, and one import done early.

Problem: who looks at a red run wants the verdict, not a stack trace, and a task cannot write its run's note. So a
listener in the scheduler copies what `settle` recorded when the run ends. It reads the scheduler's own session and
never commits; whatever goes wrong here is logged and changes no run.

The Kubernetes client takes about two seconds to import. Imported once, when the scheduler or the dag-processor
starts, it is there in every process that they fork: for each task, and for each parsing of each file.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

SETTLE, NOTE_KEY, DAG_PREFIX = "settle", "note", "promote__"
OUTCOME = "### Outcome"  # the heading that the note of `settle` begins with
SLOW_IMPORTS = (
    "airflow.providers.cncf.kubernetes.operators.pod",
    "airflow.providers.standard.operators.hitl",
)

_log = logging.getLogger(__name__)


class Listener:
    """Copies the note of `settle` to the run; imports early what every fork needs."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        if type(component).__name__ == "Job":  # scheduler, dag-processor, triggerer; not the task itself
            for name in SLOW_IMPORTS:
                importlib.import_module(name)

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        write_note(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        write_note(dag_run)


def write_note(dag_run: Any) -> None:
    """Set the note of a promotion's run, keeping what a person wrote there. No recorded note: nothing happens."""
    if not dag_run.dag_id.startswith(DAG_PREFIX):
        return
    from airflow.models.xcom import XComModel
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        _log.warning(
            "run %s %s has no database session: its note is not written", dag_run.dag_id, dag_run.run_id
        )
        return
    wanted = select(XComModel).where(
        XComModel.dag_id == dag_run.dag_id,
        XComModel.run_id == dag_run.run_id,
        XComModel.task_id == SETTLE,
        XComModel.key == NOTE_KEY,
    )
    recorded = session.scalars(wanted.limit(1)).first()
    if recorded is None:
        return
    by_people = (
        (dag_run.note or "").partition(OUTCOME)[0].rstrip()
    )  # an earlier outcome of this run is replaced
    text = str(XComModel.deserialize_value(recorded))
    dag_run.note = f"{by_people}\n\n{text}" if by_people else text


class SluicePlugin(AirflowPlugin):
    name = "sluice"
    listeners = [Listener()]  # noqa: RUF012 Airflow's own declaration
