"""Made-up traffic and evidence for the tests of the gate: plain builders, nothing is patched."""

import math
import random
from dataclasses import dataclass
from typing import Any

from sluice.buckets import bucket, keeps, uid_hash
from sluice.evidence import KINDS, SIDES, TESTS, CoinCount, EventUsers, Kind, ObjectiveCount, StageEvidence
from sluice.hashline import CANDIDATE, HashLine
from sluice.tally import Entry, Tally

SALT = "s"
LIMITS = (100.0, 200.0, 250.0, 300.0)
ONE_ARCH = {"cpu": 1.0}


def tally(**changes: Any) -> Tally:
    given: dict[str, Any] = {
        "service": "m",
        "rollout": "r1",
        "epoch": 7,
        "version": "2",
        "stable": "1",
        "salt": SALT,
        "settle_s": 5.0,
    }
    return Tally(**(given | changes))


def entry(**changes: Any) -> Entry:
    """A request of user u0 that stable answered well at 100 s, in the sample log."""
    given: dict[str, Any] = {
        "at_s": 100.0,
        "uid_hash": uid_hash("u0"),
        "bucket": bucket(SALT, "u0"),
        "cluster": "m-v1-cpu",
        "version": "1",
        "route": "hash",
        "event_log": False,
        "status": 200,
        "flags": "",
        "marker": None,
        "duration_ms": 10.0,
        "request_id": "",
    }
    return Entry(**(given | changes))


def kept_ids(count: int, rho0: float = 2.0) -> list[str]:
    """Request ids that thinning keeps."""
    found = (f"id{i}" for i in range(100 * count) if keeps(SALT, f"id{i}", 1 / rho0))
    return [next(found) for _ in range(count)]


@dataclass
class Population:
    """Sticky users with their own failure rates; a request at a time, into both logs as the gateway would."""

    rng: random.Random
    rates: list[float]
    broken: int  # the first so many users fail always and make three in ten requests: broken clients

    @classmethod
    def make(cls, seed: int, *, users: int, base: float, sigma: float, broken: int = 0) -> "Population":
        """users: of lognormal failure rates with mean `base`; sigma: of the logarithm."""
        rng = random.Random(seed)
        rates = [min(base * math.exp(rng.gauss(-sigma * sigma / 2, sigma)), 1.0) for _ in range(users)]
        rates[:broken] = [1.0] * broken
        return cls(rng, rates, broken)

    def request(self, book: Tally, line: HashLine, salt: str, at_s: float, *, worse: float = 1.0) -> None:
        """One request of a random user; on the candidate's side failures are `worse` times as likely."""
        often = self.broken and self.rng.random() < 0.3
        number = self.rng.randrange(self.broken if often else len(self.rates))
        place = bucket(salt, f"u{number}")
        candidate = line.side(place) == CANDIDATE
        failed = self.rng.random() < min(self.rates[number] * (worse if candidate else 1.0), 1.0)
        given: dict[str, Any] = {
            "at_s": at_s,
            "uid_hash": number,
            "bucket": place,
            "version": "2" if candidate else "1",
            "status": 500 if failed else 200,
            "request_id": f"{salt}-{at_s}",
        }
        book.add(entry(**given))
        if failed:
            book.add(entry(event_log=True, **given))


def coin(kind: Kind = Kind.FAILURE, **changes: Any) -> CoinCount:
    given: dict[str, Any] = {
        "kind": kind,
        "test": "harm",
        "process": 0,
        "stratum": "cpu",
        "bias": 0.5,
        "heads": 0,
        "tails": 0,
    }
    return CoinCount(**(given | changes))


def evidence(**changes: Any) -> StageEvidence:
    """A healthy 50 % stage, opened at 1000 s, seen up to 1699 s: everything is there for a pass at 1700 s."""
    given: dict[str, Any] = {
        "service": "m",
        "rollout": "r1",
        "epoch": 7,
        "version": "2",
        "stable": "1",
        "stage": 2,
        "percent": 50.0,
        "opened_at_s": 1000.0,
        "newest_at_s": 1699.0,
        "coins": tuple(coin(kind, test=test) for kind in KINDS for test in TESTS),
        "users_candidate": 9000,
        "users_stable": 9000,
        "users_coin": 8000,
        "event_users": tuple(EventUsers(kind=kind, side=side, users=0) for kind in KINDS for side in SIDES),
        "objective": tuple(ObjectiveCount(kind=kind, ok=9000, bad=0) for kind in KINDS),
        "baselines": (),
        "slow_limits_ms": LIMITS,
        "like_load": True,
        "stale": None,
        "requests_candidate": 20_000,
        "requests_stable": 20_000,
        "requests_misrouted": 0,
        "settling_events": 0,
    }
    return StageEvidence(**(given | changes))


def coins_with(*changed: CoinCount) -> tuple[CoinCount, ...]:
    """Empty coins of every kind and test, with these instead of (or beside) their own."""
    rows = {(c.kind, c.test, c.process, c.stratum, c.bias): c for c in evidence().coins}
    rows |= {(c.kind, c.test, c.process, c.stratum, c.bias): c for c in changed}
    return tuple(rows.values())
