"""The hash line: shares, growth, and the bias of its coins."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.buckets import BUCKETS
from sluice.errors import FatalError
from sluice.hashline import CANDIDATE, HashLine

_WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=6)
_PERCENTS = st.integers(0, BUCKETS).map(lambda hundredths: hundredths / 100)


def _shares(weights: list[int]) -> dict[str, float]:
    return {f"sm_{i}": weight / sum(weights) for i, weight in enumerate(weights)}


@settings(deadline=None, max_examples=60)
@given(_WEIGHTS, _PERCENTS)
def test_slices_cover_the_line_and_the_candidate_has_its_percent(weights, percent):
    line = HashLine.build(_shares(weights), percent)
    ends = 0
    for piece in line.slices:
        assert piece.start == ends
        ends += piece.weight
    assert ends == BUCKETS
    assert sum(line.candidates) == round(percent * 100)


@settings(deadline=None, max_examples=60)
@given(_WEIGHTS, _PERCENTS, _PERCENTS)
def test_a_user_never_leaves_the_cohort_and_never_changes_architecture(weights, one, other):
    small, large = sorted((one, other))
    before, after = HashLine.build(_shares(weights), small), HashLine.build(_shares(weights), large)
    assert before.sizes == after.sizes
    assert all(
        a <= b <= size for a, b, size in zip(before.candidates, after.candidates, after.sizes, strict=True)
    )
    for bucket in range(0, BUCKETS, 97):
        assert before.arch(bucket) == after.arch(bucket)
        assert before.side(bucket) != CANDIDATE or after.side(bucket) == CANDIDATE


@settings(deadline=None, max_examples=40)
@given(_WEIGHTS, _PERCENTS)
def test_bias_is_the_share_of_the_architectures_buckets(weights, percent):
    """Counted bucket by bucket; every architecture is near the percent."""
    line = HashLine.build(_shares(weights), percent)
    for arch in line.archs:
        own = [bucket for bucket in range(BUCKETS) if line.arch(bucket) == arch]
        taken = sum(line.side(bucket) == CANDIDATE for bucket in own)
        assert line.bias(arch) == taken / len(own)
        assert abs(taken - percent / 100 * len(own)) <= len(line.archs)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9_999), _PERCENTS)
def test_of_two_architectures_each_has_the_nearest_number_of_buckets(size, percent):
    line = HashLine.build({"a": size / BUCKETS, "b": 1 - size / BUCKETS}, percent)
    for taken, own in zip(line.candidates, line.sizes, strict=True):
        assert abs(taken - percent / 100 * own) <= 0.5 + 1e-9


def test_largest_remainder_would_take_users_back():
    """The paradox that the divisor method avoids: three blocks, one bucket more, and a block shrinks."""

    def by_largest_remainder(sizes: dict[str, int], total: int) -> dict[str, int]:
        exact = {arch: size * total / BUCKETS for arch, size in sizes.items()}
        counts = {arch: int(value) for arch, value in exact.items()}
        order = sorted(exact, key=lambda arch: (counts[arch] - exact[arch], arch))
        for arch in order[: total - sum(counts.values())]:
            counts[arch] += 1
        return counts

    sizes = {"a": 4286, "b": 4286, "c": 1428}
    paths = [by_largest_remainder(sizes, total) for total in range(200)]
    assert any(b[arch] < a[arch] for a, b in itertools.pairwise(paths) for arch in sizes)
    lines = [HashLine.build({a: s / BUCKETS for a, s in sizes.items()}, total / 100) for total in range(200)]
    assert not any(
        b < a
        for before, after in itertools.pairwise(lines)
        for a, b in zip(before.candidates, after.candidates, strict=True)
    )


def test_at_100_percent_everything_is_the_candidates():
    line = HashLine.build({"a": 0.37, "b": 0.63}, 100)
    assert line.candidates == line.sizes
    assert {line.side(bucket) for bucket in range(BUCKETS)} == {CANDIDATE}


def test_the_order_of_the_shares_does_not_matter():
    assert HashLine.build({"b": 0.3, "a": 0.7}, 5) == HashLine.build({"a": 0.7, "b": 0.3}, 5)


def test_it_survives_json():
    line = HashLine.build({"a": 0.37, "b": 0.63}, 5)
    assert HashLine.from_json(line.to_json()) == line
    with pytest.raises(FatalError, match="not a hash line"):
        HashLine.from_json({"archs": ["a"], "sizes": [9_999], "candidates": [1]})


@pytest.mark.parametrize(
    ("shares", "percent", "text"),
    [
        pytest.param({"a": 0.5, "b": 0.4}, 5, "sum to 0.9", id="shares-do-not-sum-to-1"),
        pytest.param({}, 5, "sum to 0", id="no-shares"),
        pytest.param({"a": 1.2, "b": -0.2}, 5, "outside", id="share-outside-0-and-1"),
        pytest.param({"a": float("nan")}, 5, "outside", id="share-nan"),
        pytest.param({"a": 0.99999, "b": 0.00001}, 5, "less than one bucket", id="share-below-one-bucket"),
        pytest.param({"a": 1.0}, 100.01, "percent 100.01", id="percent-above-100"),
        pytest.param({"a": 1.0}, float("nan"), "percent nan", id="percent-nan"),
    ],
)
def test_bad_shares_are_named(shares, percent, text):
    with pytest.raises(FatalError, match=text):
        HashLine.build(shares, percent)


@pytest.mark.parametrize("bucket", [-1, BUCKETS])
def test_a_bucket_off_the_line_is_refused(bucket):
    with pytest.raises(FatalError, match="bucket"):
        HashLine.build({"a": 1.0}, 5).side(bucket)
