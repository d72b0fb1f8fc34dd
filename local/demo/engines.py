"""Which engines a release serves, and why these: the engine builder's own reports, read from the artifact store."""

from __future__ import annotations

import json
from typing import Any

from artifacts.pods import load_release
from artifacts.store import ArtifactMissingError, Store
from sluice.release import Release


def engines_of(store: Store, digest: str | None) -> dict[str, dict[str, Any]]:
    """Of the release with this digest, by architecture: `{precision, reason, rejected}`; {} when it is not there."""
    release = find_release(store, digest)
    if release is None:
        return {}
    return {arch: _engine(store, key) for arch, key in release.keys.engines.items()}


def find_release(store: Store, digest: str | None) -> Release | None:
    """The first document of this release: policies may differ between them, the keys of its parts cannot."""
    for folder in sorted((store.root / "release").glob("*")):
        release = load_release(store, folder.name)
        if release.digest == digest:
            return release
    return None


def _engine(store: Store, key: str) -> dict[str, Any]:
    try:
        artifact = store.get("engine", key)
    except ArtifactMissingError as error:
        return {"precision": None, "reason": error.message, "rejected": {}}
    report = json.loads((artifact.path / "report.json").read_text(encoding="utf-8"))
    return {
        "precision": artifact.facts["precision"],
        **{name: report[name] for name in ("reason", "rejected")},
    }
