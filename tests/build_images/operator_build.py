"""Runs one build pod by the unmodified KubernetesPodOperator, as the DAG describes it; prints one JSON line.

`python -m tests.build_images.operator_build KUBECONFIG NAMESPACE STORE DOCUMENT ARCH`, AIRFLOW_HOME set by the caller.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from artifacts.pods import load_release
from artifacts.store import Store
from plugins.pods import DOCUMENT, build, build_target
from plugins.settings import Addresses
from tests.local.cluster.operator_run import context


def main() -> None:
    kubeconfig, namespace, root, document, arch = sys.argv[1:]
    spec = load_release(Store(Path(root)), document).spec
    addresses = Addresses(namespace=namespace, store_volume={"hostPath": {"path": root}})
    told = {**build(service=spec.service, addresses=addresses), **build_target(spec.target(arch))}
    # What Airflow would have rendered or taken from its database.
    told["arguments"] = [document if value == DOCUMENT else value for value in told["arguments"]]
    told["labels"] = {name: text for name, text in told["labels"].items() if "{{" not in text}
    told |= {"kubernetes_conn_id": None, "config_file": kubeconfig}
    operator = KubernetesPodOperator(**told)
    mapped = context(operator)
    # The operator attaches itself to a pod of its own run, task and map index: without one, to another target's.
    mapped["ti"].map_index = [target.arch for target in spec.targets].index(arch)
    mapped["ti"].run_id = mapped["run_id"] = document[:12]
    mapped["dag_run"].run_id = document[:12]
    try:
        operator.execute(mapped)
    except Exception as error:
        print("RESULT " + json.dumps({"arch": arch, "result": type(error).__name__, "text": str(error)}))
    else:
        node = operator.remote_pod.spec.node_name
        print("RESULT " + json.dumps({"arch": arch, "result": "success", "node": node}))


if __name__ == "__main__":
    main()
