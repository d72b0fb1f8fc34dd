"""One Envoy per test module."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.serving.xds.world import World, running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    async with running() as started:
        yield started
