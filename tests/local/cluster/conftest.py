"""One cluster for the contract tests: the emulator, or with `-m cluster` the one that KUBECONFIG names.

A contract test takes `kube` and runs unchanged on both; a test of what only the emulator has (faults, clean-up,
refusals) takes `emulator`. A real cluster is asked only when the mark is asked for, so that a KUBECONFIG that
happens to be set is never touched.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.cluster.kube import Emulator, Kube

REPO = Path(__file__).resolve().parents[3]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kubeconfig" in metafunc.fixturenames:
        variants = [pytest.param("emulator", id="emulator")]
        if "cluster" in (metafunc.config.option.markexpr or ""):
            variants.append(pytest.param("real", id="real", marks=pytest.mark.cluster))
        metafunc.parametrize("kubeconfig", variants, indirect=True, scope="session")


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="session")
def kubeconfig(request: pytest.FixtureRequest) -> Path:
    if request.param == "emulator":
        return request.getfixturevalue("emulator").kubeconfig
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("KUBECONFIG is not set; export the kubeconfig of a cluster that may be used for tests")
    return Path(os.environ["KUBECONFIG"])


@pytest.fixture
def kube(kubeconfig: Path) -> Iterator[Kube]:
    """A client with a namespace of its own, which is deleted afterwards."""
    with Kube(kubeconfig, f"test-{time.time_ns() % 10**10}") as client:
        yield client


@pytest.fixture
def local(emulator: Emulator) -> Iterator[Kube]:
    """The same on the emulator alone."""
    with Kube(emulator.kubeconfig, f"test-{time.time_ns() % 10**10}") as client:
        yield client


def kubectls() -> list[str]:
    """Every kubectl of this machine; SLUICE_KUBECTL may name more, separated by colons."""
    named = os.environ.get("SLUICE_KUBECTL", "").split(":")
    return [
        found for found in dict.fromkeys((shutil.which("kubectl"), *named)) if found and Path(found).exists()
    ]
