"""The range of every activation that is quantized, from two passes over real samples.

Problem: a histogram whose bins grow with the data depends on the order and the size of batches; and with as few
bins as levels an entropy search has one candidate, the maximum. Invariants: the first pass finds the exact
minimum and maximum, the second counts into 2048 fixed bins between them, so the result depends on the samples
alone; every range contains zero, since padding must be exact.

Three rules for tensors that do not vary. Zero on every sample: the range is (0, 0), which says nothing about any other
value, so what reads it stays in FP32. The same value c on every sample: the range is from 0 to c by every method, so c
is an end of the grid and exact to rounding. No element on some samples: those count for nothing; on all: an error.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime

from calibration.passes import THREADS, CalibrationError, Chunks, Model, in_chunks, tallied
from sluice.model_inputs import Sample
from sluice.signature import TensorSpec

BINS: Final = 2048
LEVELS: Final = 255  # steps of an unsigned 8-bit activation
# Of the values, inside the range; half of the rest is cut at either end.
PERCENTILES: Final = {"percentile": 99.999, "percentile_99_99": 99.99, "percentile_99_9": 99.9}
SHRINKS: Final = np.linspace(0.05, 1.0, 96)[
    ::-1
]  # of either end; of two that cost the same, the wider is taken
FLOAT32_WIDTHS: Final = (1e-30, 1e38)  # of a range whose bins float32 can tell apart


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

    @property
    def flat(self) -> bool:
        """Whether the tensor was zero on every sample."""
        return not self.low < self.high


@dataclass(slots=True)
class _Extent:
    """low <= 0 <= high of one tensor, and how many values it had."""

    low: float = 0.0
    high: float = 0.0
    size: int = 0

    def add(self, other: "_Extent") -> None:
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.size += other.size


class _Extents:
    """The extents of every tensor: a tally of either pass."""

    def __init__(self, tensors: Sequence[str]) -> None:
        self.of = {name: _Extent() for name in tensors}
        self.samples = 0

    def add(self, number: int, values: Sequence[np.ndarray]) -> None:
        self.samples += 1
        for (name, extent), array in zip(self.of.items(), values, strict=True):
            if array.size:
                extent.add(_Extent(*_ends(name, number, array), array.size))

    def merge(self, other: "_Extents") -> None:
        self.samples += other.samples
        for name, extent in other.of.items():
            self.of[name].add(extent)


class _Counts(_Extents):
    """The second pass: counts into the bins that the first one found, and the extents once more."""

    def __init__(self, found: Mapping[str, _Extent]) -> None:
        super().__init__(list(found))
        self._found = found
        self.counts = {name: np.zeros(BINS, dtype=np.int64) for name in found}

    def add(self, number: int, values: Sequence[np.ndarray]) -> None:
        super().add(number, values)
        for (name, extent), array in zip(self._found.items(), values, strict=True):
            self.counts[name] += count(array, extent.low, extent.high)


def collect(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    samples: Sequence[Sample] | Chunks,
    inputs: Sequence[TensorSpec],
    work: Path,
    *,
    threads: int | None = None,
) -> dict[str, Histogram]:
    """One histogram for each tensor: the same to the bit for any order, chunks and number of threads.

    samples: a sequence, or a function that gives them in chunks each time it is called (`passes.in_chunks`), of which
    one chunk is in memory at a time. They may have any lengths. work: a folder for the tapped model. threads: each
    holds one sample's activations; by default one a core, THREADS at most.
    Raises CalibrationError without samples and for an empty chunk; for a sample that lacks an input or that the model
    fails on, and for an activation that is not finite, with the sample's number; for a tensor without any element; and
    where the second pass sees other values than the first.
    """
    chunks = samples if callable(samples) else in_chunks(samples)
    threads = threads or min(THREADS, len(os.sched_getaffinity(0)))
    tapped_model = Model(session=tapped(model, tensors, work), tensors=tensors, inputs=inputs)
    first = _Extents(tensors)
    for tally in tallied(tapped_model, chunks, lambda: _Extents(tensors), threads):
        first.merge(tally)
    _check_sizes(first)
    second, counts = _Extents(tensors), {name: np.zeros(BINS, dtype=np.int64) for name in tensors}
    for one in tallied(tapped_model, chunks, lambda: _Counts(first.of), threads):
        second.merge(one)
        for name in tensors:
            counts[name] += one.counts[name]
    _check_same(first.of, second.of)
    return {
        name: Histogram(low=one.low, high=one.high, counts=counts[name]) for name, one in first.of.items()
    }


def _ends(name: str, number: int, array: np.ndarray) -> tuple[float, float]:
    """The least and the greatest value. CalibrationError where one is not finite: NaN is both ends of its array."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = array[~np.isfinite(array)]
        raise CalibrationError(
            f"activation {name} is not finite on sample {number} (from 0): {bad.size} of {array.size} values, such as "
            f"{float(bad[0])}",
            "correct the sample, or the model where FP32 itself overflows on it",
        )
    return low, high


