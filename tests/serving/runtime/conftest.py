"""One server for all tests that leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.runtime.engines import embedding_engine
from tests.serving.runtime.server import Client, Server, serving


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedding_engine(tmp_path_factory.mktemp("engines") / "tiny")


@pytest.fixture(scope="session")
def server(tiny_engine: Path) -> Iterator[Server]:
    with serving(tiny_engine, "--drain-s", "0", "--max-body-bytes", "200000") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Client:
    return server.client()
