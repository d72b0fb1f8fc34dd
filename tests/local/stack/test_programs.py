"""Every part has a port of its own, Airflow is told in words that it knows, and an image's tag names one code."""

import shutil
from dataclasses import fields, replace
from pathlib import Path

import airflow
import pytest
import yaml

from local.cluster.images import Images
from local.stack.programs import POD_CODE, REPO, Layout, airflow_env, cluster, image_tag, sluice_env
from sluice.release import Release
from sluice.spec import parse_spec
from tests.sluice.specs import SHA

SPECS = [REPO / "dags" / "models" / "minilm.yaml", REPO / "tests/end_to_end/dags/models/tiny.yaml"]


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


# --- the images' tag ----------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """What the tag is made of, to change something in it."""
    for folder in POD_CODE:
        shutil.copytree(REPO / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "requirements.txt", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "changed", ["serving/runtime/batching.py", "calibration/new.py", "sluice/digest.py", "requirements.txt"]
)
def test_other_code_or_other_packages_are_another_image(tree, changed):
    before = image_tag(tree)
    with (tree / changed).open("a") as file:
        file.write("# changed\n")
    assert image_tag(tree) != before


def test_what_no_pod_runs_leaves_the_images_as_they_are(tree):
    before = image_tag(tree)
    (tree / "serving" / "control").mkdir()
    (tree / "serving" / "control" / "guard.py").write_text("changed")
    (tree / "sluice" / "__pycache__").mkdir()
    (tree / "sluice" / "__pycache__" / "digest.pyc").write_text("compiled")
    assert image_tag(tree) == before == image_tag(REPO)


def images_of(spec):
    return {
        spec.images.exporter,
        spec.images.calibration,
        spec.server.image,
        *(one.image for one in spec.targets),
    }


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_cluster_has_each_image_of_a_spec_under_this_codes_tag_and_no_other(tmp_path, path):
    made = layout(tmp_path)
    cluster(made)
    there = Images.load(tmp_path / "cluster" / "images.json")
    images = images_of(parse_spec(path.read_text(), sluice_env(made)))
    assert len(images) == 3
    assert all(there.find(image) for image in images)
    assert there.find("sluice/runtime:dev") is None


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_nothing_that_other_code_built_is_taken_for_this_codes(tmp_path, path):
    """Under one tag for all code the store answered `unchanged` after every change."""
    made = layout(tmp_path)

    def keys(tag):
        spec = parse_spec(path.read_text(), sluice_env(replace(made, image_tag=tag)))
        release = Release(spec, SHA)
        (arch,) = (target.arch for target in spec.targets)
        return {release.keys.onnx, release.keys.numerics, release.keys.engine(arch), release.digest}

    assert keys("dev-1") == keys("dev-1")
    assert keys("dev-1").isdisjoint(keys("dev-2"))
