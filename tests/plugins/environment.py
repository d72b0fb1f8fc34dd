"""Airflow's environment for tests: a home of its own, before anything of Airflow is imported."""

import atexit
import functools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
VOLUME = {"hostPath": {"path": "/srv/sluice"}}
ENVIRONMENT = {
    "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "SLUICE_STORE_VOLUME": json.dumps(VOLUME),
    "SLUICE_CHECKPOINTS": "/srv/checkpoints",
    "SLUICE_CPU_ARCH": "cpu-avx2",
    "SLUICE_NAMESPACE": "sluice",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@functools.cache
def prepare() -> Path:
    """Set the environment once per process; Airflow's home."""
    home = Path(tempfile.mkdtemp(prefix="sluice-airflow-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ.update(ENVIRONMENT | {"AIRFLOW_HOME": str(home)})
    if str(REPO) not in sys.path:
        sys.path.insert(0, str(REPO))
    return home


prepare()
