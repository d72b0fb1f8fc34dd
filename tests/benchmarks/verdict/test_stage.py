"""The fast path against the plain one: real entries, a real tally, `judge` after every event."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.verdict.cells import Fault, World
from benchmarks.verdict.epochs import coins_of, life
from benchmarks.verdict.stage import better_odds, first_harm, harm_odds, no_harm_shown
from sluice.coins import no_harm_odds, read
from sluice.evidence import KINDS
from sluice.judgement import Action, StagePolicy
from sluice.spec_policy import Gates
from sluice.verdict import judge
from tests.benchmarks.verdict.plain import Plain

WORLD = World(rps=60.0, users=300, base=0.04, shares=(0.4, 0.3, 0.2, 0.1), latency_sigma=0.5)
GATES = Gates()
SECONDS = 100.0


def _through(plain: Plain, stage: int) -> float:
    """Every stage before `stage` whole, then `stage` opened; when."""
    for before in range(stage):
        plain.open(before)
        for _, entry in plain.entries:
            plain.tally.add(entry)
        plain.carry(before)
    return plain.open(stage)


@pytest.mark.parametrize(
    ("seed", "stage", "fault"),
    [
        (1, 0, Fault(rho=10.0)),
        (2, 1, Fault(rho=10.0, begins=(1, 0.0))),
        (3, 2, Fault(rho=4.0, begins=(2, 0.0))),
        (4, 2, Fault(shape="all x1.5")),
        (5, 2, Fault(rho=10.0, begins=(2, 50.0))),
        (6, 2, Fault()),
    ],
)
def test_the_fast_path_finds_harm_where_the_tally_and_the_judge_find_it(
    seed: int, stage: int, fault: Fault
) -> None:
    world = (
        replace(WORLD, users=3000, rps=200.0) if stage < 2 else WORLD
    )  # a small share must be users enough
    plain = Plain(world, fault, seed, SECONDS)
    opened_s = _through(plain, stage)
    firsts = dict(plain.tally._numbering.first)
    odds = harm_odds(plain.day.lines.biases(stage))
    found = first_harm(plain.rows(), firsts, odds, GATES, np.inf, plain.carried or None)
    policy = StagePolicy(percent=plain.day.lines.lines[stage].share * 100, dwell_s=0.0, needs_no_harm=False)
    crossed = None
    for t, entry in plain.entries:
        plain.tally.add(entry)
        if entry.event_log and t >= GATES.settle_s:
            verdict = judge(plain.tally.evidence(), GATES, policy, now_s=entry.at_s)
            if verdict.action is Action.HARM:
                crossed = t
                break
    assert (found is None) == (crossed is None)
    assert (fault == Fault()) == (crossed is None)
    if found is not None:
        assert found.at_s == pytest.approx(crossed, abs=1e-9)
        assert found.kind.value in verdict.reason
        assert opened_s + found.at_s == pytest.approx(entry.at_s)


@pytest.mark.parametrize(("seed", "rho"), [(11, 1.0), (12, 4.0)])
def test_processes_have_the_tally_s_coins(seed: int, rho: float) -> None:
    """Every live process of every kind and test, by stratum and bias, at the end of a 50 % stage."""
    plain = Plain(WORLD, Fault(rho=rho), seed, 150.0)
    _through(plain, 2)
    for _, entry in plain.entries:
        plain.tally.add(entry)
    theirs: dict[tuple, list[int]] = {}
    for coin in plain.tally.evidence().coins:
        first = plain.tally._numbering.first[coin.kind] if coin.test == "harm" else 0
        if coin.process < first:
            continue  # the one that goes on over all stages
        key = (coin.kind, coin.test, coin.process - first, coin.stratum, round(coin.bias, 9))
        theirs[key] = [coin.heads, coin.tails]
    ours: dict[tuple, list[int]] = {}
    biases = plain.day.lines.biases(2)
    for kind in KINDS:
        for test in ("harm", "no_harm"):
            row = plain.row(kind, thinned=test == "no_harm")
            for process in range(len(row.begins)):
                if life(row.begins, process, len(row.t))[1] < len(row.t):
                    continue  # retired
                for place in coins_of(row.before, row.coin, row.begins, process):
                    arch, way = divmod(int(row.code[place]), biases.shape[1])
                    key = (kind, test, process, f"arch{arch}", round(float(biases[arch, way]), 9))
                    ours.setdefault(key, [0, 0])[0 if row.heads[place] else 1] += 1
    assert max(key[2] for key in ours) >= 8  # processes have retired, or nothing was shown about that
    assert ours == {key: pair for key, pair in theirs.items() if sum(pair)}


def test_no_harm_is_shown_when_the_judge_says_so() -> None:
    world = World(rps=100.0, users=2000, base=0.05, shares=(0.5, 0.5))
    plain = Plain(world, Fault(), 21, 150.0)
    _through(plain, 2)
    looks, thinned = np.arange(20.0, 150.0, 2.0), {kind: plain.row(kind, thinned=True) for kind in KINDS}
    better = better_odds(plain.day.lines.biases(2), GATES.rho0)
    ours = {kind: no_harm_shown(row, better, GATES.beta / 2, looks) for kind, row in thinned.items()}
    theirs: dict = {kind: [] for kind in KINDS}
    entries = iter([*plain.entries, (np.inf, None)])
    t, entry = next(entries)
    for look in looks:
        while t <= look:
            plain.tally.add(entry)
            t, entry = next(entries)
        coins = plain.tally.evidence().coins
        levels = dict.fromkeys(KINDS, GATES.beta / 2)
        read_now = read(coins, "no_harm", no_harm_odds(GATES.rho0), levels)
        for kind in KINDS:
            theirs[kind].append(kind in read_now and read_now[kind].crossed)
    assert {kind: shown.tolist() for kind, shown in ours.items()} == theirs
    assert any(any(shown) for shown in theirs.values())
    assert not all(all(shown) for shown in theirs.values())
