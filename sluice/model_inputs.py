"""Real samples as arrays: un-batched lines in, batches of a wanted shape out.

Problem: export, validation, calibration and build must feed the model the same real inputs in the same way, or
their numbers cannot be compared. Invariants: the first dimension of every input is the batch, and a sample
lacks it; short samples are filled with zeros on the right (token 0 is padding, mask 0 hides it); what a sample
lacks, or has too much of, is an error, never a default.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sluice.errors import FatalError
from sluice.signature import TensorSpec

Sample = Mapping[str, np.ndarray]  # one un-batched sample: dimensions are the input's without the first


class AxisRange(Protocol):
    """The range of one dynamic axis; min <= opt <= max, each at least 1."""

    @property
    def min(self) -> int: ...
    @property
    def opt(self) -> int: ...
    @property
    def max(self) -> int: ...


class SampleError(FatalError):
    """A samples file that cannot be used: which line (from 1; 0 is the whole file) and what is wrong."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(line, problem)
        self.line, self.problem = line, problem

    @property
    def message(self) -> str:
        return f"samples, line {self.line}: {self.problem}" if self.line else f"samples: {self.problem}"

    @property
    def next_step(self) -> str:
        return "write one JSON object a line, every input by name, without the batch dimension"


class TooFewSamplesError(FatalError):
    """model.samples has fewer lines than the spec asks for: a number from fewer would pass for one from all.

    field_name: the field that asks. used: lines at the beginning that another step has used already.
    """

    def __init__(self, field_name: str, wanted: int, there: int, used: int) -> None:
        super().__init__(field_name, wanted, there, used)
        self.field_name, self.wanted, self.there, self.used = field_name, wanted, there, used

    @property
    def message(self) -> str:
        behind = f" behind the {self.used} that calibrate" if self.used else ""
        return f"{self.field_name} asks for {self.wanted} samples{behind}, the file of model.samples has {self.there}"

    @property
    def next_step(self) -> str:
        return f"write {self.used + self.wanted - self.there} more into the file, or lower {self.field_name}"


def parse_samples(
    text: str, inputs: Sequence[TensorSpec], axes: Mapping[str, AxisRange], *, limit: int | None = None
) -> tuple[Sample, ...]:
    """The first `limit` samples (all without one). SampleError on the first bad line and on no sample at all."""
    lines = list(itertools.islice(filled_lines(text), limit))
    if not lines:
        raise SampleError(0, "the file holds no sample")
    return tuple(sample_of(number, json_of(number, line), inputs, axes) for number, line in lines)


