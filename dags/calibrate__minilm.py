"""Airflow DAG that finds minilm's INT8 scales from its recorded traffic: see `recording` in models/minilm.yaml."""

from plugins.calibration import calibration_dag

dag = calibration_dag(__file__)
