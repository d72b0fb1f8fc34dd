"""Parsing: cheap for the dag-processor, and one model's mistake stays one model's."""

import subprocess
import sys

import pytest
import yaml

from tests.plugins import environment
from tests.sluice.specs import whole

HEAVY = (
    "torch",
    "mlflow",
    "onnx",
    "onnxruntime",
    "pandas",
    "great_expectations",
    "matplotlib",
    "scipy",
    "numpy",
    "sqlalchemy.orm.x",
)


def good(service):
    return yaml.safe_dump(whole({"service": service}), sort_keys=False)


@pytest.mark.parametrize("name", ["promote__minilm.py", "calibrate__minilm.py"])
def test_a_dag_file_imports_nothing_heavy(name):
    """What each parse costs is paid every thirty seconds, for every model."""
    path = environment.REPO / "dags" / name
    code = (
        "import sys, airflow.sdk, airflow.providers.cncf.kubernetes.operators.pod;"
        "before = set(sys.modules);"
        f"import runpy; runpy.run_path({str(path)!r});"
        f"print(sorted(set({HEAVY!r}) & (set(sys.modules) - before)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=environment.REPO
    )
    assert out.stdout.strip().splitlines()[-1] == "[]"


def test_a_dag_file_is_three_statements_and_names_no_model_but_by_its_own_name():
    import ast

    for path in (environment.REPO / "dags").glob("[a-z]*__*.py"):
        docstring, *rest = ast.parse(path.read_text()).body
        assert isinstance(docstring, ast.Expr)
        assert [type(statement).__name__ for statement in rest] == ["ImportFrom", "Assign"], path


def test_a_wrong_spec_is_an_import_error_of_its_own_file_with_every_problem(written):
    wrong = whole(
        {
            "service": "wrong",
            "stages": [{"percent": 5, "dwell_s": 1}, {"percent": 5, "dwell_s": 1}],
            "gates": {"metrics": ["failure", "mood"]},
            "colour": "blue",
            "targets.0.selector": {},
        }
    )
    bag = written({"right": good("right"), "wrong": yaml.safe_dump(wrong, sort_keys=False)})
    assert set(bag.dags) == {"promote__right"}
    ((path, error),) = bag.import_errors.items()
    assert path.endswith("promote__wrong.py")
    for field, value in (
        ("stages", "5"),
        ("gates.metrics.1", "mood"),
        ("colour", "blue"),
        ("targets.0.selector", "{}"),
    ):
        assert field in error, field
        assert value in error, field
    assert "dags/models" in error


def test_a_missing_spec_names_the_file(written):
    bag = written({"right": good("right"), "gone": None})
    assert set(bag.dags) == {"promote__right"}
    assert "gone.yaml: No such file" in next(iter(bag.import_errors.values()))


def test_a_spec_of_another_service_is_refused(written):
    bag = written({"one": good("two")})
    assert bag.dags == {}
    assert "service = 'two'" in next(iter(bag.import_errors.values()))


def test_a_missing_address_names_the_variable(written, monkeypatch):
    monkeypatch.delenv("SLUICE_STORE_VOLUME")
    bag = written({"one": good("one")})
    assert "SLUICE_STORE_VOLUME" in next(iter(bag.import_errors.values()))
