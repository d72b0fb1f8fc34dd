"""`engines.json`: everything that the performance page shows, made from the build pods' reports. Pure.

Invariants: a figure that was not measured is null and its reason stands beside it; the champion's costs are taken at
today's prices, so that a ratio compares engines and not price lists; both sides of a ratio are of one shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from plugins.model_card import EngineFacts
from sluice.cost import Costing, fleet, known, per_million, ratio
from sluice.release import Release
from sluice.spec import Target

SCHEMA: Final = 1
FOLDER: Final = "performance"
DOCUMENT_FILE, PAGE_FILE = "engines.json", "report.html"
LAYERS: Final = 20  # the slowest; the whole list is in the engine's own report.json
NO_PRICE: Final = "the spec gives no price_per_hour for this target"
OF_CHAMPION: Final = ("precision", "timings", "peak_memory_bytes", "engine_bytes", "device", "includes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The version that serves today. version None: there is none. document: its `engines.json`, None: why says why."""

    version: str | None = None
    document: Mapping[str, Any] | None = None
    why: str = ""

    @classmethod
    def read(cls, version: str, text: str | None) -> Champion:
        """From the text of its `engines.json`; None when the version has none."""
        if text is None:
            return cls(
                version=version, why=f"version {version}, the champion, was registered without figures"
            )
        unreadable = f"the figures of version {version}, the champion, are not readable"
        try:
            found = json.loads(text)
        except ValueError as error:
            return cls(version=version, why=f"{unreadable}: {error}")
        if not isinstance(found, Mapping) or found.get("schema") != SCHEMA:
            return cls(version=version, why=f"{unreadable}: their schema is not {SCHEMA}")
        archs = found.get("archs")
        if (
            not isinstance(archs, Mapping)
            or not archs
            or not all(isinstance(one, Mapping) for one in archs.values())
        ):
            return cls(
                version=version, why=f"{unreadable}: archs does not hold an engine of each architecture"
            )
        return cls(version=version, document=found)

    def engine(self, arch: str) -> tuple[Mapping[str, Any] | None, str]:
        """Its engine for this architecture; else None and why there is none."""
        if self.version is None:
            return None, "there is no champion to compare with"
        if self.document is None:
            return None, self.why
        found = mapping(self.document.get("archs")).get(arch)
        if isinstance(found, Mapping):
            return found, ""
        return None, f"version {self.version}, the champion, has no engine for {arch}"

    def alone(self, arch: str) -> bool:
        """Whether there is nothing to compare with: no champion, or none of its engines is for this architecture."""
        return self.version is None or (self.document is not None and self.engine(arch)[0] is None)


def document(
    release: Release,
    engines: Sequence[EngineFacts],
    missing: Sequence[str],
    champion: Champion,
    checkpoint: str,
) -> dict[str, Any]:
    """Plain JSON. missing: optional targets without an engine; the first target with one serves their share."""
    archs = {engine.manifest.arch: _engine(release, engine, champion) for engine in engines}
    shares = {target.arch: target.share for target in release.spec.targets if target.arch not in set(missing)}
    if shares:
        shares[next(iter(shares))] += sum(t.share for t in release.spec.targets if t.arch in set(missing))
    cost = fleet(shares, {arch: one["cost_per_million"] for arch, one in archs.items()})
    before = fleet(
        shares, {arch: mapping(one["champion"]).get("cost_per_million") for arch, one in archs.items()}
    )
    return {
        "schema": SCHEMA,
        "service": release.spec.service,
        "digest": release.digest,
        "checkpoint": checkpoint,
        "champion": {"version": champion.version, "why_not_compared": champion.why or None},
        "limits": release.spec.cost.model_dump(mode="json"),
        "fleet": {
            "cost_per_million": cost,
            "champion_cost_per_million": before,
            "ratio": ratio(cost, before),
        },
        "missing": list(missing),
        "archs": archs,
    }


def costings(whole: Mapping[str, Any], champion: Champion) -> list[Costing]:
    """What `sluice.cost` judges, one for each architecture of a `document`."""
    return [
        Costing(
            arch=arch,
            per_million=one["cost_per_million"],
            why_unknown=one["why_no_cost"] or "",
            champion=mapping(one["champion"]).get("cost_per_million"),
            why_no_champion=one["why_no_champion"] or _untimed(one["champion"], one["ranked_by"]),
            alone=champion.alone(arch),
        )
        for arch, one in whole["archs"].items()
    ]


