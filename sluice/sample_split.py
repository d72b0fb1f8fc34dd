"""Which recorded inputs calibrate and which are held out: every stratum in both, nothing in both.

Problem: ranges that are found on short texts clip long ones, and a sample that calibrated flatters the engine that it
judges. Invariants: a stratum that the traffic has is in both parts, in proportion to the traffic and at least `least`
times where so many were kept (one of a single input, however often it is sent, calibrates and is not judged by); no
content is in both; the same recordings give the same parts, in the same order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sluice.errors import FatalError

SHARE_LEAST = 0.01  # of the requests: a rarer stratum may be missing, a less rare one may not


class SplitError(FatalError):
    """Recordings that cannot be divided as asked. field_name: of the spec. problem: what there is instead."""

    def __init__(self, field_name: str, wanted: int, problem: str) -> None:
        super().__init__(field_name, wanted, problem)
        self.field_name, self.wanted, self.problem = field_name, wanted, problem

    @property
    def message(self) -> str:
        return f"{self.field_name} asks for {self.wanted}: {self.problem}"

    @property
    def next_step(self) -> str:
        return f"record longer or a larger percent of the traffic, or lower {self.field_name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Contents of either part, each in the order of the hashes; no stratum stands together."""

    calibrate: tuple[str, ...]
    held_out: tuple[str, ...]


def split(
    contents: Mapping[str, Sequence[str]],
    seen: Mapping[str, int],
    *,
    calibrate: int,
    held_out: int,
    least: int,
) -> Split:
    """Divide the kept contents of each stratum.

    contents: {stratum: salted hashes, each once}: their order is a random one that nobody chose. seen: {stratum:
    requests before sampling}. least: of a stratum in either part, where so many were kept. Raises SplitError where
    there are too few altogether, and for a stratum of SHARE_LEAST of the requests of which nothing was kept.
    """
    kept = {name: sorted(set(ones)) for name, ones in contents.items() if ones}
    _check(kept, seen, calibrate, held_out)
    wanted = {"calibrate": calibrate, "held_out": held_out}
    parts: dict[str, list[str]] = {}
    for name, size in wanted.items():
        others = (
            held_out if name == "calibrate" else 0
        )  # what the second part needs is not taken by the first
        quotas = _quotas(
            {one: _room(len(left), size, others) for one, left in kept.items()}, seen, size, least
        )
        parts[name] = sorted(one for stratum, quota in quotas.items() for one in kept[stratum][:quota])
        kept = {stratum: left[quotas[stratum] :] for stratum, left in kept.items()}
    return Split(calibrate=tuple(parts["calibrate"]), held_out=tuple(parts["held_out"]))


def _check(kept: Mapping[str, Sequence[str]], seen: Mapping[str, int], calibrate: int, held_out: int) -> None:
    there, wanted, requests = sum(map(len, kept.values())), calibrate + held_out, sum(seen.values())
    if there < wanted:
        problem = (
            f"with numerics.samples {held_out} that is {wanted}, and {there} different inputs were recorded"
        )
        raise SplitError("calibration.samples", calibrate, problem)
    for stratum, count in sorted(seen.items()):
        if count >= SHARE_LEAST * requests and not kept.get(stratum):
            problem = f"stratum {stratum} has {count} of {requests} requests, and none of its inputs was kept"
            raise SplitError("calibration.samples", calibrate, problem)


def _room(there: int, mine: int, others: int) -> int:
    """Of a stratum, what this part may take: its share of both parts, at least one, and never the last one."""
    if not others:
        return there
    return min(there - 1, max(1, -(-there * mine // (mine + others)))) if there > 1 else there


def _quotas(room: Mapping[str, int], seen: Mapping[str, int], size: int, least: int) -> dict[str, int]:
    """{stratum: how many}: the least of each first, then each next one where the traffic's share is furthest ahead."""
    quotas = {stratum: min(least, there) for stratum, there in room.items()}
    while sum(quotas.values()) > size:  # more strata than there is room for: the fullest give way
        fullest = max(quotas, key=lambda stratum: (quotas[stratum], stratum))
        quotas[fullest] -= 1
    total = max(1, sum(seen.values()))
    for _ in range(size - sum(quotas.values())):
        free = [stratum for stratum in sorted(room) if quotas[stratum] < room[stratum]]
        if not free:
            break
        ahead = max(free, key=lambda stratum: size * seen.get(stratum, 0) / total - quotas[stratum])
        quotas[ahead] += 1
    return quotas
