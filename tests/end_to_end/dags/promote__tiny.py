"""Airflow DAG of the end-to-end tests' model: everything about it stands in models/tiny.yaml."""

from plugins.promotion import promotion_dag

dag = promotion_dag(__file__)
