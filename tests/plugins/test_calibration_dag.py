"""The DAG that calibrates: its shape, its pods, and what its own tasks decide from real artifacts.

The whole of it runs on the real parts in tests/end_to_end.
"""

from tests.plugins import environment  # isort: skip  before anything of Airflow

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from artifacts.calibrations import Accepted, Calibrations
from artifacts.store import Store
from plugins.calibration import build_dag, moved_asset
from plugins.operators.calibrate import (
    AcceptCalibrationOperator,
    NameDatasetOperator,
    WhetherMovedOperator,
    skip_without_earlier,
)
from plugins.operators.resolve import calibrated_on
from plugins.settings import Addresses
from sluice.errors import SpecError
from sluice.release import CalibratedOn, Release, dataset_rules, drift_key
from tests.plugins.airflow_run import AirflowRun
from tests.plugins.runtime import Ti, context
from tests.sluice.specs import parse

RECORDING = {"percent": 1, "recorder": "http://127.0.0.1:1", "source": "recordings/tiny"}
EARLIER, DATASET = "c" * 64, "d" * 64


def spec_of(**changes: Any) -> Any:
    return parse({"recording": RECORDING, **changes})


INT8 = spec_of(precisions=["fp32", "int8"])


@pytest.fixture(scope="module")
def dag() -> Any:
    return build_dag(spec_of(), Addresses(namespace="n", store_volume=environment.VOLUME))


@pytest.fixture(scope="module")
def scheduled(dag: Any, stored: Any) -> Any:
    """As Airflow's scheduler reads it."""
    return stored(dag)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLUICE_STORE", str(tmp_path / "store"))
    return Store(tmp_path / "store")


def publish(store: Store, kind: str, key: str, **facts: Any) -> None:
    with store.staged(kind, key) as draft:
        (draft.path / "file").write_text("x", encoding="utf-8")
        draft.publish(facts)


def named(store: Store, tmp_path: Path, *, ti: Ti | None = None) -> tuple[Ti, Release]:
    """What `resolve` leaves for the tasks behind it."""
    folder = tmp_path / "source" / "2026-01"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_text("w")
    ti = ti or Ti(task_id="resolve", dag_id="calibrate__tiny")
    spec = spec_of(**{"model.source": str(folder.parent)})
    facts = NameDatasetOperator(task_id="resolve", spec=spec).execute(context(ti))
    ti.xcoms["resolve", "return_value"] = facts
    text = (store.path("release", facts["document"]) / "release.json").read_text()
    return ti, Release.from_json(text)


def test_nothing_is_found_anew_before_the_data_was_checked_and_compared(dag: Any) -> None:
    follows = {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
    assert follows == {
        "resolve": ["export", "gather"],
        "export": ["drift"],
        "gather": ["drift"],
        "drift": ["moved"],
        "moved": ["calibrate"],
        "calibrate": ["accept"],
        "accept": [],
    }
    assert dag.schedule == "0 4 * * 0"
    assert dag.max_active_runs == 1


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("gather", ["python", "-m", "calibration", "gather"]),
        ("drift", ["python", "-m", "calibration", "drift"]),
        ("calibrate", ["python", "-m", "calibration"]),
    ],
)
def test_every_pod_of_it_has_the_runs_own_store_and_release(dag: Any, task: str, words: list[str]) -> None:
    pod = dag.get_task(task)
    assert pod.cmds == words
    assert pod.arguments[:3] == ["--store", "/var/lib/sluice/store", "--release"]
    assert ("--against" in pod.arguments) == (task == "drift")


@pytest.mark.parametrize("recording", [None, {**RECORDING, "source": None}])
def test_a_spec_that_reads_no_recordings_is_an_import_error_by_field(recording: Any) -> None:
    addresses = Addresses(namespace="n", store_volume=environment.VOLUME)
    with pytest.raises(SpecError, match=r"recording\.source"):
        build_dag(parse({"recording": recording}), addresses)


def test_a_run_names_its_dataset_and_what_it_is_compared_with(store: Store, tmp_path: Path) -> None:
    ti, release = named(store, tmp_path)
    facts = ti.xcoms["resolve", "return_value"]
    assert release.calibrated_on == CalibratedOn(dataset=facts["dataset"])
    assert facts["against"] is None
    publish(store, "dataset", DATASET, passed=True, rules=dataset_rules(spec_of()))
    publish(store, "calibration", EARLIER)
    Calibrations(store).accept("tiny", Accepted(dataset=DATASET, calibration=EARLIER))
    again, _ = named(store, tmp_path)
    assert again.xcoms["resolve", "return_value"] == {**facts, "against": EARLIER}
    other, _ = named(store, tmp_path, ti=Ti(task_id="resolve", run_id="run-2"))
    assert other.xcoms["resolve", "return_value"]["dataset"] != facts["dataset"]