def metrics(whole: Mapping[str, Any]) -> dict[str, float]:
    """`p50_ms.<arch>` and the like, for MLflow's charts; what was not measured is left out."""
    found: dict[str, float | None] = {}
    for arch, one in whole["archs"].items():
        speed = ranked(one)
        for name in ("p50_ms", "p99_ms", "rows_per_s"):
            found[f"{name}.{arch}"] = known(speed.get(name))
        found[f"cost_per_million.{arch}"] = known(one["cost_per_million"])
        memory = known(one["peak_memory_bytes"])
        found[f"peak_memory_mib.{arch}"] = None if memory is None else memory / 2**20
    found["cost_per_million.fleet"] = known(whole["fleet"]["cost_per_million"])
    return {name: value for name, value in found.items() if value is not None}


def ranked(one: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The timing at the shape that candidates were ranked by; empty when there is none."""
    found = mapping(one)
    return mapping(mapping(found.get("timings")).get(str(found.get("ranked_by"))))


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _engine(release: Release, engine: EngineFacts, champion: Champion) -> dict[str, Any]:
    report, manifest = engine.report, engine.manifest
    target = release.spec.target(manifest.arch)
    chosen = mapping(mapping(report.get("candidates")).get(str(report.get("chosen"))))
    why_not = report.get("why_not_measured") or mapping(manifest.performance).get("why")
    one = {
        "backend": f"{manifest.backend} {manifest.backend_version}",
        "precision": manifest.precision,
        "chosen": report.get("chosen"),
        "reason": report.get("reason") or engine.reason,
        "share": target.share,
        "accuracy_of": manifest.accuracy_of,
        "accuracy_samples": report.get("accuracy_samples"),
        "measured": bool(report.get("measured", bool(chosen.get("timings")))),
        "why_not_measured": why_not,
        "device": report.get("device") or dict(manifest.device),
        **{name: report.get(name) for name in ("threads", "includes", "one_profile", "timing_cache")},
        "ranked_by": report.get("ranked_by"),
        "timings": chosen.get("timings") or {},
        "peak_memory_bytes": chosen.get("peak_memory_bytes"),
        "engine_bytes": chosen.get("engine_bytes"),
        "layers": (report.get("layers") or [])[:LAYERS] or None,
        "candidates": _candidates(release, report),
        "rejected": dict(report.get("rejected") or {}),
    }
    return {**one, **_cost(one, target), **_beside(one, target, champion)}


def _candidates(release: Release, report: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared among candidates; their timings at the ranked shape alone."""
    shown = ("precision", "engine_bytes", "build_seconds", "peak_memory_bytes", "accuracy", "task")
    found = {}
    for name, one in mapping(report.get("candidates")).items():
        bar = release.spec.accuracy.get(str(one.get("precision")))
        found[name] = {
            **{field: one.get(field) for field in shown},
            "bar": None if bar is None else bar.cosine,
            "timing": mapping(one.get("timings")).get(str(report.get("ranked_by"))),
        }
    return found


def _cost(one: Mapping[str, Any], target: Target) -> dict[str, Any]:
    cost = per_million(target.price_per_hour, ranked(one).get("rows_per_s"))
    why = None
    if cost is None:
        untimed = f"not timed: {one['why_not_measured'] or 'no throughput at ' + str(one['ranked_by'])}"
        why = NO_PRICE if target.price_per_hour is None else untimed
    return {"price_per_hour": target.price_per_hour, "cost_per_million": cost, "why_no_cost": why}


def _beside(one: Mapping[str, Any], target: Target, champion: Champion) -> dict[str, Any]:
    """The champion's figures for this architecture; its throughput at this engine's shape, at today's price."""
    theirs, why = champion.engine(target.arch)
    if theirs is None:
        return {"champion": None, "why_no_champion": why}
    at_shape = mapping(mapping(theirs.get("timings")).get(str(one["ranked_by"])))
    kept = {name: theirs.get(name) for name in OF_CHAMPION}
    cost = per_million(target.price_per_hour, at_shape.get("rows_per_s"))
    found = {"version": champion.version, **kept, "ranked_by": one["ranked_by"], "cost_per_million": cost}
    return {"champion": found, "why_no_champion": None}


def _untimed(theirs: Any, shape: Any) -> str:
    return f"version {mapping(theirs).get('version')}, the champion, was not timed at {shape}"
