"""Every cell's rollouts, in blocks that can be made anywhere: what came of each cell and fault, as plain numbers.

Problem: half an hour of simulation on two cores must be repeatable to the digit, in any order and on any number of
workers. Invariant: a block's seed is made from the run's seed, the cell's and fault's names and the block's number
alone; a pair's figures are made from its blocks in their order.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

import numpy as np

from benchmarks.verdict.cells import HEALTHY, Cell, Fault
from benchmarks.verdict.ours import Outcome, rollouts
from benchmarks.verdict.peers import POLICIES, peer_rollouts
from benchmarks.verdict.setting import HORIZON_S

BLOCK: Final = 50
OURS: Final = "sluice"
Job = tuple[Cell, Fault, str, int, int, int]  # cell, fault, policy, block, how many, seed


def dealt(cell: Cell, rollouts_a_cell: int) -> dict[str, int]:
    """How many rollouts each fault of a cell gets: half of them the healthy version, the others share the rest.

    Whole blocks, rounded up, so that a cell gets at least what was asked.
    """
    sick = [fault for fault in cell.faults if fault != HEALTHY]
    healthy = rollouts_a_cell // 2 if sick else rollouts_a_cell
    if len(sick) == len(cell.faults):
        healthy = 0
    each = (rollouts_a_cell - healthy) / max(len(sick), 1)
    return {fault.name: _whole(healthy if fault == HEALTHY else each) for fault in cell.faults}


def _whole(many: float) -> int:
    return math.ceil(many / BLOCK) * BLOCK


def jobs(cells: Sequence[Cell], rollouts_a_cell: int, seed: int) -> Iterator[Job]:
    """Our own rollouts, cell by cell."""
    for cell in cells:
        many = dealt(cell, rollouts_a_cell)
        for fault in cell.faults:
            for block in range(many[fault.name] // BLOCK):
                yield cell, fault, OURS, block, BLOCK, seed


def peer_jobs(cells: Sequence[Cell], rollouts_a_cell: int, seed: int) -> Iterator[Job]:
    """The other tools', dealt like ours."""
    for cell in cells if rollouts_a_cell else ():
        many = dealt(cell, rollouts_a_cell)
        for policy in POLICIES:
            for fault in cell.faults:
                for block in range(many[fault.name] // BLOCK):
                    yield cell, fault, policy, block, BLOCK, seed


def generator(cell: Cell, fault: Fault, policy: str, block: int, seed: int) -> np.random.Generator:
    """The block's own random numbers."""
    names = [zlib.crc32(name.encode()) for name in (cell.name, fault.name, policy)]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, *names, block])))


def made(job: Job) -> list[dict[str, Any]]:
    """One block's rollouts, each as a row."""
    cell, fault, policy, block, many, seed = job
    rng = generator(cell, fault, policy, block, seed)
    if policy == OURS:
        return [row(outcome) for outcome in rollouts(cell.world, fault, many, rng)]
    return [row(outcome) for outcome in peer_rollouts(policy, cell.world, fault, many, rng)]


def row(outcome: Outcome) -> dict[str, Any]:
    """The part of an outcome that figures are made from."""
    return {
        "ended": outcome.ended,
        "stage": outcome.stage,
        "why": outcome.why,
        "found_s": outcome.found_s,
        "reached_s": outcome.reached_s,
        "bad_s": outcome.bad_s,
        "requests": outcome.requests,
    }


def run(
    todo: Sequence[Job], workers: int, told: Callable[[int, Job], None] = lambda done, job: None
) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """{(cell, fault, policy): rows}, whatever the workers. told: called after every block."""
    rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {}

    def take(results: Iterable[list[dict[str, Any]]]) -> None:
        for done, (job, found) in enumerate(zip(todo, results, strict=True), start=1):
            rows.setdefault((job[0].name, job[1].name, job[2]), []).extend(found)
            told(done, job)

    if workers <= 1:
        take(map(made, todo))
    else:
        with ProcessPoolExecutor(workers) as pool:
            take(pool.map(made, todo, chunksize=1))
    return rows


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts and medians of one cell, fault and policy. Seconds; shares of the requests of 4 h."""
    found = [one["found_s"] for one in rows if one["found_s"] is not None]
    reached = [one["reached_s"] for one in rows if one["reached_s"] is not None]
    promoted = [one["reached_s"] for one in rows if one["ended"] == "promoted"]
    requests = [one["requests"] for one in rows if one["requests"] is not None]
    ended = Counter(one["ended"] for one in rows)
    turned = [one for one in rows if one["ended"] == "turned back"]
    return {
        "n": len(rows),
        "turned_back": ended["turned back"],
        "turned_back_before_50": sum(one["stage"] < 2 for one in turned),
        "turned_back_before_100": sum(one["stage"] < 3 for one in turned),
        "turned_back_in_watch": sum(one["stage"] == 3 for one in turned),
        "reached_100": len(reached),
        "promoted": ended["promoted"],
        "held": ended["held"],
        "found": len(found),
        "median_found_s": _median(found, len(rows)),
        "median_requests": _median(requests, len(rows)),
        "median_reached_s": _median(reached, len(rows)),
        "median_promoted_s": float(np.median(promoted)) if promoted else None,
        "mean_exposure": float(np.mean([one["bad_s"] for one in rows])) / HORIZON_S if rows else None,
        "why_held": dict(Counter(one["why"] for one in rows if one["ended"] == "held").most_common(3)),
        "why_turned_back": dict(Counter(one["why"] for one in turned).most_common(5)),
    }


def _median(values: Sequence[float], many: int) -> float | None:
    """Over all rollouts, those without the event counted as never; None when that is the median."""
    if not many or len(values) * 2 <= many:
        return None
    padded = np.sort(
        np.concatenate([np.array(values, dtype=np.float64), np.full(many - len(values), np.inf)])
    )
    middle = float(padded[(many - 1) // 2] + padded[many // 2]) / 2
    return middle if math.isfinite(middle) else None