def test_the_first_run_has_nothing_to_compare_with_and_goes_on(store: Store, tmp_path: Path) -> None:
    ti, _ = named(store, tmp_path)
    with pytest.raises(AirflowSkipException, match="nothing to compare with"):
        skip_without_earlier(context(ti))
    ti.task_id = "moved"
    WhetherMovedOperator(task_id="moved").execute(context(ti))
    assert "no calibration" in ti.xcoms["moved", "why"]["why"]


def compared(store: Store, tmp_path: Path, **facts: Any) -> Ti:
    ti, release = named(store, tmp_path)
    ti.xcoms["resolve", "return_value"]["against"] = EARLIER
    publish(store, "drift", drift_key(release, EARLIER), **facts)
    ti.task_id = "moved"
    return ti


def test_traffic_that_moved_goes_on_with_the_tensors(store: Store, tmp_path: Path) -> None:
    ti = compared(
        store, tmp_path, valid=False, why="1 tensors moved", moved={"h": 0.2}, worst=None, limit=5e-4
    )
    skip_without_earlier(context(ti))
    WhetherMovedOperator(task_id="moved").execute(context(ti))
    assert ti.xcoms["moved", "why"] == {"moved": {"h": 0.2}, "why": "1 tensors moved"}


def test_traffic_that_did_not_move_ends_the_run_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = {"tensor": "h", "divergence": 1e-4}
    ti = compared(store, tmp_path, valid=True, why="", moved={}, worst=worst, limit=5e-4)
    skipped: list[str] = []
    operator = WhetherMovedOperator(task_id="moved")
    monkeypatch.setattr(operator, "get_flat_relatives", lambda upstream: ["calibrate", "accept"])
    monkeypatch.setattr(operator, "skip", lambda ti, tasks: skipped.extend(tasks))
    assert "h is farthest, 0.0001 of 0.0005" in operator.execute(context(ti))
    assert skipped == ["calibrate", "accept"]
    assert ("moved", "why") not in ti.xcoms


@pytest.mark.parametrize("missing", ["artifact", "verdict"])
def test_no_comparison_is_not_no_drift(store: Store, tmp_path: Path, missing: str) -> None:
    ti, release = named(store, tmp_path)
    ti.xcoms["resolve", "return_value"]["against"] = EARLIER
    if missing == "verdict":
        publish(store, "drift", drift_key(release, EARLIER), why="")
    with pytest.raises(AirflowFailException, match=r"no drift|says nothing of valid"):
        WhetherMovedOperator(task_id="moved").execute(context(ti))


class Events(dict[Any, Any]):
    def __missing__(self, key: Any) -> Any:
        return self.setdefault(key, SimpleNamespace(extra={}))


def test_an_accepted_calibration_is_what_promotions_use_from_then_on_and_an_event_says_so(
    store: Store, tmp_path: Path
) -> None:
    ti, release = named(store, tmp_path)
    ti.xcoms["moved", "why"] = {"moved": {"h": 0.2}, "why": "1 tensors moved"}
    facts = ti.xcoms["resolve", "return_value"]
    publish(store, "dataset", facts["dataset"], passed=True, rules=dataset_rules(release.spec))
    publish(store, "calibration", release.keys.calibration)
    assert calibrated_on(store, INT8) is None
    asset, events = moved_asset("tiny"), Events()
    operator = AcceptCalibrationOperator(task_id="accept", outlets=[asset])
    operator.execute({**context(ti), "outlet_events": events})
    assert calibrated_on(store, INT8) == CalibratedOn(
        dataset=facts["dataset"], reuse=release.keys.calibration
    )
    assert events[asset].extra["moved"] == {"h": 0.2}
    assert json.dumps(events[asset].extra)  # Airflow stores it as JSON


def test_what_is_not_in_the_store_is_never_accepted(store: Store, tmp_path: Path) -> None:
    ti, _ = named(store, tmp_path)
    operator = AcceptCalibrationOperator(task_id="accept", outlets=[moved_asset("tiny")])
    with pytest.raises(AirflowFailException, match="no calibration"):
        operator.execute({**context(ti), "outlet_events": Events()})
    assert calibrated_on(store, INT8) is None


def test_a_run_in_which_nothing_moved_is_green_for_airflow(scheduled: Any) -> None:
    run = AirflowRun(scheduled)
    done = dict.fromkeys(("resolve", "export", "gather", "drift", "moved"), "success")
    run.put(**done, calibrate="skipped", accept="skipped")
    run.schedule()
    assert run.read(lambda row: str(row.state)) == "success"


def test_a_first_run_goes_on_although_the_comparison_is_skipped(scheduled: Any) -> None:
    run = AirflowRun(scheduled)
    run.put(resolve="success", export="success", gather="success", drift="skipped")
    run.schedule()
    assert run.states()["moved"] not in ("skipped", "upstream_failed")


def test_a_bad_dataset_stops_the_run_before_anything_is_found_anew(scheduled: Any) -> None:
    run = AirflowRun(scheduled)
    run.put(resolve="success", export="success", gather="failed")
    run.schedule()
    assert {run.states()[task] for task in ("drift", "moved", "calibrate", "accept")} == {"upstream_failed"}
    assert run.read(lambda row: str(row.state)) == "failed"
