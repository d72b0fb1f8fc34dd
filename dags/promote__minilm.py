"""Airflow DAG that promotes minilm: everything about it stands in models/minilm.yaml."""

import airflow.providers.cncf.kubernetes.operators.pod  # noqa: F401 the dag-processor then imports it once, not per parse

from plugins.promotion import promotion_dag

dag = promotion_dag(__file__)
