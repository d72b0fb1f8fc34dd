"""One stage's book, opened and fed: what the tests of the tally share."""

from sluice.evidence import Kind, StageEvidence
from sluice.hashline import HashLine
from sluice.tally import Entry, Tally
from tests.sluice.evidence_world import LIMITS, ONE_ARCH, entry, tally


def hash_line(percent: float, shares: dict[str, float] = ONE_ARCH) -> HashLine:
    return HashLine.build(shares, percent)


def opened(percent: float = 10, **changes: object) -> Tally:
    book = tally(**changes)
    book.open_stage(0, percent, hash_line(percent), 100.0, LIMITS)
    return book


def failure_of(user: int, place: int, **changes: object) -> Entry:
    """A failure of this user, in the event log, after settling."""
    given: dict[str, object] = {
        "uid_hash": user,
        "bucket": place,
        "at_s": 110.0,
        "event_log": True,
        "status": 500,
    }
    return entry(**(given | changes))


def sample_of(user: int, place: int, **changes: object) -> Entry:
    return entry(**({"uid_hash": user, "bucket": place, "at_s": 110.0} | changes))


def counted_coins(
    picture: StageEvidence, kind: Kind = Kind.FAILURE, test: str = "harm"
) -> dict[tuple[int, str, float], tuple[int, int]]:
    """(process, stratum, bias) to (heads, tails), rows with counts only."""
    return {
        (c.process, c.stratum, round(c.bias, 6)): (c.heads, c.tails)
        for c in picture.coins
        if c.kind is kind and c.test == test and c.heads + c.tails
    }
