"""Whether the ranges of an earlier calibration are used again: the graph is the same, and so is the traffic.

Invariant: ranges are reused for all tensors of a method or for none, and the report says from where, or why not; a
cache that cannot be compared is never taken for one that fits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import onnx

from artifacts.store import Store
from calibration.cache import CACHE_FILE, CalibrationCache
from calibration.drift import CacheRefusedError, check
from calibration.graph import graph_of
from calibration.ranges import Histogram
from sluice.release import Release
from sluice.spec import ReleaseSpec

SHOWN: Final = 10  # of the tensors that moved farthest
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """ranges: {method: {tensor: (low, high)}} to use again, empty when there are none. report: plain JSON."""

    ranges: Mapping[str, Ranges] = field(default_factory=dict)
    report: Mapping[str, Any]


def cached_ranges(store: Store, release: Release) -> CalibrationCache | None:
    """The cache that the release names; None when it names none. Raises the store's errors and CacheError."""
    on = release.calibrated_on
    return None if on is None or on.reuse is None else read_cache(store, on.reuse)


def read_cache(store: Store, calibration: str) -> CalibrationCache:
    """`cache.json` of a calibration in the store."""
    return CalibrationCache.from_json((store.get("calibration", calibration).path / CACHE_FILE).read_bytes())


def reused(
    cached: CalibrationCache | None,
    model: onnx.ModelProto,
    histograms: Mapping[str, Histogram],
    spec: ReleaseSpec,
) -> Reuse:
    """The cache's ranges where every tensor's new histogram is within the spec's limit of the cached one."""
    if cached is None:
        return Reuse(report={"reused": False, "why": "there is no earlier calibration"})
    found = compared(cached, model, histograms, spec.calibration.drift_limit)
    report = {"reused": found["valid"], **{name: found[name] for name in ("why", "worst", "limit")}}
    if not found["valid"]:
        return Reuse(report=report)
    ranges = {
        method: {
            name: (tensor.ranges[method].low, tensor.ranges[method].high)
            for name, tensor in cached.tensors.items()
        }
        for method in cached.methods
    }
    return Reuse(ranges=ranges, report={**report, "dataset_sha256": cached.dataset_sha256})


def compared(
    cached: CalibrationCache,
    model: onnx.ModelProto,
    histograms: Mapping[str, Histogram],
    limit: float,
) -> dict[str, Any]:
    """{valid, why, worst, limit, moved, divergences}: plain JSON. What cannot be compared is not valid."""
    try:
        drift = check(cached, graph_of(model), histograms, limit=limit)
    except CacheRefusedError as error:
        return {
            "valid": False,
            "why": error.message,
            "worst": None,
            "limit": limit,
            "moved": {},
            "divergences": {},
        }
    worst = max(drift.divergences, key=lambda name: drift.divergences[name])
    moved = dict(list(drift.moved.items())[:SHOWN])
    said = ", ".join(f"{name} ({value:.2g})" for name, value in moved.items())
    return {
        "valid": drift.valid,
        "why": f"{len(drift.moved)} tensors moved by more than {limit:g}: {said}" if moved else "",
        "worst": {"tensor": worst, "divergence": drift.divergences[worst]},
        "limit": limit,
        "moved": moved,
        "divergences": dict(drift.divergences),
    }
