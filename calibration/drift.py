"""Do the cached ranges still fit? How far each activation's distribution has moved since it was calibrated.

Problem: a cache is worth having if it outlives a week's traffic and a model that was trained again, and a trap if it
outlives a change of either that its ranges do not fit. Two histograms of one tensor have different bins, and 2 048 of
them hold more sampling noise than news. Invariants: what cannot be compared (another graph, a tensor on one side alone,
no values) is refused, never "no drift"; the result depends on the two histograms alone, whichever comes first.

The common grid has at most CELLS cells, each with about as much of both histograms together as any other: an outlier
that stretches a range then changes one cell, where it would move every bin of an even grid. Their edges are edges of
the histogram with the wider bins, whose counts are exact there; the other's are divided where such an edge falls inside
a bin, by how much of the bin lies on either side. The bin that holds zero is never divided, since zero is where many
values are the same: after a ReLU, of a mask, of padding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from calibration.cache import CalibrationCache
from calibration.graph import Graph
from calibration.ranges import BINS, Histogram
from sluice.errors import FatalError
from sluice.spec import DRIFT_LIMIT

CELLS: Final = 64
LIMIT: Final = DRIFT_LIMIT  # of 1 000 samples against 1 000


class CacheRefusedError(FatalError):
    """A cache and histograms that cannot be compared, so that nothing is known about drift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The Jensen-Shannon divergence of every tensor, base 2, 0 (the same) to 1 (nothing in common)."""

    divergences: Mapping[str, float]
    limit: float

    @property
    def moved(self) -> dict[str, float]:
        """Tensors above the limit, the farthest first."""
        farthest = sorted(self.divergences.items(), key=lambda item: (-item[1], item[0]))
        return {name: value for name, value in farthest if value > self.limit}

    @property
    def valid(self) -> bool:
        """Whether the cached ranges may be used again: no tensor has moved."""
        return not self.moved


def check(
    cache: CalibrationCache, graph: Graph, histograms: Mapping[str, Histogram], *, limit: float = LIMIT
) -> Drift:
    """Compare a cache with the graph and the histograms of today. limit: more than 0, less than 1.

    Raises CacheRefusedError for another graph (with what differs), for a tensor that one side lacks, and for a
    histogram without values.
    """
    if not 0 < limit < 1:
        raise CacheRefusedError(f"limit is {limit}", "choose more than 0 and less than 1")
    if differences := cache.graph.differences(graph):
        raise CacheRefusedError(
            f"the cache is of another graph: {'; '.join(differences)}", "calibrate this graph"
        )
    cached = cache.histograms
    missing = [f"{name} is not in the cache" for name in sorted({*histograms} - {*cached})]
    missing += [f"{name} has no new histogram" for name in sorted({*cached} - {*histograms})]
    if missing:
        raise CacheRefusedError("; ".join(missing), "collect histograms of exactly the tensors of the cache")
    divergences = {}
    for name, old in cached.items():
        if (total := int(histograms[name].counts.sum())) < 1:
            raise CacheRefusedError(f"{name} has {total} new values", "collect histograms from real samples")
        divergences[name] = divergence(old, histograms[name])
    return Drift(divergences=divergences, limit=limit)


def divergence(one: Histogram, other: Histogram) -> float:
    """Jensen-Shannon divergence on the common grid, base 2, 0 to 1. CacheRefusedError for counts that sum to 0."""
    if one.counts.sum() < 1 or other.counts.sum() < 1:
        raise CacheRefusedError("a histogram has no values", "collect it from real samples")
    p, q = common_cells(one, other)
    middle = (p + q) / 2
    return float(np.clip((_information(p, middle) + _information(q, middle)) / 2, 0.0, 1.0))


def common_cells(one: Histogram, other: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """The share of either histogram's values in each cell of the common grid; each array sums to 1."""
    fine, coarse = sorted((one, other), key=lambda histogram: (histogram.high - histogram.low, histogram.low))
    inner = coarse.edges[1:-1] if coarse.low < coarse.high else np.zeros(0)
    left, right = _zero_bin(fine)
    inner = inner[(inner <= left) | (inner >= right)]
    below = (_below(one, inner), _below(other, inner))
    wanted = np.arange(1, CELLS) / CELLS
    places = np.unique(np.searchsorted((below[0] + below[1]) / 2, wanted))
    places = places[places < len(inner)]
    return _cells(below[0][places]), _cells(below[1][places])


def _below(histogram: Histogram, at: np.ndarray) -> np.ndarray:
    """The share of the values below each point, values even inside a bin."""
    if not histogram.low < histogram.high:  # zero on every sample
        return (at > 0).astype(np.float64)
    cumulative = np.concatenate(([0], np.cumsum(histogram.counts))) / histogram.counts.sum()
    return np.interp(at, histogram.edges, cumulative)


def _zero_bin(histogram: Histogram) -> tuple[float, float]:
    if not histogram.low < histogram.high:
        return 0.0, 0.0
    place = min(BINS - 1, int((0.0 - histogram.low) * (BINS / (histogram.high - histogram.low))))
    return float(histogram.edges[place]), float(histogram.edges[place + 1])


def _cells(below: np.ndarray) -> np.ndarray:
    return np.diff(below, prepend=0.0, append=1.0)


def _information(p: np.ndarray, middle: np.ndarray) -> float:
    """Kullback-Leibler divergence of p from middle, bits; middle is positive wherever p is."""
    there = p > 0
    return float((p[there] * np.log2(p[there] / middle[there])).sum())
