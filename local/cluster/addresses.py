"""One loopback address per pod, so that every pod can bind the port that its image knows.

All of 127.0.0.0/8 is this machine on Linux. A cluster owns one 127.N/16 by holding a listening socket in it
for as long as it lives, so that clusters on one machine cannot hand out the same address.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

from sluice.errors import RetryableError

_GUARD_PORT = 61997  # held on 127.N.255.254 of the block


class Addresses:
    """The addresses of one cluster; freed ones are used again only after all others."""

    def __init__(self) -> None:
        self._guard, self._block = _claim()
        self._free: Iterator[str] = _cycle(self._block)
        self._used: set[str] = set()

    @property
    def guard(self) -> str:
        return f"127.{self._block}.255.254"

    def take(self) -> str:
        """An address that no live pod or service has. RetryableError: 60 000 are in use."""
        for _ in range(256 * 254):
            address = next(self._free)
            if address not in self._used:
                self._used.add(address)
                return address
        raise RetryableError(f"all addresses of 127.{self._block}.0.0/16 are in use", "delete some pods")

    def give_back(self, address: str) -> None:
        self._used.discard(address)

    def close(self) -> None:
        self._guard.close()


def _claim() -> tuple[socket.socket, int]:
    blocks = list(range(16, 250))
    random.shuffle(blocks)
    for block in blocks:
        guard = socket.socket()
        try:
            guard.bind((f"127.{block}.255.254", _GUARD_PORT))
            guard.listen(1)
        except OSError:
            guard.close()
            continue
        return guard, block
    raise RetryableError("no free 127.N.0.0/16 on this machine", "stop another local cluster")


def _cycle(block: int) -> Iterator[str]:
    while True:
        for third in range(255):
            for fourth in range(1, 255):
                yield f"127.{block}.{third}.{fourth}"
