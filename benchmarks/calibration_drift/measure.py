"""Divergences of many seeded draws, from histograms that are collected once a text.

A draw's histogram is the sum of its texts' histograms on one grid, so 200 draws cost one run of the model a text. What
that leaves out, the draws' own grids, is measured on one draw with `collect` itself.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from calibration.drift import divergence
from calibration.ranges import BINS, Histogram, collect, count, tapped
from sluice.model_inputs import Sample, batch
from sluice.signature import TensorSpec

TRAFFIC: Final = "traffic"
INPUTS: Final = tuple(
    TensorSpec(name=name, dtype="int64", dims=("batch", "sequence"))
    for name in ("input_ids", "attention_mask")
)
COUNT: Final = np.uint16


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """counts: by kind of text, [texts, tensors, BINS]. low, high: of each tensor over all texts of all kinds."""

    tensors: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    counts: Mapping[str, np.ndarray]


def collected(
    model: onnx.ModelProto, tensors: Sequence[str], texts: Mapping[str, Sequence[Sample]]
) -> Collected:
    """Run every text twice: for the grid, and for its counts in it."""
    low, high = np.zeros(len(tensors)), np.zeros(len(tensors))
    with tempfile.TemporaryDirectory() as work:
        session = tapped(model, tensors, Path(work))
    for samples in texts.values():
        for sample in samples:
            for place, values in enumerate(session.run(list(tensors), batch([sample], INPUTS))):
                low[place] = min(low[place], values.min())
                high[place] = max(high[place], values.max())
    counts = {kind: np.zeros((len(some), len(tensors), BINS), COUNT) for kind, some in texts.items()}
    for kind, samples in texts.items():
        for number, sample in enumerate(samples):
            for place, values in enumerate(session.run(list(tensors), batch([sample], INPUTS))):
                found = count(values, low[place], high[place])
                if found.max() > np.iinfo(COUNT).max:
                    raise OverflowError(f"{found.max()} values of {tensors[place]} in one bin of one text")
                counts[kind][number, place] = found
    return Collected(tensors=tuple(tensors), low=low, high=high, counts=counts)


def drawn(found: Collected, *, draws: int, size: int, seed: int) -> dict[str, np.ndarray]:
    """{kind: divergences [draws, tensors]} of `size` texts of each kind against `size` texts of the traffic.

    Traffic is drawn without replacement, new and cached texts apart; the other kinds with it, since few are at hand.
    """
    rng = np.random.default_rng(seed)
    there = len(found.counts[TRAFFIC])
    if there < 2 * size:
        raise ValueError(f"{there} texts of traffic are too few for two times {size}")
    orders = [rng.permutation(there) for _ in range(draws)]
    cached = _chosen([order[:size] for order in orders], there)
    new = {
        kind: _chosen(
            [order[size : 2 * size] for order in orders]
            if kind == TRAFFIC
            else [rng.integers(0, len(counts), size) for _ in range(draws)],
            len(counts),
        )
        for kind, counts in found.counts.items()
    }
    result = {kind: np.zeros((draws, len(found.tensors))) for kind in new}
    for place in range(len(found.tensors)):
        old = _summed(found, TRAFFIC, place, cached)
        for kind, chosen in new.items():
            pairs = zip(old, _summed(found, kind, place, chosen), strict=True)
            result[kind][:, place] = [divergence(one, other) for one, other in pairs]
    return result


def whole(
    model: onnx.ModelProto, tensors: Sequence[str], cached: Sequence[Sample], new: Sequence[Sample]
) -> np.ndarray:
    """Divergences [tensors] as a user gets them: each side collected on a grid of its own."""
    with tempfile.TemporaryDirectory() as work:
        one, other = (collect(model, tensors, some, INPUTS, Path(work)) for some in (cached, new))
    return np.array([divergence(one[name], other[name]) for name in tensors])


def summed(found: Collected, kind: str, numbers: Sequence[int]) -> list[Histogram]:
    """One histogram a tensor, of these texts."""
    chosen = _chosen([np.asarray(numbers)], len(found.counts[kind]))
    return [_summed(found, kind, place, chosen)[0] for place in range(len(found.tensors))]


def _chosen(draws: Sequence[np.ndarray], texts: int) -> np.ndarray:
    """How often each draw has each text: [draws, texts]."""
    return np.stack([np.bincount(draw, minlength=texts) for draw in draws]).astype(np.float64)


def _summed(found: Collected, kind: str, place: int, chosen: np.ndarray) -> list[Histogram]:
    # Sums of whole numbers below 2**53 are exact in float64, in any order.
    counts = (chosen @ found.counts[kind][:, place].astype(np.float64)).astype(np.int64)
    low, high = float(found.low[place]), float(found.high[place])
    return [Histogram(low=low, high=high, counts=row) for row in counts]
