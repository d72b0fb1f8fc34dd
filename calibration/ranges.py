"""The range of every activation that is quantized, from two passes over real samples.

Problem: a histogram whose bins grow with the data depends on the order and the size of batches; and with as few
bins as levels an entropy search has one candidate, the maximum. Invariants: the first pass finds the exact
minimum and maximum, the second counts into 2048 fixed bins between them, so the result depends on the samples
alone; every range contains zero, since padding must be exact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime

from sluice.errors import FatalError
from sluice.model_inputs import Sample, batch
from sluice.signature import TensorSpec

BINS: Final = 2048
LEVELS: Final = 255  # steps of an unsigned 8-bit activation
PERCENTILE: Final = 99.999  # of the values inside the range; half of the rest is cut at either end
SHRINKS: Final = np.linspace(0.05, 1.0, 96)  # fractions of either end that mse and entropy try


class CalibrationError(FatalError):
    """Ranges that cannot be found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often one tensor took which values. counts: BINS of equal width from low to high; low <= 0 <= high."""

    low: float
    high: float
    counts: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """BINS + 1 edges, ascending."""
        return np.linspace(self.low, self.high, BINS + 1)


def collect(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    samples: Sequence[Sample],
    inputs: Sequence[TensorSpec],
    work: Path,
) -> dict[str, Histogram]:
    """One histogram for each tensor. CalibrationError without samples, and on values that are not finite.

    work: a folder for the tapped model; one sample's activations are in memory at a time.
    """
    if not samples:
        raise CalibrationError("no samples: nothing was calibrated", "fill the file that model.samples names")
    session = tapped(model, tensors, work)
    low, high = dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 0.0)  # a range contains zero
    for values in _passes(session, tensors, samples, inputs):
        for name, array in values.items():
            if not np.isfinite(array).all():
                raise CalibrationError(
                    f"activation {name} is not finite on a sample", "correct the model or the sample"
                )
            low[name] = min(low[name], float(array.min()))
            high[name] = max(high[name], float(array.max()))
    counts = {name: np.zeros(BINS, dtype=np.int64) for name in tensors}
    for values in _passes(session, tensors, samples, inputs):
        for name, array in values.items():
            counts[name] += count(array, low[name], high[name])
    return {name: Histogram(low=low[name], high=high[name], counts=counts[name]) for name in tensors}


def find_range(histogram: Histogram, method: str) -> tuple[float, float]:
    """(low, high) with low <= 0 <= high. CalibrationError for a method that is not known."""
    methods = {"minmax": _minmax, "percentile": _percentile, "mse": _mse, "entropy": _entropy}
    if method not in methods:
        raise CalibrationError(f"calibration method {method!r}", f"choose from {', '.join(methods)}")
    if not histogram.low < histogram.high:  # zero on every sample
        return 0.0, 0.0
    return methods[method](histogram)


def saturated(histogram: Histogram, low: float, high: float) -> float:
    """The share of the values that lie outside the range, 0 to 1, to the width of a bin."""
    centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    outside = histogram.counts[(centres < low) | (centres > high)].sum()
    return float(outside / histogram.counts.sum())


def _minmax(histogram: Histogram) -> tuple[float, float]:
    return histogram.low, histogram.high


def _percentile(histogram: Histogram) -> tuple[float, float]:
    cumulative = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (100.0 - PERCENTILE) / 200.0
    first = int(np.searchsorted(cumulative, tail, side="right"))
    last = int(np.searchsorted(cumulative, 1.0 - tail, side="left"))
    edges = histogram.edges
    return min(0.0, float(edges[first])), max(0.0, float(edges[min(last + 1, BINS)]))


def _mse(histogram: Histogram) -> tuple[float, float]:
    """The range with the least squared error of quantizing and back."""
    centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2

    def cost(low: float, high: float) -> float:
        restored = _quantized(centres, low, high)
        return float((histogram.counts * (centres - restored) ** 2).sum())

    return _shrunken(histogram, cost)


def _entropy(histogram: Histogram) -> tuple[float, float]:
    """The shrunken range whose LEVELS-step distribution loses least information (Kullback-Leibler).

    As in Migacz 2017 (8-bit inference with TensorRT): values outside count at the ends of the reference, but
    not in the quantized distribution, so a cut costs what it cuts.
    """
    edges, counts = histogram.edges, histogram.counts.astype(np.float64)

    def cost(low: float, high: float) -> float:
        first = max(0, int(np.searchsorted(edges, low, side="right")) - 1)
        last = min(BINS, max(first + 1, int(np.searchsorted(edges, high, side="left"))))
        inside = counts[first:last]
        reference = inside.copy()
        reference[0] += counts[:first].sum()
        reference[-1] += counts[last:].sum()
        level = np.arange(len(inside)) * LEVELS // len(inside)
        occupied = np.bincount(level, weights=reference > 0, minlength=LEVELS)
        spread = np.bincount(level, weights=inside, minlength=LEVELS) / np.maximum(occupied, 1.0)
        there = reference > 0
        p = reference[there] / reference.sum()
        q = np.maximum(spread[level][there], 1e-9) / max(inside.sum(), 1e-9)
        return float((p * np.log(p / q)).sum())

    return _shrunken(histogram, cost)


def _shrunken(histogram: Histogram, cost: Callable[[float, float], float]) -> tuple[float, float]:
    """The cheapest range of those that shrink the upper end, then the lower: the ends of an activation differ."""
    low, high = histogram.low, histogram.high
    if high > 0:
        high = min((high * float(shrink) for shrink in SHRINKS), key=lambda end: cost(low, end))
    if low < 0:
        low = min((low * float(shrink) for shrink in SHRINKS), key=lambda end: cost(end, high))
    return low, high


def _quantized(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values after quantizing to LEVELS steps and back."""
    step = (high - low) / LEVELS
    return np.round((np.clip(values, low, high) - low) / step) * step + low


def count(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """How many values lie in each of BINS bins from low to high; int64. Those outside count at the ends."""
    if not low < high:  # the tensor was zero everywhere
        counts = np.zeros(BINS, dtype=np.int64)
        counts[0] = array.size
        return counts
    place = ((array.ravel() - low) * (BINS / (high - low))).astype(np.int64)
    return np.bincount(np.clip(place, 0, BINS - 1), minlength=BINS)


def tapped(model: onnx.ModelProto, tensors: Sequence[str], work: Path) -> onnxruntime.InferenceSession:
    """A session whose outputs are the tensors themselves. work: a folder for its files."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    float32 = onnx.TensorProto.FLOAT
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, float32, None) for name in tensors)
    path = work / "tapped.onnx"
    onnx.save_model(copy, str(path), save_as_external_data=True, location="tapped.data")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _passes(
    session: onnxruntime.InferenceSession,
    tensors: Sequence[str],
    samples: Sequence[Sample],
    inputs: Sequence[TensorSpec],
) -> Iterator[Mapping[str, np.ndarray]]:
    """Each sample alone: no padding enters the ranges, and one sample's activations are held at a time."""
    for sample in samples:
        yield dict(zip(tensors, session.run(list(tensors), batch([sample], inputs)), strict=True))
