"""What other rollout tools decide in the same worlds: five policies, each from its documented rule.

Problem: a comparison with a straw man says nothing. Invariant: each policy reproduces its row of an independent
yardstick (`YARDSTICK`, 1 000 runs a figure) before it is compared; a test holds that.

Counts per interval are Poisson, of the users whom the hash gave to the candidate. Readings are instant: what a scrape
and a rate window would add, 15 to 75 s, is left out in their favour. All of them watch failures alone, as their
documented examples do. After they promote, nobody watches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np

from benchmarks.verdict.cells import INCIDENT_RATE, INCIDENT_S, Fault, World
from benchmarks.verdict.line import lines
from benchmarks.verdict.ours import Outcome
from benchmarks.verdict.setting import HORIZON_S, sampled_share
from benchmarks.verdict.users import Floats, Population, population
from benchmarks.verdict.world import COLD_S, COLD_TIMES, Day, added, added_to_incident

MINUTE_S: Final = 60.0
ERRORS_IN_A_ROW: Final = 4  # Argo's consecutiveErrorLimit
Z_98: Final = 2.3263478740408408  # of Kayenta's 98 % interval, and of a one-sided 1 %
TOLERANCE: Final = 0.25
POINTS: Final = 60
FIRST_STAGES_S: Final = (
    0.0,
    300.0,
    600.0,
    1200.0,
)  # by the default spec's dwells: when a late fault begins here


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Requests and failures of the candidate's and of stable's users in one interval; lost: nobody could read it."""

    requests: tuple[int, int]
    failures: tuple[int, int]
    lost: bool

    @property
    def rate(self) -> float:
        """The candidate's failures per request; 0 without requests."""
        return self.failures[0] / self.requests[0] if self.requests[0] else 0.0


class Service:
    """One rollout's traffic as a metrics provider shows it."""

    def __init__(self, world: World, fault: Fault, people: Population, rng: np.random.Generator) -> None:
        self.world, self.fault, self.people, self.rng = world, fault, people, rng
        self.day = Day(world, fault, people, lines(world.shares), rng)
        self.place = rng.random(people.size)  # the cohort at share w: those below w
        first, after_s = fault.begins
        self.ill_s = FIRST_STAGES_S[first] + after_s
        self._rates: dict[tuple[float, float], Floats] = {}

    def read(self, share: float, begin: float, end: float, baseline: float | None = None) -> Reading:
        """An interval of the rollout, seconds since it began, at this share. baseline: share of a fresh stable one."""
        rates = self._of(share, baseline)
        passed = float(self.day.pace(end) - self.day.pace(begin))
        ill = max(0.0, end - max(begin, self.ill_s)) / (end - begin)
        incident_s = max(0.0, min(end, self.day.incident_s + INCIDENT_S) - max(begin, self.day.incident_s))
        shared = INCIDENT_RATE * incident_s
        requests = self.rng.poisson(rates[:2] * passed)
        failing = rates[2:4] * passed + rates[:2] * shared
        failing[0] += rates[4] * passed * ill
        if self.fault.rho > 1 and self.world.incident_multiplied:
            failing[0] += rates[5] * added_to_incident(self.fault) * incident_s * ill
        if self.world.cold_start:
            failing[0] += rates[0] * self.world.base * COLD_TIMES * COLD_S * (begin == 0)
        failures = np.minimum(self.rng.poisson(failing), requests)
        lost = self.world.scrape_loss > 0 and self.rng.random() < self.world.scrape_loss
        return Reading(
            requests=(int(requests[0]), int(requests[1])),
            failures=(int(failures[0]), int(failures[1])),
            lost=bool(lost),
        )

    def _of(self, share: float, baseline: float | None) -> Floats:
        """Requests a second of either side, failures of either, what the fault adds, requests it reaches."""
        key = (share, baseline or 0.0)
        if key not in self._rates:
            people = self.people
            mine = self.place < share
            other = ~mine if baseline is None else (self.place >= share) & (self.place < share + baseline)
            cohort = np.flatnonzero(mine).astype(np.int32)
            reached = self.day.affected(0, cohort)
            more = float((people.rates[reached] * added(people.fails[reached], self.fault)).sum())
            failing = people.rates * people.fails
            sums = [
                people.rates[mine].sum(),
                people.rates[other].sum(),
                failing[mine].sum(),
                failing[other].sum(),
            ]
            self._rates[key] = np.array([*sums, more, people.rates[reached].sum()])
        return self._rates[key]


