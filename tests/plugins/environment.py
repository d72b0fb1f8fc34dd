"""Airflow for tests: a home of its own, before anything of Airflow is imported, and the addresses of one cluster.

Invariant: of this process's environment only `KEPT` is set for good. Libraries read it while they are imported, and
a child that lacked it would write into the person's own ~/airflow. Every option of Airflow stands in that home's
airflow.cfg, where no other test's child inherits it; the addresses hold while a test runs (`set_addresses`).
"""

import atexit
import configparser
import functools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
VOLUME = {"hostPath": {"path": "/srv/sluice"}}
OPTIONS = {
    "core": {
        "dags_folder": str(REPO / "dags"),
        "plugins_folder": str(REPO / "plugins"),
        "load_examples": "False",
    }
}
ADDRESSES = {
    "SLUICE_STORE_VOLUME": json.dumps(VOLUME),
    "SLUICE_CHECKPOINTS": "/srv/checkpoints",
    "SLUICE_CPU_ARCH": "cpu-avx2",
    "SLUICE_IMAGE_TAG": "1",
    "SLUICE_RECORDER": "http://127.0.0.1:8300",
    "SLUICE_NAMESPACE": "sluice",
}
KEPT = ("AIRFLOW_HOME", "MLFLOW_DISABLE_TELEMETRY")


@functools.cache
def prepare() -> Path:
    """Make Airflow's home once per process and name it in the environment; the home."""
    home = Path(tempfile.mkdtemp(prefix="sluice-airflow-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    options = configparser.ConfigParser(interpolation=None)
    options.read_dict(OPTIONS)
    with (home / "airflow.cfg").open("w") as file:
        options.write(file)
    # A variable outranks the file: what the person has set for an Airflow of their own must not reach the tests.
    for name in [name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONFIG"))]:
        del os.environ[name]
    os.environ.update(dict(zip(KEPT, (str(home), "true"), strict=True)))
    if str(REPO) not in sys.path:
        sys.path.insert(0, str(REPO))
    return home


def set_addresses(patch: pytest.MonkeyPatch) -> None:
    """What the environment of Airflow's parts says, until `patch` is undone."""
    for name, value in ADDRESSES.items():
        patch.setenv(name, value)


prepare()
