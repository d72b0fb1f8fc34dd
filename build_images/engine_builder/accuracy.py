"""How far an engine's answers are from the FP32 ONNX on real samples that did not calibrate it.

Problem: an engine has other kernels for other batch sizes, and one that is right for a lone row may be wrong for all
that are served together. Invariants: outputs are compared by name and shape before by value; NaN and infinity never
pass; every bucket of the batch axis counts for the worst, with rows of different lengths.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from build_images.engine_builder.runs import Feed, Run
from sluice.cosine import cosines
from sluice.model_inputs import Sample, batch, shapes_of
from sluice.signature import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Of one output. samples, cosine_mean: over the samples, each alone or in the least batch.

    cosine_min, max_abs: of the worst row at any batch size that was tried; -1 when anything was not comparable.
    """

    samples: int
    cosine_min: float
    cosine_mean: float
    max_abs: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; max_abs is null when it is not finite."""
        return asdict(self)


Expected = list[tuple[Feed, dict[str, np.ndarray]]]  # feeds with the FP32 ONNX's answers


@dataclass(frozen=True, slots=True)
class Mixed:
    """Different samples in one batch, padded as a server pads. cuts: by row, {output: what of it is no padding}."""

    feed: Feed
    cuts: tuple[Mapping[str, tuple[slice, ...]], ...]

    def rows(self, answer: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Each row alone. An output of another rank is left whole, and so has no shape that is wanted."""
        for number, cut in enumerate(self.cuts):
            yield {
                name: array[number : number + 1][(slice(None), *cut[name])]
                if name in cut and array.ndim == len(cut[name]) + 1
                else array
                for name, array in answer.items()
            }


def mixed(
    samples: Sequence[Sample],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    sizes: Sequence[int],
) -> Iterator[Mixed]:
    """A batch of each of `sizes`, from the shortest of the samples to the longest, evenly."""
    by_size = sorted(samples, key=lambda sample: sum(array.size for array in sample.values()))
    first = inputs[0].dims[0]
    outputs = [one for one in outputs if one.dims and one.dims[0] == first]
    for size in sizes:
        chosen = [by_size[place] for place in np.linspace(0, len(by_size) - 1, size).round().astype(int)]
        shapes = [shapes_of(batch([sample], inputs), inputs, outputs) for sample in chosen]
        cuts = tuple({name: tuple(map(slice, shape[1:])) for name, shape in one.items()} for one in shapes)
        yield Mixed(batch(chosen, inputs), cuts)


def references(run: Run, feeds: Iterable[Feed]) -> Expected:
    """Each feed with the FP32 ONNX's answer."""
    return [(feed, run(feed)) for feed in feeds]


def accuracy(
    run: Run, samples: Expected, batches: Sequence[tuple[Mixed, dict[str, np.ndarray]]] = ()
) -> dict[str, Accuracy]:
    """By output name. batches: with the FP32 ONNX's answers, for the worst row alone. ValueError without samples."""
    if not samples:
        raise ValueError("no samples to compare on")
    of_samples = [(answer, run(feed)) for feed, answer in samples]
    of_rows = [
        rows
        for one, answer in batches
        for rows in zip(one.rows(answer), one.rows(run(one.feed)), strict=True)
    ]
    found = {name: _of_output(name, of_samples) for name in samples[0][1]}
    return {name: _worst(one, _of_output(name, of_rows)) if of_rows else one for name, one in found.items()}


def _worst(one: Accuracy, other: Accuracy) -> Accuracy:
    sizes = [found.max_abs for found in (one, other)]
    largest = None if None in sizes else max(size for size in sizes if size is not None)
    return replace(one, cosine_min=min(one.cosine_min, other.cosine_min), max_abs=largest)


def _of_output(name: str, pairs: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> Accuracy:
    rows: list[float] = []
    worst = 0.0
    for wanted, got in pairs:
        a, b = wanted[name], got.get(name)
        if set(wanted) != set(got) or b is None or a.shape != b.shape or not _finite(a, b):
            return Accuracy(samples=len(rows), cosine_min=-1.0, cosine_mean=-1.0, max_abs=None)
        a64, b64 = a.astype(np.float64), b.astype(np.float64)
        rows.extend(cosines(a64, b64).tolist())
        worst = max(worst, float(np.abs(a64 - b64).max()))
    return Accuracy(samples=len(rows), cosine_min=min(rows), cosine_mean=float(np.mean(rows)), max_abs=worst)


def _finite(*arrays: np.ndarray) -> bool:
    return all(array.size > 0 and bool(np.isfinite(array).all()) for array in arrays)


def least_cosine(by_output: Mapping[str, Accuracy]) -> float:
    """What the spec's bar is compared with: the worst sample of the worst output."""
    return min(one.cosine_min for one in by_output.values())
