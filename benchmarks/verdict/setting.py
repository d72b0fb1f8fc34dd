"""What all rollouts of a block share: the users, the hash line, and the numbers of the controller and the gate.

Invariant: each of these numbers is the product's (`serving/`, `plugins/triggers/gate.py`), or says what it stands for.
"""

from typing import Final

import numpy as np

from benchmarks.verdict.cells import World
from benchmarks.verdict.line import Lines, lines
from benchmarks.verdict.users import Floats, Population, population
from benchmarks.verdict.watch import process_starts
from sluice.spec_policy import Gates

SAMPLES_PER_S: Final = 200.0
HORIZON_S: Final = 4 * 3600.0
FIRST_LOOK_S: Final = 5.0
POLL_S: Final = 2.0
OPEN_S: Final = 5.0  # from a pass to the next stage acknowledged: the scheduler's part of it is seconds
TICK_S: Final = 0.25  # of the guard
LOG_S: Final = 0.1  # from the end of a request to its entry in the controller
MOST_LOOKS: Final = 120  # of a stretch; a hold of an hour is not looked at every two seconds here
BEFORE_100: Final = 3  # stages

GATES: Final = Gates()


class Setting:
    """What all rollouts of a block share: the users and what follows from them alone."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        self.sampled = sampled_share(world.rps)
        self.people: Population = population(world, rng, self.sampled)
        self.lines: Lines = lines(world.shares)
        self.rates = (self.people.rates * self.sampled).astype(np.float32)
        self.watch_starts: Floats = process_starts(self.people, HORIZON_S)


def sampled_share(rps: float) -> float:
    """Share of requests in the sample: a power of 1/2 of at most SAMPLES_PER_S."""
    share = 1.0
    while rps * share > SAMPLES_PER_S:
        share /= 2
    return share
