"""Airflow DAG that promotes minilm: everything about it stands in models/minilm.yaml."""

from plugins.promotion import promotion_dag

dag = promotion_dag(__file__)
