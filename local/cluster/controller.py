"""The loop that every controller shares: a change marks a key, a pass brings that key to what it should be.

Invariants: many changes of one key make one pass; a pass works on what the store holds then, never on the
change that woke it; an error in one key is logged with it and tried again, and stops no other key.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Final

from local.cluster.errors import ApiError
from local.cluster.store import Change, Store

_RETRY_S: Final = 0.5  # after a lost race: the next pass sees the other writer's object
_RETRY_FAULT_S: Final = (
    10.0  # after an error that nobody thought of: it seldom goes by itself, and each is logged
)
_log = logging.getLogger(__name__)


class Controller(ABC):
    """Subclasses say which changes concern them (`interest`) and what to do about a key (`reconcile`)."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._keys: dict[str, None] = {}  # in order of arrival
        self._wake = asyncio.Event()

    @abstractmethod
    def interest(self, change: Change) -> None:
        """Enqueues the keys that `change` concerns."""

    @abstractmethod
    def reconcile(self, key: str) -> None:
        """Brings one key to its wanted state. ApiError: a race was lost; it is tried again."""

    def enqueue(self, key: str) -> None:
        self._keys[key] = None
        self._wake.set()

    def enqueue_in(self, seconds: float, key: str) -> None:
        asyncio.get_running_loop().call_later(seconds, self.enqueue, key)

    async def run(self) -> None:
        """Runs until cancelled."""
        self.store.subscribe(self.interest)
        while True:
            await self._wake.wait()
            self._wake.clear()
            keys, self._keys = self._keys, {}
            for key in keys:
                self._pass(key)
            await asyncio.sleep(0)

    def _pass(self, key: str) -> None:
        try:
            self.reconcile(key)
        except ApiError as error:
            _log.warning("%s %s: %s", type(self).__name__, key, error)
            self.enqueue_in(_RETRY_S, key)
        except Exception:  # a controller that ends takes every other object's progress with it
            _log.exception("%s %s", type(self).__name__, key)
            self.enqueue_in(_RETRY_FAULT_S, key)
