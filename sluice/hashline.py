"""The line of 10 000 buckets: who is served by which architecture and by which version.

Problem: a user must keep their architecture whatever the version and must never leave the cohort while it
grows; and the candidate's share must be known to the bucket, because it is the bias of the coins.

Invariants: the line is split by architecture first (sorted by name, largest remainder), the same for every
percent; within each block the candidate has the first buckets, stable the rest; slice weights always sum to
10 000; the candidate's buckets at a percent are a subset of those at any greater percent.

Proof of the growth: the candidate's total C is dealt to the blocks by Webster's divisor method over the
block sizes, one bucket at a time in the order of size/(2k+1). A greater C deals a longer prefix of the same
order, so no block ever shrinks (largest remainder would not do: its Alabama paradox takes seats away). A
block of n buckets has n priorities above 1/2 and the rest below, so C = 10 000 deals exactly every block its
size, and no block is ever dealt more than that.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from sluice.buckets import BUCKETS
from sluice.errors import FatalError

Side = Literal["candidate", "stable"]
CANDIDATE: Final = "candidate"
STABLE: Final = "stable"
SHARE_SLACK: Final = 1e-6  # how far the shares' sum may be from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One weighted cluster: buckets `start` to `start + weight - 1`; weight 0 to 10 000, zero ones included."""

    arch: str
    side: Side
    start: int
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HashLine:
    """The whole line at one percent. Make it with `build`; equal lines compare equal."""

    archs: tuple[str, ...]  # sorted
    sizes: tuple[int, ...]  # buckets per architecture; sums to 10 000
    candidates: tuple[int, ...]  # of which the candidate's

    @classmethod
    def build(cls, shares: Mapping[str, float], percent: float) -> "HashLine":
        """Make the line. shares: architecture to share in (0, 1], sum 1. percent: 0 to 100, steps of 0.01.

        The candidate's total is the number of buckets nearest to `percent`. Raises FatalError naming the
        share or the percent that cannot be used.
        """
        if not 0 <= percent <= 100:
            raise FatalError(f"percent {percent!r} is outside 0 to 100", "correct the stage's percent")
        named = tuple(sorted((str(arch), float(share)) for arch, share in shares.items()))
        order, sizes = _dealt(named)
        total = int(percent * BUCKETS / 100 + 0.5)
        counts = dict.fromkeys(sizes, 0)
        for arch in order[:total]:
            counts[arch] += 1
        archs = tuple(sizes)
        return cls(
            archs=archs,
            sizes=tuple(sizes[arch] for arch in archs),
            candidates=tuple(counts[arch] for arch in archs),
        )

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Per architecture the candidate's slice, then stable's; weights sum to 10 000."""
        out: list[Slice] = []
        for arch, first, size, taken in zip(
            self.archs, self._starts, self.sizes, self.candidates, strict=True
        ):
            out.append(Slice(arch=arch, side=CANDIDATE, start=first, weight=taken))
            out.append(Slice(arch=arch, side=STABLE, start=first + taken, weight=size - taken))
        return tuple(out)

    @property
    def share(self) -> float:
        """The candidate's share of all buckets, 0 to 1."""
        return sum(self.candidates) / BUCKETS

    def arch(self, bucket: int) -> str:
        """The architecture that serves this bucket under either version."""
        return self.archs[self._block(bucket)]

    def side(self, bucket: int) -> Side:
        """The version that serves this bucket: `candidate` or `stable`."""
        block = self._block(bucket)
        return CANDIDATE if bucket - self._starts[block] < self.candidates[block] else STABLE

    def size(self, arch: str) -> int:
        """Buckets of this architecture."""
        return self.sizes[self._index(arch)]

    def taken(self, arch: str) -> int:
        """Of which the candidate's."""
        return self.candidates[self._index(arch)]

    def bias(self, arch: str) -> float:
        """The candidate's exact share of this architecture's buckets, 0 to 1."""
        return self.taken(arch) / self.size(arch)

    def to_json(self) -> dict[str, list[str] | list[int]]:
        """As plain lists, for a snapshot."""
        return {"archs": [*self.archs], "sizes": [*self.sizes], "candidates": [*self.candidates]}

    @classmethod
    def from_json(cls, data: Mapping[str, list[object]]) -> "HashLine":
        """The inverse of `to_json`; raises FatalError when the sizes do not make a line."""
        archs = tuple(str(arch) for arch in data["archs"])
        sizes = tuple(int(str(size)) for size in data["sizes"])
        taken = tuple(int(str(count)) for count in data["candidates"])
        fits = len(archs) == len(sizes) == len(taken) and sum(sizes) == BUCKETS
        if not fits or any(not 0 <= count <= size for count, size in zip(taken, sizes, strict=True)):
            raise FatalError(f"{dict(data)!r} is not a hash line", "rebuild it with HashLine.build")
        return cls(archs=archs, sizes=sizes, candidates=taken)

    @property
    def _starts(self) -> tuple[int, ...]:
        return _running(self.sizes)

    def _block(self, bucket: int) -> int:
        if not 0 <= bucket < BUCKETS:
            raise FatalError(
                f"bucket {bucket!r} is outside 0 to {BUCKETS - 1}", "take it from buckets.bucket"
            )
        return bisect_right(self._starts, bucket) - 1

    def _index(self, arch: str) -> int:
        if arch not in self.archs:
            raise FatalError(f"arch {arch!r} is not on the line {list(self.archs)}", "name one of these")
        return self.archs.index(arch)


@lru_cache(maxsize=256)
def _running(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sum(sizes[:index]) for index in range(len(sizes)))


@lru_cache(maxsize=64)
def _dealt(shares: tuple[tuple[str, float], ...]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The order in which the candidate is dealt buckets, and each architecture's size."""
    sizes = _sizes(shares)
    seats = [(-size / (2 * k + 1), arch) for arch, size in sizes.items() for k in range(size)]
    return tuple(arch for _, arch in sorted(seats)), sizes


def _sizes(shares: tuple[tuple[str, float], ...]) -> dict[str, int]:
    """Largest remainder; ties go to the earlier name."""
    for arch, share in shares:
        if not 0 < share <= 1:
            raise FatalError(f"share {share!r} of {arch!r} is outside (0, 1]", "correct the target's share")
    total = sum(share for _, share in shares)
    if not abs(total - 1) <= SHARE_SLACK:
        raise FatalError(f"shares sum to {total!r}, not 1", "correct the targets' shares")
    exact = {arch: share / total * BUCKETS for arch, share in shares}
    sizes = {arch: int(value + 1e-9) for arch, value in exact.items()}
    by_remainder = sorted(exact, key=lambda arch: (sizes[arch] - exact[arch], arch))
    for arch in by_remainder[: BUCKETS - sum(sizes.values())]:
        sizes[arch] += 1
    for arch, size in sizes.items():
        if size == 0:
            raise FatalError(f"share of {arch!r} is less than one bucket", "give it at least 0.0001")
    return sizes