def filled_lines(text: str) -> Iterator[tuple[int, str]]:
    """Every line that is not empty, with its number in the file (from 1), as an editor counts them."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def wanted_samples(
    text: str,
    inputs: Sequence[TensorSpec],
    axes: Mapping[str, AxisRange],
    *,
    field_name: str,
    wanted: int,
    used: int = 0,
) -> tuple[Sample, ...]:
    """Exactly the `wanted` samples behind the first `used`. Raises TooFewSamplesError, and SampleError as above."""
    samples = parse_samples(text, inputs, axes, limit=used + wanted)
    if len(samples) < used + wanted:
        raise TooFewSamplesError(field_name, wanted, len(samples), used)
    return samples[used:]


def batch(samples: Sequence[Sample], inputs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """Stack samples into one batch, each axis as long as its longest sample, zeros on the right."""
    if not samples:
        raise SampleError(0, "an empty batch was asked for")
    stacked = {}
    for spec in inputs:
        arrays = [sample[spec.name] for sample in samples]
        shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
        out = np.zeros((len(arrays), *shape), dtype=spec.dtype)
        for row, array in zip(out, arrays, strict=True):
            row[tuple(slice(size) for size in array.shape)] = array
        stacked[spec.name] = out
    return stacked


def batches(
    samples: Sequence[Sample], inputs: Sequence[TensorSpec], rows: Callable[[str], int]
) -> Iterator[dict[str, np.ndarray]]:
    """Every sample once, in order, in batches. rows: from the batch axis's name to the wanted batch size.

    A batch of fixed size is filled up with its first sample.
    """
    first = inputs[0].dims[0]
    size = first if isinstance(first, int) else rows(first)
    for start in range(0, len(samples), size):
        part = list(samples[start : start + size])
        if isinstance(first, int):
            part += part[:1] * (size - len(part))
        yield batch(part, inputs)


def fill(
    sizes: Mapping[str, int], samples: Sequence[Sample], inputs: Sequence[TensorSpec]
) -> dict[str, np.ndarray]:
    """One batch of exactly the shape that `sizes` gives each axis, made of real values.

    Rows take the samples in turn; a sample that is too short is repeated along the axis, a long one is cut.
    """
    filled = {}
    for spec in inputs:
        rows, *shape = (sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims)
        taken = itertools.islice(itertools.cycle(samples), rows)
        filled[spec.name] = np.stack([_stretched(sample[spec.name], tuple(shape)) for sample in taken])
    return filled


def shapes_of(
    feed: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec], tensors: Sequence[TensorSpec]
) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by name, its axes as large as `feed` has them; every axis is one of an input."""
    sizes = {
        dim: size
        for spec in inputs
        for dim, size in zip(spec.dims, feed[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }
    return {
        spec.name: tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims) for spec in tensors
    }


def corners(axes: Mapping[str, AxisRange]) -> Iterator[dict[str, int]]:
    """Every combination of min, opt and max over all axes, each once; one empty mapping without axes."""
    points = [sorted({axis.min, axis.opt, axis.max}) for axis in axes.values()]
    for sizes in itertools.product(*points):
        yield dict(zip(axes, sizes, strict=True))


def label(sizes: Mapping[str, int]) -> str:
    """`batch=4 sequence=32`, as tables show a shape; `fixed` without axes."""
    return " ".join(f"{name}={size}" for name, size in sizes.items()) or "fixed"


def _stretched(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat or cut `array` along each dimension to `shape`."""
    for dim, size in enumerate(shape):
        array = np.take(array, np.arange(size) % array.shape[dim], axis=dim)
    return array


def json_of(number: int, line: str) -> Any:
    """The line's value. Raises SampleError with this number of a line."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SampleError(number, f"no JSON ({error})") from error


def sample_of(
    number: int, values: Any, inputs: Sequence[TensorSpec], axes: Mapping[str, AxisRange]
) -> Sample:
    """One sample from plain values. Raises SampleError with this number of a line."""
    if not isinstance(values, dict) or (missing := [spec.name for spec in inputs if spec.name not in values]):
        raise SampleError(number, f"lacks {missing}" if isinstance(values, dict) else "no JSON object")
    sample = {spec.name: _array(number, spec, values[spec.name], axes) for spec in inputs}
    _same_sizes(number, sample, inputs)
    return sample


def _array(number: int, spec: TensorSpec, value: Any, axes: Mapping[str, AxisRange]) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=spec.dtype)
        given = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise SampleError(number, f"{spec.name} is no {spec.dtype} array ({error})") from error
    if given.size and given.dtype.kind not in ("biuf" if array.dtype.kind == "f" else "biu"):
        raise SampleError(number, f"{spec.name} is no {spec.dtype} array (it holds {given.dtype} values)")
    if array.ndim != len(spec.dims) - 1:
        raise SampleError(number, f"{spec.name} has {array.ndim} dimensions, wanted {list(spec.dims[1:])}")
    for dim, size in zip(spec.dims[1:], array.shape, strict=True):
        low, high = (dim, dim) if isinstance(dim, int) else (axes[dim].min, axes[dim].max)
        if not low <= size <= high:
            raise SampleError(number, f"{spec.name} has {dim}={size}, wanted {low} to {high}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SampleError(number, f"{spec.name} holds a value that is not finite")
    return array


def _same_sizes(number: int, sample: Sample, inputs: Sequence[TensorSpec]) -> None:
    """An axis has one size within a sample, whichever input it is read from."""
    seen: dict[str, int] = {}
    for spec in inputs:
        for dim, size in zip(spec.dims[1:], sample[spec.name].shape, strict=True):
            if isinstance(dim, str) and seen.setdefault(dim, size) != size:
                raise SampleError(number, f"{spec.name} has {dim}={size}, another input {dim}={seen[dim]}")
