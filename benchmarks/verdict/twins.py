"""Broken twins: five tests that look right and are not, each held to the bound that it should break.

Problem: a bound that nothing can break is not a bound that was tested. Invariant: a twin differs from the product's
test in one idea, lives in the same worlds, and is judged by the same count; beside it stands the product's own figure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from benchmarks.verdict.bounds import clopper_pearson
from benchmarks.verdict.cells import HEALTHY, Fault, World
from benchmarks.verdict.crossing import Odds
from benchmarks.verdict.ours import Rollout
from benchmarks.verdict.part import Part
from benchmarks.verdict.peers import peer_rollouts
from benchmarks.verdict.setting import GATES, Setting
from benchmarks.verdict.stage import Row, no_harm_shown
from sluice.coins import HARM_ODDS, bar
from sluice.evidence import Kind

LIMIT: Final = 0.01
MIX_STABLE: Final = (0.7, 0.1, 0.1, 0.1)  # who serves stable's requests, and the candidate's
MIX_CANDIDATE: Final = (0.25, 0.25, 0.25, 0.25)
BUSY: Final = World(users=2000, base=0.05, sigma=2.0)
MANY_BUSY: Final = replace(
    BUSY, users=5000
)  # so that the stages pass, and the hold of too few users hides nothing
LOOK_S: Final = 600.0
SIX_STAGES: Final = (0.3, 0.34, 0.38, 0.42, 0.46, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """breaks: the count that must exceed the limit. count: of so many seeded rollouts, (the twin's, the product's)."""

    name: str
    breaks: str
    count: Callable[[int, np.random.Generator], tuple[int, int]]


class RequestCounting(Part):
    """Every event is a coin, whoever had it."""

    def _make_rows(self) -> None:
        super()._make_rows()
        self.rows = {kind: _every_event(row) for kind, row in self.rows.items()}


class ServedStrata(Part):
    """Strata by who served, where the two versions are served by unlike replicas."""

    def _make_rows(self) -> None:
        super()._make_rows()
        self.rows = {kind: self._served(row) for kind, row in self.rows.items()}

    def _served(self, row: Row) -> Row:
        ways, many = self.stage + 1, len(row.t)
        by = [np.searchsorted(np.cumsum(mix), self.rng.random(many)) for mix in (MIX_CANDIDATE, MIX_STABLE)]
        arch = np.minimum(np.where(row.heads, *by), len(MIX_STABLE) - 1)
        return replace(row, code=arch * ways + row.code % ways)


def _every_event(row: Row) -> Row:
    return replace(row, before=np.full(len(row.t), -1, dtype=np.int32), begins=[0])


def _turned_back(part: type[Part], world: World, many: int, rng: np.random.Generator) -> int:
    class Counting(Rollout):
        pass

    Counting.part = part
    setting = Setting(world, rng)
    return sum(Counting(setting, HEALTHY).run().ended == "turned back" for _ in range(many))


def _requests(many: int, rng: np.random.Generator) -> tuple[int, int]:
    return _turned_back(RequestCounting, MANY_BUSY, many, rng), _turned_back(Part, MANY_BUSY, many, rng)


def _served(many: int, rng: np.random.Generator) -> tuple[int, int]:
    world = World(users=5000)
    return _turned_back(ServedStrata, world, many, rng), _turned_back(Part, world, many, rng)


def _peeking(many: int, rng: np.random.Generator) -> tuple[int, int]:
    world = World()
    peeked = peer_rollouts("z-test every minute", world, HEALTHY, many, rng)
    return sum(one.ended == "turned back" for one in peeked), _turned_back(Part, world, many, rng)


def _once_per_stage(many: int, rng: np.random.Generator) -> tuple[int, int]:
    """Six stages in each of which every user of 40 has an event: (bias w for everybody, the bias of what is known).

    One process over the whole rollout: the coins of a stage multiply what the stages before have shown.
    """
    users, level = 40, bar(GATES.alpha, 0)
    twin = ours = 0
    for _ in range(many):
        place, seen = rng.random(users), 0.0
        ratios = [np.zeros(len(HARM_ODDS)), np.zeros(len(HARM_ODDS))]
        crossed = [False, False]
        for share in SIX_STAGES:
            heads = place < share
            free = place >= seen
            known = (share - seen) / (1 - seen)
            for index, (coins, bias) in enumerate(((np.ones(users, bool), share), (free, known))):
                ratios[index] += _log_ratios(int((heads & coins).sum()), int(coins.sum()), bias)
                crossed[index] |= bool(np.logaddexp.reduce(ratios[index]) - np.log(len(HARM_ODDS)) >= level)
            seen = share
        twin, ours = twin + crossed[0], ours + crossed[1]
    return twin, ours


def _log_ratios(heads: int, tosses: int, bias: float) -> Any:
    odds = np.array(HARM_ODDS)
    return heads * np.log(odds) - tosses * np.log1p((odds - 1) * bias)


def _opposite(many: int, rng: np.random.Generator) -> tuple[int, int]:
    """No harm shown of a version twice as bad, 10 min into 50 %: (by the plain opposite ratio, by thinning)."""
    twin = ours = 0
    setting = Setting(BUSY, rng)
    for _ in range(many):
        plain, thinned = _no_harm_at_50(Rollout(setting, Fault(rho=GATES.rho0)))
        twin, ours = twin + plain, ours + thinned
    return twin, ours


def _no_harm_at_50(rollout: Rollout) -> tuple[bool, bool]:
    part = Part(rollout.setting, rollout.day, rollout.past, 2, 0.0)
    part.extend(LOOK_S)
    looks, half, mine = np.array([LOOK_S]), GATES.beta / 2, part._of(Kind.FAILURE)
    biases = rollout.setting.lines.biases(2)
    # "The odds are less than rho0 times": coins of the bias that rho0 gives, and the same better odds.
    worse = GATES.rho0 * biases / (1 - biases + GATES.rho0 * biases)
    opposite = Odds(tuple(GATES.rho0**-power for power in (0.6, 1.0, 2.0, 4.0)), worse)
    plain = no_harm_shown(Row.make(part.counted, mine), opposite, half, looks)
    thinned = no_harm_shown(Row.make(part.counted, mine & part.counted.kept), part.better, half, looks)
    return bool(plain[0]), bool(thinned[0])


HEALTHY_BACK: Final = "healthy versions turned back"
TWINS: Final[Sequence[Twin]] = (
    Twin(name="peeking z-test", breaks=HEALTHY_BACK, count=_peeking),
    Twin(name="request counting", breaks=HEALTHY_BACK, count=_requests),
    Twin(name="everybody once per stage with bias w", breaks=HEALTHY_BACK, count=_once_per_stage),
    Twin(name="strata by who served", breaks=HEALTHY_BACK, count=_served),
    Twin(name="plain opposite ratio", breaks="rho 2 shown to be no harm", count=_opposite),
)


def judged(many: int, seed: int) -> list[dict[str, Any]]:
    """[{twin, breaks, n, twin_count, twin_low, product_count, product_high, fails}].

    fails: the lower 95 % bound of the twin's rate is above 1 %, so that it fails the test that it should.
    """
    out = []
    for number, twin in enumerate(TWINS):
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, number])))
        broken, ours = twin.count(many, rng)
        low, high = clopper_pearson(broken, many)[0], clopper_pearson(ours, many)[1]
        out.append(
            {
                "twin": twin.name, "breaks": twin.breaks, "n": many, "twin_count": broken, "twin_low": low,
                "product_count": ours, "product_high": high, "fails": low > LIMIT,
            }
        )  # fmt: skip
    return out
