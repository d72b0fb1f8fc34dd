"""Registers the built release as a version of its model in MLflow.

Problem: a green pod is no engine. Invariant: every artifact that the release needs is read from the store, digest
by digest, and every engine's first bytes are what its manifest says, before a version exists; only a target that
the spec calls optional may be missing, and the version's description says so; every engine's accuracy and cost are
judged again, over the whole fleet. Registering again with the same run gives the same version.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.pods import load_release
from artifacts.store import Artifact, ArtifactMissingError, Store
from plugins import accuracy
from plugins.hooks.registry import CHAMPION, CONNECTION_ID, Entry, Registry, RegistryHook
from plugins.model_card import EngineFacts, card
from plugins.operators.base import SluiceOperator
from plugins.performance import document as performance
from plugins.performance.page import page
from plugins.runs import RunFacts, facts_of, open_store
from sluice.cost import Costing, excesses
from sluice.errors import FatalError
from sluice.manifest import MANIFEST_FILE, EngineManifest
from sluice.plan import HEAD_BYTES
from sluice.release import Release

if TYPE_CHECKING:
    from airflow.sdk import Context

STAGE_TAG = "stage"
COST_TAG = "cost_per_million"  # + `.<arch>`


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
        registry = RegistryHook(self.mlflow_conn_id).get_conn()
        champion, made = _champion(registry, facts.service), [engine for engine, _ in engines.values()]
        checkpoint = _checkpoint_name(store, facts)
        figures = performance.document(release, made, missing, champion, checkpoint)
        _judge_cost(release, performance.costings(figures, champion))
        costs = {arch: one["cost_per_million"] for arch, one in figures["archs"].items()}
        precisions = {engine.manifest.arch: engine.manifest.precision for engine in made}
        text = card(
            release,
            checkpoint=checkpoint,
            numerics=json.loads((numerics.path / "table.json").read_text(encoding="utf-8"))["rows"],
            engines=[replace(engine, cost_per_million=costs[engine.manifest.arch]) for engine in made],
            missing=missing,
        )
        with tempfile.TemporaryDirectory(prefix="sluice-register-") as scratch:
            entry = Entry(
                service=facts.service,
                digest=facts.digest,
                run=facts.run_label,
                onnx=store.get("onnx", release.keys.onnx).path / "model.onnx",
                signature=release.spec.signature,
                files={
                    "numerics": numerics.path,
                    **{f"engines/{arch}": artifact.path for arch, (_, artifact) in engines.items()},
                    **_calibration(store, release),
                    **_written(Path(scratch), release, made, figures),
                },
                tags=_tags(facts, release, precisions, costs),
                description=text,
                metrics=performance.metrics(figures),
            )
            version = registry.register(entry)
        self.log.info("registered as version %s of %s: %s", version, facts.service, precisions)
        return {"version": version, "card": text, "engines": precisions, "missing": missing}


def _champion(registry: Registry, service: str) -> performance.Champion:
    """The version that serves today, with the figures that were kept with it."""
    version = registry.alias(service, CHAMPION)
    if version is None:
        return performance.Champion()
    path = f"{performance.FOLDER}/{performance.DOCUMENT_FILE}"
    return performance.Champion.read(version, registry.text(service, version, path))


def _judge_cost(release: Release, costings: Iterable[Costing]) -> None:
    """Raises FatalError with every limit that is not kept. An optional target as well: it is there, and too dear."""
    limits = release.spec.cost
    found = excesses(costings, max_per_million=limits.max_per_million, max_ratio=limits.max_ratio)
    if found:
        steps = "; ".join(dict.fromkeys(one.next_step for one in found))
        raise FatalError("; ".join(one.message for one in found), steps)


def _written(
    scratch: Path, release: Release, engines: Sequence[EngineFacts], figures: Mapping[str, Any]
) -> dict[str, Path]:
    """What is made here for people: place among the artifacts -> folder. Raises FatalError on the accuracy."""
    places = {name: scratch / name for name in ("release", performance.FOLDER, "accuracy")}
    for folder in places.values():
        folder.mkdir()
    passed, why = accuracy.judge(release, accuracy.rows(release, engines), engines, places["accuracy"])
    if not passed:
        raise FatalError(
            f"the accuracy of the engines of release {release.digest[:12]} did not pass: {why}",
            "see report.json of the engine in the artifact store, and build it again or correct the spec's accuracy",
        )
    (places["release"] / "release.json").write_text(release.to_json(), encoding="utf-8")
    text = json.dumps(figures, indent=1, sort_keys=True, allow_nan=False)
    (places[performance.FOLDER] / performance.DOCUMENT_FILE).write_text(text, encoding="utf-8")
    (places[performance.FOLDER] / performance.PAGE_FILE).write_text(page(figures), encoding="utf-8")
    return places


def _tags(
    facts: RunFacts, release: Release, precisions: Mapping[str, str], costs: Mapping[str, float | None]
) -> dict[str, str]:
    """Of the version; `cost_per_million.<arch>` of each target that has a price: a number, or `unknown`."""
    priced = [target.arch for target in release.spec.targets if target.price_per_hour is not None]
    shown = {arch: costs[arch] for arch in priced if arch in costs}
    return {
        STAGE_TAG: "registered",
        "engines": _engine_tag(precisions),
        "rollout": facts.rollout,
        **{
            f"{COST_TAG}.{arch}": "unknown" if cost is None else f"{cost:.6g}" for arch, cost in shown.items()
        },
    }


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
