"""From samples to one INT8 candidate for each method, and the report beside them.

Invariant: each candidate is judged later, on other samples, by the builder; nothing here says that one is good.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from artifacts.samples import samples_file
from artifacts.store import Store
from calibration.cache import CACHE_FILE, CalibrationCache, cache_of
from calibration.emit import Quantized, Weighted, activation_scale, quantized_weights, weighted_operators
from calibration.mixed import (
    JUDGED,
    answers,
    find_mixed,
    least_cosine,
    noise,
    target_of,
)
from calibration.passes import CalibrationError
from calibration.ranges import BINS, Histogram, collect, find_ranges, saturated
from calibration.reuse import Reuse, cached_ranges, reused
from calibration.samples import calibration_samples, dataset_sha256
from sluice.model_inputs import Sample
from sluice.release import Release
from sluice.signature import TensorSpec
from sluice.spec import ReleaseSpec
from sluice.spec_types import SIGNED, int8_file, mixed_name


def calibrate_release(store: Store, release: Release) -> list[str]:
    """Publish the `calibration` artifact; return its methods. Raises SampleError, CalibrationError, FatalError."""
    samples = samples_file(store, release)
    onnx_file = store.get("onnx", release.keys.onnx).path / "model.onnx"
    cached = cached_ranges(store, release)
    with store.staged("calibration", release.keys.calibration) as draft:
        report = calibrate(samples, onnx_file, release.spec, draft.path, cached)
        text = json.dumps(report, indent=1, allow_nan=False)
        (draft.path / "report.json").write_text(text, encoding="utf-8")
        draft.publish({"methods": list(report["methods"]), "onnx": release.keys.onnx})
    return list(report["methods"])


def calibrate(
    samples_file: Path,
    onnx_file: Path,
    spec: ReleaseSpec,
    folder: Path,
    cached: CalibrationCache | None = None,
) -> dict[str, Any]:
    """Write an INT8 file for each method of the spec, in each form that a target needs; return the report.

    Where the best method misses the spec's bar, one more that leaves the noisiest operators in FP32. What reads a
    tensor that was zero on every sample (`zero` in the report) stays in FP32 in all of them: a range of nothing but
    zero would make zero of whatever else comes. `cache.json` keeps the histograms and every method's ranges.
    cached: its ranges are used again where they still fit.
    """
    samples = calibration_samples(samples_file, spec)
    dataset = dataset_sha256(samples)
    model = onnx.load(str(onnx_file))
    histograms, operators = _collected(model, samples, spec)
    weights = quantized_weights(model, operators)
    forms = spec.int8_forms
    # The signed form is the coarser one: what is accurate enough in it is in the other.
    form = SIGNED if SIGNED in forms else forms[0]
    judge = _Judge(onnx_file, samples[:JUDGED], spec.model.inputs)
    methods: dict[str, Any] = {}
    written: dict[str, Quantized] = {}
    activations = len({operator.activation for operator in operators})
    counts = {"operators": len(operators), "activations": activations, "weights": len(weights)}
    reuse = reused(cached, model, histograms, spec)
    for method, ranges in _kept(model, histograms, spec, len(samples), dataset, folder, reuse).items():
        made = {
            one: Quantized(model=model, operators=operators, weights=weights, ranges=ranges, form=one)
            for one in forms
        }
        methods[method] = _written(made, operators, method, folder)
        cosine = judge(folder / int8_file(form, method))
        methods[method] |= {**counts, "cosine": cosine, "ranges": _reported(ranges, histograms)}
        written[method] = made[form]
    methods |= _mixed(methods, written, judge, spec, folder)
    return {
        "schema": 1,
        "samples": len(samples),
        "dataset_sha256": dataset,
        "bins": BINS,
        "onnxruntime": onnxruntime.__version__,
        "judged": len(judge.samples),
        "ranges_of": reuse.report,
        "zero": [name for name, histogram in histograms.items() if histogram.flat],
        "methods": methods,
    }


def _collected(
    model: onnx.ModelProto, samples: Sequence[Sample], spec: ReleaseSpec
) -> tuple[dict[str, Histogram], tuple[Weighted, ...]]:
    """The histogram of every activation, and the operators that become INT8."""
    operators = weighted_operators(model)
    tensors = list(dict.fromkeys(operator.activation for operator in operators))
    with tempfile.TemporaryDirectory() as work:
        histograms = collect(model, tensors, samples, spec.model.inputs, Path(work))
    chosen = tuple(one for one in operators if not histograms[one.activation].flat)
    if not chosen:
        raise CalibrationError(
            f"every activation was zero on each of {len(samples)} samples: {', '.join(tensors)}",
            "give samples that the model answers, or take int8 out of precisions",
        )
    return histograms, chosen


def _kept(
    model: onnx.ModelProto,
    histograms: Mapping[str, Histogram],
    spec: ReleaseSpec,
    samples: int,
    dataset: str,
    folder: Path,
    reuse: Reuse,
) -> dict[str, dict[str, tuple[float, float]]]:
    """Write `cache.json`; return {method: {tensor: its range}}."""
    methods = spec.calibration.methods
    found = find_ranges(histograms, (one for one in methods if one not in reuse.ranges))
    found = {method: dict(reuse.ranges.get(method) or found[method]) for method in methods}
    cache = cache_of(model, histograms, found, samples=samples, dataset_sha256=dataset)
    (folder / CACHE_FILE).write_text(cache.to_json(), encoding="utf-8")
    return found


class _Judge:
    """The least cosine of a candidate against FP32, on the same samples every time."""

    def __init__(self, onnx_file: Path, samples: Sequence[Sample], inputs: Sequence[TensorSpec]) -> None:
        self.samples, self.inputs = samples, inputs
        self._expected = answers(onnx_file, samples, inputs)

    def __call__(self, path: Path) -> float:
        return least_cosine(self._expected, path, self.samples, self.inputs)


def _written(
    made: Mapping[str, Quantized], operators: Sequence[Weighted], method: str, folder: Path
) -> dict[str, Any]:
    files = {form: int8_file(form, method) for form in made}
    for form, name in files.items():
        made[form].write(folder / name, operators)
    return {"files": files}


def _mixed(
    methods: Mapping[str, Any],
    written: Mapping[str, Quantized],
    judge: _Judge,
    spec: ReleaseSpec,
    folder: Path,
) -> dict[str, Any]:
    """{method-mixed: its report}; empty when the best method reaches the target, and when no step does."""
    target = target_of(spec.accuracy["int8"].cosine)
    best = max(methods, key=lambda method: methods[method]["cosine"])
    if methods[best]["cosine"] >= target:
        return {}
    quantized = written[best]
    noises = noise(quantized, judge.samples, judge.inputs)
    ranking = sorted(noises, key=lambda node: -noises[node])
    found = find_mixed(quantized, ranking, judge, target)
    if found is None:
        print(f"no step of leaving out noisy operators reaches a cosine of {target:g}", flush=True)
        return {}
    forms = {form: replace(quantized, form=form) for form in spec.int8_forms}
    return {
        mixed_name(best): {
            **_written(forms, found.operators, mixed_name(best), folder),
            "operators": len(found.operators),
            "cosine": found.cosine,
            "in_fp32": {node: noises[node] for node in found.left},
        }
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