Step = tuple[
    float, float, str | None
]  # share, seconds at it, what ended it: None, "turned back" or "promoted"


def argo_example(service: Service) -> Iterator[Step]:
    """Argo Rollouts' documented example: success of at least 95 % every 5 minutes, failureLimit 3, 20/40/60/80."""
    return _argo(service, steps=(0.2, 0.4, 0.6, 0.8), interval_s=300.0, most=0.05)


def argo_tight(service: Service) -> Iterator[Step]:
    """The same made tight: success of at least 99 % every minute, failureLimit 3, 1/5/50."""
    return _argo(service, steps=(0.01, 0.05, 0.5), interval_s=60.0, most=0.01)


def _argo(service: Service, *, steps: Sequence[float], interval_s: float, most: float) -> Iterator[Step]:
    """Ten minutes a step; aborted by more than 3 failed measurements, or more than 4 errors in a row."""
    now, failed, errors = 0.0, 0, 0
    for share in steps:
        for _ in range(int(600.0 / interval_s)):
            reading = service.read(share, now, now + interval_s)
            now += interval_s
            errors = errors + 1 if reading.lost else 0
            failed += not reading.lost and reading.rate > most
            over = failed > 3 or errors > ERRORS_IN_A_ROW
            yield share, interval_s, "turned back" if over else None
            if over:
                return
    yield 1.0, 0.0, "promoted"


def flagger_example(service: Service) -> Iterator[Step]:
    """Flagger's documented example: success of at least 99 % every minute, threshold 10, weight 5 to 50 by 5."""
    now, failed, weight = 0.0, 0, 5
    while now < HORIZON_S:
        reading = service.read(weight / 100, now, now + MINUTE_S)
        now += MINUTE_S
        bad = reading.lost or reading.rate > 0.01
        failed += bad
        ended = "turned back" if failed >= 10 else "promoted" if not bad and weight >= 50 else None
        yield weight / 100, MINUTE_S, ended
        if ended:
            return
        weight += 0 if bad else 5


def kayenta_defaults(service: Service) -> Iterator[Step]:
    """Kayenta's judge with its defaults: 5 % against a fresh 5 %, 60 points of a minute, three judgements in 3 h."""
    mine: list[float] = []
    other: list[float] = []
    for hour in range(3):
        for minute in range(POINTS):
            begin = (hour * POINTS + minute) * MINUTE_S
            reading = service.read(0.05, begin, begin + MINUTE_S, baseline=0.05)
            if not reading.lost and min(reading.requests) > 0:
                mine.append(reading.failures[0] / reading.requests[0])
                other.append(reading.failures[1] / reading.requests[1])
        high = is_high(np.array(mine), np.array(other))
        yield 0.05, POINTS * MINUTE_S, "turned back" if high else None
        if high:
            return
    yield 1.0, 0.0, "promoted"


def is_high(mine: Floats, other: Floats) -> bool:
    """Kayenta's Mann-Whitney classifier: the 98 % interval of the shift lies above a quarter of its estimate."""
    if not len(mine) or not len(other):
        return False
    shifts = np.sort((mine[:, None] - other[None, :]).ravel())
    m, n = len(mine), len(other)
    half = Z_98 * sqrt(m * n * (m + n + 1) / 12)
    place = max(int(m * n / 2 - half), 0)
    return bool(shifts[place] > TOLERANCE * abs(float(np.median(shifts))))


