"""How far recorded traffic has moved from what the last calibration saw: one artifact, one answer.

Invariant: `valid` is true only where every tensor of the cache was compared on today's samples and none moved.
"""

import json
import tempfile
from pathlib import Path
from typing import Final

import onnx

from artifacts.samples import samples_file
from artifacts.store import Artifact, Store
from calibration.cache import CalibrationCache
from calibration.graph import graph_of
from calibration.ranges import collect
from calibration.reuse import compared, read_cache
from calibration.samples import calibration_samples
from sluice.digest import is_sha256
from sluice.release import Release, drift_key

REPORT_FILE: Final = "report.json"


def compare_release(store: Store, release: Release, against: str) -> Artifact:
    """Publish `drift`: the release's dataset against an earlier calibration. Raises the store's errors, CacheError."""
    cached, spec = read_cache(store, against), release.spec
    model = _model(store, release, against, cached)
    samples = calibration_samples(samples_file(store, release), spec)
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    tensors = [name for name in cached.tensors if name in names]  # another graph may lack some: refused below
    with tempfile.TemporaryDirectory() as work:
        histograms = collect(model, tensors, samples, spec.model.inputs, Path(work)) if tensors else {}
    found = compared(cached, model, histograms, spec.calibration.drift_limit)
    with store.staged("drift", drift_key(release, against)) as draft:
        document = {"schema": 1, "against": against, "samples": len(samples), **found}
        (draft.path / REPORT_FILE).write_text(
            json.dumps(document, indent=1, allow_nan=False), encoding="utf-8"
        )
        facts = {name: found[name] for name in ("valid", "why", "worst", "limit", "moved")}
        return draft.publish(facts)


def _model(store: Store, release: Release, against: str, cached: CalibrationCache) -> onnx.ModelProto:
    """The one that the cache was found on, so that only the traffic differs; where it is gone, today's.

    Today's as well where it is of another graph: then the ranges do not fit it, whatever the traffic.
    """
    today = onnx.load(str(store.get("onnx", release.keys.onnx).path / "model.onnx"))
    key = str(store.get("calibration", against).facts.get("onnx", ""))
    if cached.graph.differences(graph_of(today)) or not is_sha256(key) or not store.has("onnx", key):
        return today
    return onnx.load(str(store.get("onnx", key).path / "model.onnx"))
