"""`python -m calibration --store DIR --release DIGEST`: from samples to one INT8 candidate for each method.

Invariant: each candidate is judged later, on other samples, by the builder; nothing here says that one is good.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from artifacts.pods import add_store_arguments, load_release, run, unchanged
from artifacts.store import Store
from sluice.release import Release


def main() -> int:
    """Parse, calibrate, return the exit code (2 usage, 3 fatal, 4 retryable)."""
    parser = argparse.ArgumentParser(prog="python -m calibration", description=__doc__)
    add_store_arguments(parser)
    args = parser.parse_args()
    return run(lambda: _calibrate(Store(args.store), args.release))


def _calibrate(store: Store, digest: str) -> None:
    release = load_release(store, digest)
    key = release.keys.calibration
    if unchanged(store, "calibration", key):
        return
    checkpoint = store.get("checkpoint", release.keys.checkpoint).path
    onnx_file = store.get("onnx", release.keys.onnx).path / "model.onnx"
    with store.staged("calibration", key) as draft:
        report = calibrate(checkpoint, onnx_file, release, draft.path)
        text = json.dumps(report, indent=1, allow_nan=False)
        (draft.path / "report.json").write_text(text, encoding="utf-8")
        draft.publish({"methods": list(report["methods"])})
    print(f"built: calibration {key[:12]}")


def calibrate(checkpoint: Path, onnx_file: Path, release: Release, folder: Path) -> dict[str, Any]:
    """Write `int8_<method>.onnx` for each method of the spec into `folder`; return the report."""
    import tempfile

    import onnx
    import onnxruntime

    from calibration.emit import activation_scale, quantized_weights, weighted_operators, write_int8
    from calibration.ranges import BINS, collect, find_range, saturated
    from calibration.samples import calibration_samples, dataset_sha256

    spec = release.spec
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
        write_int8(model, operators, weights, ranges, folder / f"int8_{method}.onnx")
        methods[method] = {
            "file": f"int8_{method}.onnx",
            "activations": len(tensors),
            "weights": len(weights),
            "operators": len(operators),
            "ranges": {
                name: {
                    "low": low,
                    "high": high,
                    "scale": float(activation_scale(low, high)[0]),
                    "saturated": saturated(histograms[name], low, high),
                }
                for name, (low, high) in ranges.items()
            },
        }
    return {
        "schema": 1,
        "samples": len(samples),
        "dataset_sha256": dataset_sha256(samples),
        "bins": BINS,
        "onnxruntime": onnxruntime.__version__,
        "methods": methods,
    }


if __name__ == "__main__":
    sys.exit(main())
