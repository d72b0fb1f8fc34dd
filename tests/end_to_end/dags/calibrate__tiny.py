"""Airflow DAG that calibrates the end-to-end tests' model on its recorded traffic."""

from plugins.calibration import calibration_dag

dag = calibration_dag(__file__)
