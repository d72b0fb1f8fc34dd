"""Timing caches of engine builders, kept between builds.

Problem: a tactic that was timed once on a device need not be timed again there, and on no other device does the time
mean anything. Invariants: a cache is found by device name, SM count and library version together; each state of it is
an artifact under its own digest, so that a build can name the one it used and another can replay it; losing the
pointer to the newest costs time and nothing else.
"""

from pathlib import Path
from typing import Final

from artifacts.pointers import read_pointer, write_pointer
from artifacts.store import ArtifactMissingError, Store
from sluice.digest import is_sha256, sha256_bytes, sha256_json

KIND: Final = "timing_cache"
FILE: Final = "cache.bin"


class TimingCaches:
    """The caches in a store. Two builds on one kind of device at once: the later one's is the newest."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def newest(self, device: str, sm_count: int, version: str) -> str | None:
        """Digest of the newest cache for this device and library; None when there is none."""
        digest = read_pointer(self._pointer(device, sm_count, version))
        if digest is None or not is_sha256(digest):
            return None
        return digest if self._store.has(KIND, digest) else None

    def read(self, digest: str) -> bytes:
        """Its bytes. Raises ArtifactMissingError or ArtifactCorruptError."""
        data = (self._store.get(KIND, digest).path / FILE).read_bytes()
        if sha256_bytes(data) != digest:
            raise ArtifactMissingError(KIND, digest, str(self._store.root))
        return data

    def keep(self, data: bytes, device: str, sm_count: int, version: str) -> str:
        """Publish `data` and point to it as the newest; its digest."""
        digest = sha256_bytes(data)
        if not self._store.has(KIND, digest):
            with self._store.staged(KIND, digest) as draft:
                (draft.path / FILE).write_bytes(data)
                draft.publish({"device": device, "sm_count": sm_count, "tensorrt": version})
        write_pointer(self._pointer(device, sm_count, version), digest)
        return digest

    def _pointer(self, device: str, sm_count: int, version: str) -> Path:
        name = sha256_json({"device": device, "sm_count": sm_count, "tensorrt": version})
        return self._store.root / ".timing_caches" / name