def _check_sizes(found: _Extents) -> None:
    if not found.samples:
        raise CalibrationError("no samples: nothing was calibrated", "fill the file that model.samples names")
    if empty := [name for name, one in found.of.items() if not one.size]:
        raise CalibrationError(
            f"activation {', '.join(empty)} has no element on any of {found.samples} samples",
            "add samples on which it has some, or take int8 out of precisions",
        )


def _check_same(first: Mapping[str, _Extent], second: Mapping[str, _Extent]) -> None:
    for name, one in first.items():
        if one != (other := second[name]):
            raise CalibrationError(
                f"activation {name} had {one.size} values from {one.low:g} to {one.high:g} in the first pass and "
                f"{other.size} from {other.low:g} to {other.high:g} in the second",
                "give the same samples each time they are asked for, and a model without random operators",
            )


def find_ranges(
    histograms: Mapping[str, Histogram], methods: Iterable[str]
) -> dict[str, dict[str, tuple[float, float]]]:
    """{method: {tensor: range}}, all from the same histograms. CalibrationError for a method that is not known."""
    return {
        method: {name: find_range(histogram, method) for name, histogram in histograms.items()}
        for method in methods
    }


def find_range(histogram: Histogram, method: str) -> tuple[float, float]:
    """(low, high) with low <= 0 <= high. CalibrationError for a method that is not known."""
    methods: dict[str, Callable[[Histogram], tuple[float, float]]] = {
        **{name: partial(_percentile, percent=percent) for name, percent in PERCENTILES.items()},
        "minmax": _minmax,
        "entropy": _entropy,
        "mse": _mse,
    }
    if method not in methods:
        raise CalibrationError(f"calibration method {method!r}", f"choose from {', '.join(methods)}")
    return (0.0, 0.0) if histogram.flat else methods[method](histogram)


def saturated(histogram: Histogram, low: float, high: float) -> float:
    """The share of the values that lie outside the range, 0 to 1, to the width of a bin."""
    centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    outside = histogram.counts[(centres < low) | (centres > high)].sum()
    return float(outside / histogram.counts.sum())


def _minmax(histogram: Histogram) -> tuple[float, float]:
    return histogram.low, histogram.high


def _percentile(histogram: Histogram, *, percent: float) -> tuple[float, float]:
    cumulative = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (100.0 - percent) / 200.0
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

    As in Migacz 2017 (8-bit inference with TensorRT): values outside count at the ends of the reference, but not in
    the quantized distribution. That is not made to sum to 1 again, so a cut costs what it cuts: else one that leaves
    a single bin of values far from zero costs nothing.
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
        q = np.maximum(spread[level][there], 1e-9) / reference.sum()
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
    if not FLOAT32_WIDTHS[0] < high - low < FLOAT32_WIDTHS[1]:
        array = array.astype(np.float64)
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
