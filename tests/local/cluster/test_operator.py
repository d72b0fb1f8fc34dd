"""Contract with the unmodified KubernetesPodOperator: a pod that succeeds, one that fails with its message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.cluster.kube import REPO, Kube


def airflow_env(home: Path) -> dict[str, str]:
    """An Airflow at `home` with the options of its own defaults, and INFO: at that level the operator tells the
    pod's log. What this process was given for another Airflow is left out."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    own = {"AIRFLOW_HOME": str(home), "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"}
    return {**inherited, **own, "PYTHONPATH": str(REPO)}


def test_the_unmodified_operator_runs_a_pod_and_reports_another_ones_failure(
    kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this session has set for an Airflow of its own."""
    monkeypatch.setenv("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")
    monkeypatch.setenv("AIRFLOW_CONFIG", str(tmp_path / "none.cfg"))
    argv = [sys.executable, "-m", "tests.local.cluster.operator_run", str(kube.kubeconfig), kube.namespace]
    done = subprocess.run(
        argv,
        cwd=REPO,
        env=airflow_env(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    results = [json.loads(line[7:]) for line in output.splitlines() if line.startswith("RESULT ")]
    good, bad = results
    assert (good["case"], good["result"]) == ("good", "success")
    assert "hello from the pod" in output
    assert bad["result"] != "success"
    assert "error: no checkpoint in /data; put one there" in bad["text"]
    # Only the failed pod is kept, as the operator was told.
    left = kube.core.list_namespaced_pod(kube.namespace).items
    assert [one.status.phase for one in left] == ["Failed"]
    assert left[0].metadata.labels["task_id"] == "bad"
