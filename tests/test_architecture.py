"""The tree is the architecture: who imports whom, what the lock names, what the documents point at."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
PACKAGES = tuple(CONFIG["root_packages"])
LINT = Path(sys.executable).with_name("lint-imports")


def lint(folder):
    """Run import-linter with our contracts on the packages in `folder`."""
    command = [str(LINT), "--config", str(folder / "pyproject.toml"), "--no-cache"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(folder)}
    )


def test_nobody_imports_whom_they_must_not():
    ran = lint(ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        pytest.param("sluice", "asyncio", id="the-rules-do-io"),
        pytest.param("sluice", "artifacts", id="the-rules-know-the-store"),
        pytest.param("artifacts", "plugins", id="the-store-knows-airflow-s-side"),
        pytest.param("plugins", "serving", id="airflow-s-side-knows-the-servers"),
        pytest.param("build_images", "calibration", id="pods-know-each-other"),
        pytest.param("dags", "serving", id="dags-go-around-plugins"),
    ],
)
def test_the_linter_sees_each_forbidden_import(tmp_path, package, forbidden):
    """A contract that nothing can break proves nothing: each one is broken here once."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert lint(tmp_path).returncode == 0
    (tmp_path / package / "broken.py").write_text(f"import {forbidden}\n")
    ran = lint(tmp_path)
    assert ran.returncode == 1
    assert f"{package}.broken -> {forbidden}" in ran.stdout


# --- the seven packages -------------------------------------------------------------------------

# By name in requirements.txt: the module, and the folder that uses it. tensorrt is in the image of the builder.
SEVEN = {
    "apache-airflow": ("airflow", "plugins"),
    "apache-airflow-providers-cncf-kubernetes": ("airflow.providers.cncf.kubernetes", "plugins"),
    "tensorrt": ("tensorrt", None),
    "onnx": ("onnx", "build_images"),
    "mlflow": ("mlflow", "plugins"),
    "great-expectations": ("great_expectations", "artifacts"),
    "requests": ("requests", "plugins/hooks"),
}
TENSORRT = 'tensorrt==8.6.0; python_version == "3.10"'


def required(path):
    """The lines of a requirements file by normalised name."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return {re.split(r"[=<>~!;\[ ]", line)[0].replace("_", "-").lower(): line for line in lines if line}


def imported(folder):
    """Every module that a file below the folder imports, at whatever level."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return found


@pytest.mark.parametrize("name", SEVEN)
def test_the_lock_pins_each_of_the_seven(name):
    assert "==" in required(ROOT / "requirements.txt")[name]


@pytest.mark.parametrize("name", [name for name, (_, folder) in SEVEN.items() if folder])
def test_each_of_the_seven_is_used_where_it_belongs(name):
    module, folder = SEVEN[name]
    used = imported(ROOT / folder)
    assert any(one == module or one.startswith(f"{module}.") for one in used), folder


def test_tensorrt_is_the_complete_wheel_and_skipped_where_there_is_none():
    """8.6.0 is the last complete wheel on PyPI, for CPython 3.10 only; the environment here is 3.11."""
    assert required(ROOT / "requirements.txt")["tensorrt"] == TENSORRT
    assert required(ROOT / "requirements.in")["tensorrt"] == TENSORRT


BUILDER = ROOT / "build_images" / "engine_builder"
IMAGES = sorted(path for path in (ROOT / "build_images").rglob("Dockerfile*"))


def test_the_builder_s_image_names_the_tensorrt_that_must_be_in_it():
    text = (BUILDER / "Dockerfile").read_text()
    assert re.search(r"^ARG TENSORRT_VERSION=\d+\.\d+\.\d+", text, re.MULTILINE)
    assert text.count("${TENSORRT_VERSION}") == 1  # it is compared, by the image's own interpreter
    assert "tensorrt" not in required(BUILDER / "requirements.txt")


@pytest.mark.parametrize("folder", ["engine_builder", "exporter"])
def test_an_image_installs_what_is_locked(folder):
    """An image of other versions than the tests ran with was tested by nobody."""
    locked = required(ROOT / "requirements.txt")
    asked = required(ROOT / "build_images" / folder / "requirements.txt")
    assert asked
    for name, line in asked.items():
        assert line.partition("==")[1:] == locked[name].partition("==")[1:], name


def test_tensorrt_s_own_python_gets_exact_versions_and_the_builder_s_numpy_where_it_can():
    lines = [line.split("#")[0].strip() for line in (BUILDER / "tensorrt_worker" / "requirements.txt").open()]
    pins = [line for line in lines if line]
    assert {re.split("==", line)[0] for line in pins} == {"numpy", "cuda-bindings", "nvidia-ml-py"}
    assert all(re.match(r"[\w-]+==\d[\w.]*(;|$)", line) for line in pins)
    newer = f'{required(BUILDER / "requirements.txt")["numpy"]}; python_version >= "3.11"'
    assert newer in pins


def test_the_images_of_the_builder_are_all_there():
    assert {path.name for path in IMAGES if path.parent == BUILDER} == {"Dockerfile", "Dockerfile.rtx"}


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_image_runs_as_nobody_s_root_on_a_root_that_cannot_be_written(path):
    """Its last user has a number, so that Kubernetes can see that it is not root; nothing is left to write but /tmp."""
    text = path.read_text()
    user = re.findall(r"^USER (\d+)", text, re.MULTILINE)
    assert user
    assert int(user[-1]) > 0
    assert re.search(r"\bPYTHONDONTWRITEBYTECODE=1\b", text)
    assert re.search(r"\bHOME=/tmp\b", text)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_image_copies_what_there_is(path):
    copied = re.findall(r"^COPY (?!--)(\S+) ", path.read_text(), re.MULTILINE)
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_everything_asked_for_is_locked():
    assert set(required(ROOT / "requirements.in")) <= set(required(ROOT / "requirements.txt"))


# --- documents ----------------------------------------------------------------------------------

DOCUMENTS = sorted(path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
FOLDERS = "|".join((*PACKAGES, "tests", "docs", "benchmarks"))


def there(path):
    """A module that grew into a package goes by its old name, in what was promised of it."""
    return path.exists() or path.with_suffix("").is_dir()


def named_paths(text):
    """Paths into the tree between back-ticks, without those that hold a placeholder."""
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {path for path in quoted if re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*", path)}


def links(text):
    """Targets of links and pictures that are no addresses."""
    return {target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_documents_name_only_what_is_there(document):
    text = (ROOT / document).read_text()
    gone = [path for path in sorted(named_paths(text)) if not there(ROOT / path)]
    gone += [link for link in sorted(links(text)) if not (ROOT / document).parent.joinpath(link).exists()]
    assert gone == []


def test_the_walk_sees_a_path_that_is_gone():
    assert named_paths("see `sluice/gone.py`, `dags/<model>.py` and `SLUICE_STORE`") == {"sluice/gone.py"}
    assert links("[a](b/c.md) ![p](x.png#y) [w](https://example.org)") == {"b/c.md", "x.png"}
