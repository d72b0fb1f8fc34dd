"""The run's note, written by Airflow's own listeners when a run ends."""

import subprocess
import sys

import pytest

from plugins.airflow_plugin import NOTE_KEY, OUTCOME, SETTLE
from plugins.model_card import outcome_card
from tests.plugins import environment

NOTE = outcome_card("turned_back", "harm: 9 of 9", None, None)


def end(run, *, verdict, note, by_people=None):
    """Let `settle` leave its note and the run end with this verdict; the run's note."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        run._run(session).note = by_people
        if note is not None:
            XComModel.set(
                key=NOTE_KEY,
                value=note,
                task_id=SETTLE,
                dag_id=run.dag.dag_id,
                run_id=run.run_id,
                session=session,
            )
    run.put(**{**dict.fromkeys(run.states(), "success"), "verdict": verdict})
    run.schedule()
    return run.read(lambda row: row.note)


@pytest.mark.parametrize("verdict", ["failed", "success"])
def test_the_note_says_how_the_rollout_ended(run, verdict):
    assert end(run, verdict=verdict, note=NOTE) == NOTE


def test_what_people_wrote_stays_and_an_earlier_outcome_is_replaced(run):
    earlier = f"ticket 7\n\n{outcome_card('held', 'gate_5 failed', None, None)}"
    assert end(run, verdict="success", note=NOTE, by_people=earlier) == f"ticket 7\n\n{NOTE}"


def test_without_a_recorded_note_nothing_is_written(run):
    assert end(run, verdict="failed", note=None, by_people="ticket 7") == "ticket 7"


def test_the_card_begins_with_the_heading_that_the_plugin_looks_for():
    assert NOTE.startswith(OUTCOME)


def test_airflow_loads_one_plugin_and_imports_nothing_else_of_ours():
    """Its plugin manager would import every file of the folder under its bare name."""
    code = (
        "import sys, airflow.plugins_manager as m; found, errors = m._get_plugins();"
        "ours = sorted(n for n in sys.modules if 'plugins.' in n and 'airflow' not in n);"
        "print([p.name for p in found], errors, ours,"
        "sorted({'promotion', 'pods', 'gate'} & set(sys.modules)))"
    )
    environment.prepare()
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=environment.REPO
    )
    assert out.stdout.strip().splitlines()[-1] == "['sluice'] {} [] []"
