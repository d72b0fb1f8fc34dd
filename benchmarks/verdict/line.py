"""The hash line of the default spec's stages as arrays over the 10 000 buckets, and the coins' biases on it.

Invariant: made from `sluice.hashline`, bucket by bucket; nothing about the line is worked out a second time.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sluice.buckets import BUCKETS
from sluice.hashline import CANDIDATE, HashLine
from sluice.spec_policy import DEFAULT_STAGES

PERCENTS = tuple(stage.percent for stage in DEFAULT_STAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """archs: stratum of each bucket. inside[stage]: whether a bucket is the candidate's. lines: of every stage."""

    archs: NDArray[np.int8]
    inside: NDArray[np.bool_]
    lines: tuple[HashLine, ...]

    @property
    def strata(self) -> int:
        """How many architectures."""
        return len(self.lines[0].archs)

    def biases(self, stage: int) -> NDArray[np.float64]:
        """(strata, stage + 1): by architecture, and by the stage that last saw the user plus one, 0 for never."""
        line = self.lines[stage]
        rows = []
        for arch in line.archs:
            outside = [0, *(self.lines[seen].taken(arch) for seen in range(stage))]
            rows.append([(line.taken(arch) - out) / (line.size(arch) - out) for out in outside])
        return np.array(rows)


@lru_cache(maxsize=8)
def lines(shares: tuple[float, ...]) -> Lines:
    """The line of the default percents. shares: of the architectures, sum 1."""
    names = {f"arch{index}": share for index, share in enumerate(shares)}
    made = tuple(HashLine.build(names, percent) for percent in PERCENTS)
    order = {arch: index for index, arch in enumerate(made[0].archs)}
    archs = np.array([order[made[0].arch(bucket)] for bucket in range(BUCKETS)], dtype=np.int8)
    inside = np.array(
        [[line.side(bucket) == CANDIDATE for bucket in range(BUCKETS)] for line in made], dtype=np.bool_
    )
    return Lines(archs=archs, inside=inside, lines=made)
