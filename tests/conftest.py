"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.prometheus import Metrics, Prometheus


@pytest.fixture(scope="session")
def _scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Metrics]]:
    with Metrics() as metrics:
        server = Prometheus(tmp_path_factory.mktemp("prometheus"), metrics.port)
        try:
            yield server, metrics
        finally:
            server.kill()


@pytest.fixture
def scraped(_scraped: tuple[Prometheus, Metrics]) -> tuple[Prometheus, Metrics]:
    """A real Prometheus, up, and what it scrapes: the same server for every test."""
    server, metrics = _scraped
    metrics.away = False
    server.start()
    return server, metrics
