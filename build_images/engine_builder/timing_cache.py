"""The timing cache of one build: from the store before it, to the store behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from artifacts.store import ArtifactCorruptError, ArtifactMissingError
from artifacts.timing_caches import TimingCaches
from build_images.engine_builder.backend import Backend
from build_images.engine_builder.errors import NoStoreError
from build_images.engine_builder.request import BuildRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildCache:
    """file: what builds read and write. began_with: digest of what was found, None when nothing was.

    caches: None where nothing outlives the build, and where a replay must leave everything as it is.
    """

    file: Path
    began_with: str | None
    caches: TimingCaches | None
    device: Mapping[str, Any]
    version: str

    @classmethod
    def begin(cls, request: BuildRequest, backend: Backend, file: Path) -> Self | None:
        """None for a library that keeps no timings, and where the spec says `off`.

        Raises NoStoreError, ArtifactMissingError and ArtifactCorruptError where a replay has nothing to replay.
        """
        wanted, device = request.target.build.timing_cache, backend.device()
        if wanted == "off" or "sm_count" not in device:
            return None
        caches = TimingCaches(request.store) if request.store is not None else None
        replays = request.target.build.replays
        if replays and caches is None:
            raise NoStoreError("timing_cache")
        version = backend.version()
        digest: str | None = wanted if replays else None
        if caches is not None and not replays:
            digest = caches.newest(device["name"], device["sm_count"], version)
        if caches is not None and digest is not None:
            try:
                file.write_bytes(caches.read(digest))
            except (ArtifactCorruptError, ArtifactMissingError) as error:
                if replays:
                    raise
                print(f"built without the kept timings: {error.message}; {error.next_step}", flush=True)
                digest = None
        kept = None if replays else caches
        return cls(file=file, began_with=digest, caches=kept, device=device, version=version)

    def keep(self) -> dict[str, Any]:
        """Publish what the builds wrote; {began_with, sha256}, digests or null."""
        digest = self.began_with
        if self.caches is not None and self.file.is_file():
            digest = self.caches.keep(
                self.file.read_bytes(), self.device["name"], self.device["sm_count"], self.version
            )
        return {"began_with": self.began_with, "sha256": digest}
