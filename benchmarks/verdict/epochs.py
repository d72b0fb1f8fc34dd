"""Which events are coins of which process: `sluice.processes.Series`, for a whole stretch at once.

Problem: tossing one event after another takes longer than ten thousand rollouts can. Invariant: the same events give
the same processes, coins and counts as `Series.toss`; a test holds both against each other.

An event is a coin of process j if it is its user's first since the process started, so the place of the user's event
before it says everything: it is one if that place is before the start.
"""

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict.users import Floats, Ints
from sluice.processes import EPOCH_MIN_USERS, EPOCH_SHARE, LIVE_PROCESSES

_PLACE_BITS = 24
SHORT_EPOCH = 150  # users: below it a loop is faster than arrays are


def previous(user: Ints) -> Ints:
    """The place of each event's predecessor by the same user, -1 for a first one. user: in order of time."""
    many = len(user)
    ordered = (user.astype(np.int64) << _PLACE_BITS) | np.arange(many)
    ordered.sort()
    place = (ordered & ((1 << _PLACE_BITS) - 1)).astype(np.int32)
    whose = ordered >> _PLACE_BITS
    same = whose[1:] == whose[:-1]
    out = np.full(many, -1, dtype=np.int32)
    out[place[1:][same]] = place[:-1][same]
    return out


def starts(before: Ints, active: Floats) -> list[int]:
    """Places at which processes start, the first at 0. active: users seen by a sample when each event came."""
    out, begin, many = [0], 0, len(before)
    wanted = np.maximum(EPOCH_MIN_USERS, EPOCH_SHARE * active)
    if many and wanted[-1] < SHORT_EPOCH:
        return _starts_one_by_one(before, wanted)
    while begin < many:
        window = int(2 * wanted[begin]) + 64
        found = _end_of_epoch(before, wanted, begin, window)
        if found is None:
            return out
        begin = found + 1
        out.append(begin)
    return out


def _starts_one_by_one(before: Ints, wanted: Floats) -> list[int]:
    out, begin, fresh = [0], 0, 0
    for place, (last, enough) in enumerate(zip(before.tolist(), wanted.tolist(), strict=True)):
        if last < begin:
            fresh += 1
            if fresh >= enough:
                begin, fresh = place + 1, 0
                out.append(begin)
    return out


def _end_of_epoch(before: Ints, wanted: Floats, begin: int, window: int) -> int | None:
    """The place of the event that completes the epoch; None when there is none."""
    counted, here, many = 0, begin, len(before)
    while here < many:
        until = min(here + window, many)
        fresh = counted + np.cumsum(before[here:until] < begin)
        reached = fresh >= wanted[here:until]
        first = int(reached.argmax())
        if reached[first]:
            return here + first
        counted, here, window = int(fresh[-1]), until, 2 * window
    return None


def life(begins: list[int], process: int, many: int) -> tuple[int, int]:
    """[first, last]: how many events have come when a process starts and when it was last looked at.

    The event that starts another one retires it at once, so what that event adds to it is never looked at.
    """
    retires = process + LIVE_PROCESSES - 1
    last = begins[retires] - 1 if process and retires < len(begins) else many
    return begins[process], last


def coins_of(before: Ints, coin: NDArray[np.bool_], begins: list[int], process: int) -> NDArray[np.int64]:
    """Places of a process' coins, in order. coin: whether an event's user is a coin at all."""
    first, last = life(begins, process, len(before))
    return first + np.flatnonzero((before[first:last] < first) & coin[first:last])


def most_heads(before: Ints, heads: NDArray[np.bool_], begins: list[int]) -> NDArray[np.int64]:
    """Of each process, a bound on its heads: the candidate's events in its life, and the candidate's users."""
    many = len(before)
    grown = np.concatenate([[0], np.cumsum(heads)])
    first = np.array(begins)
    last = np.full(len(begins), many)
    retires = len(begins) - (LIVE_PROCESSES - 1)
    if retires > 1:
        last[1:retires] = first[LIVE_PROCESSES:] - 1
    return np.minimum(grown[last] - grown[first], int((heads & (before < 0)).sum()))
