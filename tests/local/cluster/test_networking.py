"""A service's listeners and its address live as long as the service, whoever ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from local.cluster import errors, garbage
from local.cluster.addresses import Addresses
from local.cluster.networking import Forwarder
from local.cluster.resources import SERVICES
from local.cluster.store import Store
from tests.local.cluster.kube import SERVICE_PORT, service


@pytest.fixture
async def addresses() -> AsyncIterator[Addresses]:
    made = Addresses()
    yield made
    made.close()


def stored(name: str, **spec: Any) -> dict[str, Any]:
    body = service(name)
    body["metadata"]["namespace"] = "default"
    body["spec"] |= spec
    return {"kind": "Service", "apiVersion": "v1", **body}


async def reached(address: str) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, SERVICE_PORT)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def test_a_service_that_goes_with_its_owner_listens_no_more_and_frees_its_address(
    addresses: Addresses,
) -> None:
    """Only a deletion that named the service did that once."""
    store = Store()
    forwarder, body = Forwarder(store, addresses), stored("front")
    await forwarder.open(body)
    store.create(SERVICES, body)
    address = body["spec"]["clusterIP"]
    assert await reached(address)
    garbage.delete(store, SERVICES, store.get(SERVICES, "default", "front"))
    assert not await reached(address)
    assert address in [addresses.take() for _ in range(255 * 254)], "the address may be given out again"


async def test_an_address_is_one_service_s(addresses: Addresses) -> None:
    forwarder, first = Forwarder(Store(), addresses), stored("first")
    await forwarder.open(first)
    with pytest.raises(errors.ApiError, match=r"spec\.clusterIP: .* is another service's"):
        await forwarder.open(stored("second", clusterIP=first["spec"]["clusterIP"]))
    assert await reached(first["spec"]["clusterIP"])
    forwarder.close(first)


async def test_a_headless_service_has_nothing_to_listen_on(addresses: Addresses) -> None:
    forwarder, body = Forwarder(Store(), addresses), stored("headless", clusterIP="None")
    await forwarder.open(body)
    await forwarder.open(stored("another", clusterIP="None"))
    assert body["spec"]["clusterIP"] == "None"
