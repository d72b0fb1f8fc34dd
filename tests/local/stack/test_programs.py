"""Every part has a port of its own, and Airflow is told in words that it knows."""

from dataclasses import fields
from pathlib import Path

import airflow
import yaml

from local.stack.programs import Layout, airflow_env


def layout(folder):
    return Layout.make(folder, folder / "dags")


def test_every_part_has_a_port_of_its_own(tmp_path):
    made = layout(tmp_path)
    ports = [getattr(made, field.name) for field in fields(made) if field.type == "int"]
    assert len(ports) >= 10
    assert len(set(ports)) == len(ports)


def test_airflow_s_log_servers_listen_on_ports_of_this_stack(tmp_path):
    """Their defaults are fixed: a second stack on the machine would read the first one's logs, or none."""
    made = layout(tmp_path)
    env = airflow_env(made, tmp_path)
    assert env["AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT"] == str(made.worker_logs)
    assert env["AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT"] == str(made.trigger_logs)


def test_every_option_is_one_of_the_installed_airflow(tmp_path):
    """A misspelt name is no error in Airflow: it is never read."""
    config = Path(airflow.__file__).with_name("config_templates") / "config.yml"
    known = {
        f"AIRFLOW__{section}__{option}".upper()
        for section, facts in yaml.safe_load(config.read_text()).items()
        for option in facts["options"]
    }
    told = {name for name in airflow_env(layout(tmp_path), tmp_path) if name.startswith("AIRFLOW__")}
    assert len(told) > 10
    assert told <= known
