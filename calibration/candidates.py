"""From samples to one INT8 candidate for each method, and the report beside them.

Invariant: each candidate is judged later, on other samples, by the builder; nothing here says that one is good.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from artifacts.store import Store
from calibration.emit import activation_scale, quantized_weights, weighted_operators, write_int8
from calibration.ranges import BINS, Histogram, collect, find_range, saturated
from calibration.samples import calibration_samples, dataset_sha256
from sluice.release import Release
from sluice.spec import ReleaseSpec
from sluice.spec_types import int8_file


def calibrate_release(store: Store, release: Release) -> list[str]:
    """Publish the `calibration` artifact; return its methods. Raises SampleError, CalibrationError, FatalError."""
    checkpoint = store.get("checkpoint", release.keys.checkpoint).path
    onnx_file = store.get("onnx", release.keys.onnx).path / "model.onnx"
    with store.staged("calibration", release.keys.calibration) as draft:
        report = calibrate(checkpoint, onnx_file, release.spec, draft.path)
        text = json.dumps(report, indent=1, allow_nan=False)
        (draft.path / "report.json").write_text(text, encoding="utf-8")
        draft.publish({"methods": list(report["methods"])})
    return list(report["methods"])


def calibrate(checkpoint: Path, onnx_file: Path, spec: ReleaseSpec, folder: Path) -> dict[str, Any]:
    """Write an INT8 file for each method of the spec, in each form that a target needs; return the report."""
    samples = calibration_samples(checkpoint, spec)
    model = onnx.load(str(onnx_file))
    operators = weighted_operators(model)
    tensors = list(dict.fromkeys(operator.activation for operator in operators))
    with tempfile.TemporaryDirectory() as work:
        histograms = collect(model, tensors, samples, spec.model.inputs, Path(work))
    weights = quantized_weights(model, operators)
    methods: dict[str, Any] = {}
    for method in spec.calibration.methods:
        ranges = {name: find_range(histogram, method) for name, histogram in histograms.items()}
        files = {form: int8_file(form, method) for form in spec.int8_forms}
        for form, name in files.items():
            write_int8(model, operators, weights, ranges, folder / name, form=form)
        counts = {"operators": len(operators), "activations": len(tensors), "weights": len(weights)}
        methods[method] = {"files": files, **counts, "ranges": _reported(ranges, histograms)}
    return {
        "schema": 1,
        "samples": len(samples),
        "dataset_sha256": dataset_sha256(samples),
        "bins": BINS,
        "onnxruntime": onnxruntime.__version__,
        "methods": methods,
    }


def _reported(
    ranges: Mapping[str, tuple[float, float]], histograms: Mapping[str, Histogram]
) -> dict[str, dict[str, float]]:
    """{tensor: {low, high, scale, saturated}}."""
    return {
        name: {
            "low": low,
            "high": high,
            "scale": float(activation_scale(low, high)[0]),
            "saturated": saturated(histograms[name], low, high),
        }
        for name, (low, high) in ranges.items()
    }
