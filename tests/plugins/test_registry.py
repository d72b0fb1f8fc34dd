"""MLflow's papers, on a real MLflow store (SQLite, no server): found again, complete, readable."""

import json

import pytest

from plugins.hooks.registry import CANDIDATE, CHAMPION, PREVIOUS, Entry, Registry, RegistryUnavailableError
from tests.sluice.specs import parse

SERVICE = "tiny"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store, an ONNX file of one node, and a folder of papers."""
    import onnx
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("mlflow")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    (folder / "papers").mkdir()
    (folder / "papers" / "report.json").write_text(json.dumps({"p50_ms": 1}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def registry(home):
    return Registry(f"sqlite:///{home / 'mlflow.db'}")


def entry(home, *, digest="d1", run="r1"):
    return Entry(
        service=SERVICE,
        digest=digest,
        run=run,
        onnx=home / "model.onnx",
        signature=parse().signature,
        files={"engines/cpu": home / "papers"},
        tags={"stage": "registered"},
        description="### card",
    )


def test_a_version_has_its_onnx_its_papers_and_the_candidate_alias(registry, home):
    version = registry.register(entry(home))
    found = registry.client.get_model_version(SERVICE, version)
    assert found.tags == {"stage": "registered", "digest": "d1", "run": "r1"}
    assert found.description == "### card"
    assert registry.alias(SERVICE, CANDIDATE) == version
    model_id = found.source.removeprefix("models:/")
    paths = {item.path for item in registry.client.list_logged_model_artifacts(model_id, "engines/cpu")}
    assert paths == {"engines/cpu/report.json"}
    import mlflow

    flavour = mlflow.models.get_model_info(f"models:/{SERVICE}/{version}")
    assert "onnx" in flavour.flavors
    assert flavour.signature.inputs.input_names() == ["x"]


def test_a_retry_finds_its_version_and_another_run_gets_its_own(registry, home):
    first = registry.register(entry(home))
    assert registry.register(entry(home)) == first
    assert registry.register(entry(home, run="r2")) == str(int(first) + 1)
    assert registry.alias(SERVICE, CANDIDATE) == str(int(first) + 1)


def test_promotion_moves_the_aliases_and_twice_is_once(registry, home):
    one, two = registry.register(entry(home)), registry.register(entry(home, run="r2"))
    for version in (one, two, two):
        registry.promote(SERVICE, version)
    aliases = {name: registry.alias(SERVICE, name) for name in (CHAMPION, PREVIOUS, CANDIDATE)}
    assert aliases == {CHAMPION: two, PREVIOUS: one, CANDIDATE: None}


def test_the_candidate_alias_of_a_newer_version_is_left_alone(registry, home):
    one, two = registry.register(entry(home)), registry.register(entry(home, run="r2"))
    registry.drop_candidate(SERVICE, one)
    assert registry.alias(SERVICE, CANDIDATE) == two


def test_the_outcome_stands_above_the_card_once(registry, home):
    version = registry.register(entry(home, run="r3"))
    for text in ("held", "promoted"):
        registry.describe_above(SERVICE, version, text, marker="outcome")
    assert registry.client.get_model_version(SERVICE, version).description == (
        "promoted\n\n<!-- outcome -->\n\n### card"
    )


def test_mlflow_away_is_retryable_and_names_the_connection(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Registry("http://127.0.0.1:9")
    with pytest.raises(RegistryUnavailableError, match="AIRFLOW_CONN_SLUICE_MLFLOW"):
        away.find(SERVICE, "d1", "r1")
