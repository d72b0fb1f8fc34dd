"""The tests' Airflow is nobody else's: what it needs stands in its home, not in what every child inherits."""

import json
import os
import subprocess
import sys

import pytest

from tests.plugins import environment

# What another test's child would inherit, and what Airflow makes of it.
SEEN = """
import json, os
before = dict(os.environ)
import tests.plugins.conftest, tests.dags.conftest
changed = {name for name in {**before, **os.environ} if before.get(name) != os.environ.get(name)}
from airflow.configuration import conf
options = [conf.get("core", name) for name in ("dags_folder", "plugins_folder", "load_examples")]
print(json.dumps([sorted(changed), options, conf.get("logging", "logging_level")]))
"""


@pytest.fixture
def person(tmp_path):
    """The environment of somebody who has an Airflow of their own."""
    clean = {name: value for name, value in os.environ.items() if name not in environment.KEPT}
    own = {"AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path), "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
    return {**clean, **own, "PYTHONPATH": str(environment.REPO)}


def test_nothing_that_changes_another_tests_airflow_is_left_in_the_environment(person):
    """A logging level among them once dropped the lines of a pod from a test that reads them."""
    argv = [sys.executable, "-c", SEEN]
    ran = subprocess.run(
        argv, env=person, cwd=environment.REPO, capture_output=True, text=True, check=True, timeout=120
    )
    changed, options, level = json.loads(ran.stdout.splitlines()[-1])
    inherited = {name for name in person if name.startswith("AIRFLOW__")}
    assert set(changed) == {*environment.KEPT, *inherited}
    assert options == [*environment.OPTIONS["core"].values()]
    assert level == "INFO"


def test_the_addresses_end_with_the_test(monkeypatch):
    with monkeypatch.context() as patch:
        for name in environment.ADDRESSES:
            patch.delenv(name)
        before = dict(os.environ)
        with patch.context() as inner:
            environment.set_addresses(inner)
            assert environment.ADDRESSES.items() <= os.environ.items()
        assert dict(os.environ) == before
