"""The DagBag of the repository and of folders that a test writes, parsed as Airflow parses them."""

from tests.plugins import environment  # isort: skip  before anything of Airflow

import shutil

import pytest


@pytest.fixture(autouse=True)
def addresses(monkeypatch):
    """What the dag-processor's environment says, for as long as one test."""
    environment.set_addresses(monkeypatch)


def parsed(folder):
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(folder))


@pytest.fixture(scope="session")
def bag():
    """Every DAG of the repository."""
    with pytest.MonkeyPatch.context() as patch:
        environment.set_addresses(patch)
        return parsed(environment.REPO / "dags")


@pytest.fixture
def written(tmp_path):
    """`written({name: yaml text})`: a DAGs folder of those models, parsed."""

    def write(models):
        (tmp_path / "models").mkdir()
        shutil.copy(environment.REPO / "dags" / ".airflowignore", tmp_path)
        for name, text in models.items():
            shutil.copy(environment.REPO / "dags" / "promote__minilm.py", tmp_path / f"promote__{name}.py")
            if text is not None:
                (tmp_path / "models" / f"{name}.yaml").write_text(text)
        return parsed(tmp_path)

    return write