def naive_z(service: Service) -> Iterator[Step]:
    """A two-proportion z-test of requests since the stage opened, looked at every minute at a one-sided 1 %; 1/5/50."""
    now = 0.0
    for share in (0.01, 0.05, 0.5):
        requests, failures = np.zeros(2), np.zeros(2)
        for _ in range(10):
            reading = service.read(share, now, now + MINUTE_S)
            now += MINUTE_S
            if not reading.lost:
                requests += reading.requests
                failures += reading.failures
            ended = "turned back" if z_score(requests, failures) > Z_98 else None
            yield share, MINUTE_S, ended
            if ended:
                return
    yield 1.0, 0.0, "promoted"


def z_score(requests: Floats, failures: Floats) -> float:
    """Of the candidate's rate above stable's, pooled variance; 0 where it is not defined."""
    total = requests.sum()
    if min(requests) == 0 or failures.sum() in (0, total):
        return 0.0
    pooled = failures.sum() / total
    deviation = sqrt(pooled * (1 - pooled) * (1 / requests[0] + 1 / requests[1]))
    return float((failures[0] / requests[0] - failures[1] / requests[1]) / deviation)


POLICIES: Final[dict[str, Callable[[Service], Iterator[Step]]]] = {
    "Argo, documented example": argo_example,
    "Argo, tight": argo_tight,
    "Flagger, documented example": flagger_example,
    "Kayenta, defaults": kayenta_defaults,
    "z-test every minute": naive_z,
}


def outcome_of(service: Service, policy: Callable[[Service], Iterator[Step]]) -> Outcome:
    """What the policy does with one rollout, on the same scale as ours."""
    done, now, requests = Outcome(), 0.0, 0.0
    for share, seconds, ended in policy(service):
        done.stage = 2 if share >= 0.5 else 0
        done.bad_s += share * max(0.0, min(now + seconds, HORIZON_S) - now)
        requests += service.world.rps * share * max(0.0, now + seconds - max(now, service.ill_s))
        now += seconds
        if ended is not None:
            done.ended = ended
    if done.ended == "turned back" and now >= service.ill_s:
        done.found_s, done.requests = now - service.ill_s, requests
    if done.ended == "promoted":
        done.stage, done.reached_s = 3, now
        done.bad_s += max(0.0, HORIZON_S - now)
    return done


def peer_rollouts(
    policy: str, world: World, fault: Fault, many: int, rng: np.random.Generator
) -> list[Outcome]:
    """So many rollouts of one policy, with one population."""
    people = population(world, rng, sampled_share(world.rps))
    return [outcome_of(Service(world, fault, people, rng), POLICIES[policy]) for _ in range(many)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """A policy's row of the independent simulation: shares in percent at 20, 200 and 2 000 rps; None: not stated."""

    healthy_back: tuple[float, float, float]
    incident_back: tuple[float, float, float]
    rho2_promoted: tuple[float, float, float]
    rho4_promoted: tuple[float, float, float]
    rho4_found_min: float | None
    rho4_exposure: float
    healthy_min: float


YARDSTICK: Final = {
    "Argo, documented example": Yardstick(
        healthy_back=(0, 0, 0), incident_back=(0, 0, 0), rho2_promoted=(100, 100, 100), rho4_promoted=(100, 100, 100),
        rho4_found_min=None, rho4_exposure=92.0, healthy_min=40,
    ),
    "Argo, tight": Yardstick(
        healthy_back=(56, 11, 0), incident_back=(98, 96, 90), rho2_promoted=(0.1, 0, 0), rho4_promoted=(0, 0, 0),
        rho4_found_min=5, rho4_exposure=0.02, healthy_min=30,
    ),
    "Flagger, documented example": Yardstick(
        healthy_back=(0.1, 0, 0), incident_back=(99, 98, 99), rho2_promoted=(66, 57, 53), rho4_promoted=(0, 0, 0),
        rho4_found_min=10, rho4_exposure=0.25, healthy_min=10,
    ),
    "Kayenta, defaults": Yardstick(
        healthy_back=(0, 0.3, 0.3), incident_back=(0, 0, 0.3), rho2_promoted=(100, 0, 0), rho4_promoted=(8, 0, 0),
        rho4_found_min=60, rho4_exposure=1.25, healthy_min=180,
    ),
}  # fmt: skip
