"""Servers that stand in for the controller and Prometheus, and a database of Airflow's own."""

from tests.plugins import environment  # isort: skip  before anything of Airflow

import itertools
import json

import pytest

from tests.local.cluster.kube import Emulator, Kube
from tests.plugins.stand import Stand
from tests.sluice.specs import SHA, parse

NUMBERS = itertools.count(1)


@pytest.fixture(autouse=True)
def addresses(monkeypatch):
    """What a worker's environment says, for as long as one test."""
    environment.set_addresses(monkeypatch)


@pytest.fixture
def controller(monkeypatch):
    """A server on loopback that answers as the test tells it; Airflow's connection points there."""
    with Stand() as stand:
        monkeypatch.setenv("AIRFLOW_CONN_SLUICE_CONTROLLER", f"http://:secret@127.0.0.1:{stand.port}")
        yield stand


@pytest.fixture
def prometheus(monkeypatch):
    with Stand() as stand:
        monkeypatch.setenv("AIRFLOW_CONN_SLUICE_PROMETHEUS", f"http://127.0.0.1:{stand.port}")
        yield stand


@pytest.fixture(scope="session")
def airflow_db():
    """Airflow's metadata database on SQLite, made once per session."""
    environment.prepare()
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def store(tmp_path, monkeypatch):
    """`store(changes)` publishes a release of the test spec into a store of its own; its document's digest."""
    from artifacts.store import Store
    from sluice.release import Release

    monkeypatch.setenv("SLUICE_STORE", str(tmp_path / "store"))

    def publish(changes):
        release = Release(parse(changes), SHA)
        with Store(tmp_path / "store").staged("release", release.document_sha256) as draft:
            (draft.path / "release.json").write_text(release.to_json())
            draft.publish({"checkpoint": "one"})
        return release.document_sha256

    return publish


@pytest.fixture(scope="session")
def stored(airflow_db):
    """`stored(dag)`: the DAG as the scheduler reads it from the database."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.serialized_objects import DagSerialization, LazyDeserializedDAG
    from airflow.utils.session import create_session

    with create_session() as session:
        session.add(DagBundleModel(name="tests"))

    def store(written):
        lazy = LazyDeserializedDAG.from_dag(written)
        with create_session() as session:
            SerializedDAG.bulk_write_to_db("tests", None, [lazy], session=session)
            SerializedDagModel.write_dag(lazy, bundle_name="tests", session=session)
        return DagSerialization.from_dict(DagSerialization.to_dict(written))

    return store


@pytest.fixture(scope="session")
def dag(stored):
    """A promotion's DAG as the scheduler reads it from the database."""
    from plugins.promotion import build_dag
    from plugins.settings import Addresses

    return stored(build_dag(parse(), Addresses(namespace="n", store_volume={"emptyDir": {}})))


@pytest.fixture
def run(dag):
    """A new run of it; `states()` reads its tasks, `put` sets some."""
    from tests.plugins.airflow_run import AirflowRun

    return AirflowRun(dag)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """The local cluster, started as a user starts it."""
    with Emulator(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def kube(emulator, monkeypatch):
    """A namespace of its own; Airflow's connection and SLUICE_NAMESPACE point there."""
    extra = {"kube_config_path": str(emulator.kubeconfig)}
    connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", connection)
    with Kube(emulator.kubeconfig, f"plugins-{next(NUMBERS)}") as started:
        monkeypatch.setenv("SLUICE_NAMESPACE", started.namespace)
        yield started
