"""Registers the built release as a version of its model in MLflow.

Problem: a green pod is no engine. Invariant: every artifact that the release needs is read from the store, digest
by digest, and every engine's first bytes are what its manifest says, before a version exists; only a target that
the spec calls optional may be missing, and the version's description says so. Registering again with the same run
gives the same version.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.pods import load_release
from artifacts.store import Artifact, ArtifactMissingError, Store
from plugins.hooks.registry import CONNECTION_ID, Entry, RegistryHook
from plugins.model_card import EngineFacts, card
from plugins.operators.base import SluiceOperator
from plugins.runs import RunFacts, facts_of, open_store
from sluice.errors import FatalError
from sluice.manifest import MANIFEST_FILE, EngineManifest
from sluice.plan import HEAD_BYTES
from sluice.release import Release

if TYPE_CHECKING:
    from airflow.sdk import Context

STAGE_TAG = "stage"


class RegisterOperator(SluiceOperator):
    """XCom: `{version, card, engines: {arch: precision}, missing}`."""

    ui_color = "#f3e8fd"

    def __init__(self, *, mlflow_conn_id: str = CONNECTION_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id

    def run(self, context: Context) -> dict[str, Any]:
        facts, store = facts_of(context), open_store()
        release = load_release(store, facts.document)
        numerics = _numerics(store, release)
        engines, missing = _engines(store, release)
        text = card(
            release,
            checkpoint=_checkpoint_name(store, facts),
            numerics=json.loads((numerics.path / "table.json").read_text(encoding="utf-8"))["rows"],
            engines=[engine for engine, _ in engines.values()],
            missing=missing,
        )
        precisions = {arch: engine.manifest.precision for arch, (engine, _) in engines.items()}
        with tempfile.TemporaryDirectory(prefix="sluice-register-") as scratch:
            (Path(scratch) / "release.json").write_text(release.to_json(), encoding="utf-8")
            files = {
                "numerics": numerics.path,
                **{f"engines/{arch}": artifact.path for arch, (_, artifact) in engines.items()},
                **_calibration(store, release),
                "release": Path(scratch),
            }
            entry = Entry(
                service=facts.service,
                digest=facts.digest,
                run=facts.run_label,
                onnx=store.get("onnx", release.keys.onnx).path / "model.onnx",
                signature=release.spec.signature,
                files=files,
                tags={STAGE_TAG: "registered", "engines": _engine_tag(precisions), "rollout": facts.rollout},
                description=text,
            )
            version = RegistryHook(self.mlflow_conn_id).get_conn().register(entry)
        self.log.info("registered as version %s of %s: %s", version, facts.service, precisions)
        return {"version": version, "card": text, "engines": precisions, "missing": missing}


def _numerics(store: Store, release: Release) -> Artifact:
    artifact = store.get("numerics", release.keys.numerics)
    if artifact.facts.get("passed") is not True:
        raise FatalError(
            f"the numerics of release {release.digest[:12]} did not pass: {artifact.facts.get('worst')}",
            "see the Data Docs in the artifact store, under numerics/",
        )
    return artifact


def _engines(store: Store, release: Release) -> tuple[dict[str, tuple[EngineFacts, Artifact]], list[str]]:
    """The engine of every target, and the optional targets that have none."""
    found: dict[str, tuple[EngineFacts, Artifact]] = {}
    missing: list[str] = []
    for target in release.spec.targets:
        try:
            artifact = store.get("engine", release.keys.engine(target.arch))
        except ArtifactMissingError as error:
            if not target.optional:
                raise FatalError(
                    f"target {target.arch} has no engine: {error.message}",
                    f"clear the build of {target.arch}, or mark the target optional in the spec",
                ) from error
            missing.append(target.arch)
            continue
        found[target.arch] = (_engine_facts(artifact, target.arch, target.backend), artifact)
    if not found:
        raise FatalError("not one engine was built", "see the build pods' logs")
    return found, missing


def _engine_facts(artifact: Artifact, arch: str, backend: str) -> EngineFacts:
    """Manifest, file and target belong together: the file's first bytes first, since they name its GPU."""
    manifest = EngineManifest.from_json((artifact.path / MANIFEST_FILE).read_text(encoding="utf-8"))
    with (artifact.path / manifest.engine_file).open("rb") as file:
        manifest.check_head(file.read(HEAD_BYTES))
    digest = artifact.receipt.files[manifest.engine_file].sha256
    manifest.check(arch=arch, backend=backend, engine_sha256=digest)
    report = json.loads((artifact.path / "report.json").read_text(encoding="utf-8"))
    return EngineFacts(manifest=manifest, report=report, reason=str(artifact.facts.get("reason", "")))


def _calibration(store: Store, release: Release) -> Mapping[str, Path]:
    if "int8" not in release.spec.precisions:
        return {}
    return {"calibration": store.get("calibration", release.keys.calibration).path}


def _checkpoint_name(store: Store, facts: RunFacts) -> str:
    return str(store.get("release", facts.document).facts.get("checkpoint", ""))


def _engine_tag(precisions: Mapping[str, str]) -> str:
    return ",".join(f"{arch}={precision}" for arch, precision in sorted(precisions.items()))
