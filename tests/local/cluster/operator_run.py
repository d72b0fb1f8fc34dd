"""Runs the unmodified KubernetesPodOperator without an Airflow database; prints one JSON line per pod.

`python -m tests.local.cluster.operator_run KUBECONFIG NAMESPACE`, with AIRFLOW_HOME set by the caller.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from tests.local.cluster.kube import PYTHON

CASES = {
    "good": "print('hello from the pod')",
    "bad": "import sys; print('loading'); sys.exit('error: no checkpoint in /data; put one there')",
}


def context(task: KubernetesPodOperator) -> dict[str, Any]:
    """What the operator reads of a running task."""
    instance = SimpleNamespace(
        task_id=task.task_id,
        dag_id="contract",
        run_id="r1",
        map_index=-1,
        try_number=1,
        xcom_push=lambda **_: None,
    )
    run = SimpleNamespace(dag_id="contract", run_id="r1")
    dag = SimpleNamespace(dag_id="contract")
    return {
        "ti": instance,
        "task_instance": instance,
        "dag": dag,
        "dag_run": run,
        "run_id": "r1",
        "task": task,
    }


def run(name: str, code: str, kubeconfig: str, namespace: str) -> dict[str, str]:
    operator = KubernetesPodOperator(
        task_id=name,
        name=name,
        namespace=namespace,
        image=PYTHON,
        cmds=["python", "-c", code],
        kubernetes_conn_id=None,
        config_file=kubeconfig,
        in_cluster=False,
        termination_message_policy="FallbackToLogsOnError",
        on_finish_action="delete_succeeded_pod",
        log_events_on_failure=True,
        startup_timeout_seconds=60,
    )
    try:
        operator.execute(context(operator))
    except Exception as error:
        return {"case": name, "result": type(error).__name__, "text": str(error)}
    return {"case": name, "result": "success", "text": ""}


if __name__ == "__main__":
    for case, source in CASES.items():
        print("RESULT " + json.dumps(run(case, source, sys.argv[1], sys.argv[2])), flush=True)
