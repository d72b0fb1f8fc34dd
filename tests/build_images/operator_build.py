"""Runs one build pod by the unmodified KubernetesPodOperator, as the DAG describes it; prints one JSON line.

`python -m tests.build_images.operator_build KUBECONFIG STORE DOCUMENT ARCH`, AIRFLOW_HOME set by the caller.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from artifacts.pods import load_release
from artifacts.store import Store
from plugins.pods import DOCUMENT, PodRetryPolicy, build, build_target
from plugins.settings import Addresses
from tests.local.cluster.operator_run import context


def main() -> None:
    kubeconfig, root, document, arch = sys.argv[1:]
    spec = load_release(Store(Path(root)), document).spec
    addresses = Addresses(namespace="default", store_volume={"hostPath": {"path": root}})
    told = {**build(service=spec.service, addresses=addresses), **build_target(spec.target(arch))}
    # What Airflow would have rendered or taken from its database.
    told["arguments"] = [document if value == DOCUMENT else value for value in told["arguments"]]
    told["labels"] = {name: text for name, text in told["labels"].items() if "{{" not in text}
    told |= {"kubernetes_conn_id": None, "config_file": kubeconfig}
    operator = KubernetesPodOperator(**told)
    error: Exception | None = None
    try:
        operator.execute(context(operator))
    except Exception as raised:
        error = raised
    decision = PodRetryPolicy().evaluate(error or RuntimeError(), 1, 3, {"task": operator})
    answer = {
        "error": type(error).__name__,
        "text": str(error),
        "node": operator.remote_pod.spec.node_name,
        "decision": decision.action.value,
        "why": decision.reason,
    }
    print("RESULT " + json.dumps(answer))


if __name__ == "__main__":
    main()
