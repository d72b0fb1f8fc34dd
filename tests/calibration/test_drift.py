"""Histograms on different bins are compared fairly, what cannot be compared is refused, drift is named by tensor."""

import numpy as np
import pytest

from calibration.drift import CELLS, CacheRefusedError, check, common_cells, divergence
from calibration.graph import graph_of
from calibration.ranges import BINS, Histogram
from tests.calibration.test_cache import made
from tests.calibration.test_calibration import histogram_of, model_of

RNG = np.random.default_rng(5)
NORMAL = RNG.normal(size=400_000)


def counted(low, high, counts):
    return Histogram(low=low, high=high, counts=np.array(counts, np.int64))


def test_equal_histograms_have_no_divergence_and_disjoint_ones_have_all_of_it():
    one = histogram_of(NORMAL)
    assert divergence(one, one) == 0.0
    below = counted(-1.0, 1.0, [1] * 1000 + [0] * 1048)
    above = counted(-1.0, 1.0, [0] * 1048 + [1] * 1000)
    assert divergence(below, above) == pytest.approx(1.0, abs=1e-12)


def test_it_is_that_of_the_textbook():
    """Shares 3/4 and 1/4 against 1/4 and 3/4, each within one half of the same range."""
    half = BINS // 2
    one, other = counted(-1, 1, [3] * half + [1] * half), counted(-1, 1, [1] * half + [3] * half)
    wanted = 0.75 * np.log2(1.5) + 0.25 * np.log2(0.5)
    assert divergence(one, other) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("outlier", [4.99, 9.0, 60.0])
def test_the_same_values_with_another_outlier_have_other_bins_and_no_divergence(outlier):
    one, other = histogram_of(NORMAL[:200_000]), histogram_of(np.append(NORMAL[200_000:], outlier))
    assert one.high != other.high
    assert divergence(one, other) < 1e-3
    assert divergence(one, other) == divergence(other, one)


@pytest.mark.parametrize("outlier", [4.99, 9.0, 60.0])
def test_a_shift_is_seen_through_other_bins(outlier):
    one, other = histogram_of(NORMAL[:200_000]), histogram_of(np.append(NORMAL[200_000:] + 0.2, outlier))
    assert divergence(one, other) > 4e-3


@pytest.mark.parametrize("least", [-0.41, -0.45, -0.5, -0.55, -0.61])
def test_a_peak_at_zero_is_not_torn_by_the_other_bins(least):
    """Half of the values are zero; some edge of the wider bins falls into the narrow bin that holds them."""
    values = np.where(NORMAL > 0, NORMAL, 0.0)
    one = histogram_of(np.append(values, -0.37))
    other = histogram_of(np.append(values, (least, 13.0)))
    assert divergence(one, other) < 1e-4


def test_the_cells_of_the_wider_bins_are_exact_and_even():
    one, other = histogram_of(NORMAL), histogram_of(NORMAL[:100_000] / 3)
    p, q = common_cells(one, other)
    assert len(p) == len(q) <= CELLS
    assert p.sum() == pytest.approx(1.0)
    assert q.sum() == pytest.approx(1.0)
    assert max((p + q) / 2) < 2 / CELLS
    edges = np.cumsum(one.counts) / one.counts.sum()
    assert all(np.isclose(edges, below).any() for below in np.cumsum(p)[:-1])


def test_a_tensor_that_was_zero_everywhere_differs_from_one_that_is_not():
    zero = counted(0.0, 0.0, [7] + [0] * (BINS - 1))
    assert divergence(zero, zero) == 0.0
    assert divergence(zero, histogram_of(NORMAL)) > 0.4
    assert divergence(zero, counted(0.0, 1.0, [0] * 1024 + [1] * 1024)) == 1.0


def test_a_cache_is_valid_for_its_own_histograms_and_names_what_moved(tmp_path):
    cache, histograms = made(tmp_path)
    graph = graph_of(model_of())
    assert check(cache, graph, histograms).valid
    moved = {
        **histograms,
        "r": Histogram(low=0.0, high=histograms["r"].high * 3, counts=histograms["r"].counts),
    }
    found = check(cache, graph, moved, limit=0.01)
    assert not found.valid
    assert list(found.moved) == ["r"]
    assert found.moved["r"] == divergence(cache.tensors["r"].histogram, moved["r"]) > 0.01
    assert found.divergences["x"] == 0.0
    far = {
        name: Histogram(low=one.low * 9, high=one.high * 9, counts=one.counts) for name, one in moved.items()
    }
    ordered = list(check(cache, graph, far, limit=1e-6).moved.values())
    assert len(ordered) == 2
    assert ordered == sorted(ordered, reverse=True)


def test_what_cannot_be_compared_is_refused_and_never_no_drift(tmp_path):
    cache, histograms = made(tmp_path)
    graph = graph_of(model_of())
    with pytest.raises(
        CacheRefusedError, match="another graph: Conv operators 0 -> 1; MatMul operators 2 -> 0"
    ):
        check(cache, graph_of(model_of(conv=True)), histograms)
    with pytest.raises(CacheRefusedError, match="r has no new histogram"):
        check(cache, graph, {"x": histograms["x"]})
    with pytest.raises(CacheRefusedError, match="z is not in the cache"):
        check(cache, graph, {**histograms, "z": histograms["x"]})
    with pytest.raises(CacheRefusedError, match="has no new histogram"):
        check(cache, graph, {})
    empty = Histogram(low=0.0, high=1.0, counts=np.zeros(BINS, np.int64))
    with pytest.raises(CacheRefusedError, match="x has 0 new values"):
        check(cache, graph, {**histograms, "x": empty})
    with pytest.raises(CacheRefusedError, match="no values"):
        divergence(empty, histograms["x"])


@pytest.mark.parametrize("limit", [0.0, -1.0, 1.0, float("nan")])
def test_a_limit_that_passes_everything_or_nothing_is_refused(tmp_path, limit):
    cache, histograms = made(tmp_path)
    with pytest.raises(CacheRefusedError, match="more than 0 and less than 1"):
        check(cache, graph_of(model_of()), histograms, limit=limit)
