"""A run of a DAG in Airflow's own database, for claims about what Airflow does to it."""

import uuid

from plugins.promotion import START


class AirflowRun:
    """One DAG run in the metadata database, moved by Airflow's own code alone."""

    def __init__(self, dag):
        from airflow.utils.session import create_session
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        self.dag, self.run_id = dag, f"run-{uuid.uuid4().hex[:8]}"
        with create_session() as session:
            dag.create_dagrun(
                run_id=self.run_id,
                run_after=START,
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState.RUNNING,
                session=session,
            )

    def put(self, **states):
        from airflow.utils.session import create_session

        with create_session() as session:
            for ti in self._run(session).get_task_instances(session=session):
                if ti.task_id in states:
                    ti.set_state(states[ti.task_id], session=session)

    def schedule(self):
        """Let the scheduler's own rules run until nothing changes."""
        from airflow.utils.session import create_session

        before = None
        while before != (before := self.states()):
            with create_session() as session:
                run = self._run(session)
                run.dag = self.dag
                run.update_state(session=session)

    def mark(self, state):
        """What the API does when a person marks the run."""
        from airflow.api.common import mark_tasks
        from airflow.utils.session import create_session

        work = {
            "failed": mark_tasks.set_dag_run_state_to_failed,
            "success": mark_tasks.set_dag_run_state_to_success,
        }
        with create_session() as session:
            work[state](dag=self.dag, run_id=self.run_id, commit=True, session=session)

    def clear(self, task):
        """What the API does when a person clears a task with all that is downstream."""
        from airflow.models.taskinstance import find_relevant_relatives
        from airflow.utils.session import create_session

        with create_session() as session:
            where = {"dag": self.dag, "run_id": self.run_id, "session": session}
            behind = find_relevant_relatives({task}, set(), direction="downstream", **where)
            self.dag.clear(task_ids=[task, *behind], run_id=self.run_id, session=session)

    def states(self):
        from airflow.utils.session import create_session

        with create_session() as session:
            tis = self._run(session).get_task_instances(session=session)
            return {
                ti.task_id: None if ti.state is None else str(getattr(ti.state, "value", ti.state))
                for ti in tis
            }

    def read(self, look):
        """What `look` makes of the run's row."""
        from airflow.utils.session import create_session

        with create_session() as session:
            return look(self._run(session))

    def _run(self, session):
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        return session.scalars(select(DagRun).where(DagRun.run_id == self.run_id)).one()
