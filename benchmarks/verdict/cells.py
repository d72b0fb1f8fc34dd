"""The named cells: one world each, and the faults that are let loose in it.

Problem: an error rate means nothing without the traffic that it was measured on, and a rate that is good on average
hides the corner where it is bad. Invariant: `CELLS` is the whole list, in the order of the factors; a result that
lacks one of its pairs of cell and fault proves nothing.

What a world is: see `World`. The 15 crossings are those that attack a premise of the test rather than repeat a factor:
few users with busy ones among them (the unit is the user, and saturates), hardly any events (evidence is scarce), and
things that both versions share, at the wrong moment.
"""

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from benchmarks.verdict.latencies import SHAPES

Where = Literal["everywhere", "one architecture", "long inputs", "one tenant"]
TENANT_SHARE: Final = 0.3  # of the users
LONG_SHARE: Final = 0.1  # of the requests
INCIDENT_S: Final = 900.0
INCIDENT_RATE: Final = 0.04
CHRONIC_USERS: Final = 0.001  # of the users: every request of theirs fails
CHRONIC_TRAFFIC: Final = 0.02  # of the requests


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The traffic of a cell.

    rps: requests a second. users: in the service. base: failures per request of stable. sigma: of the logarithm of a
    user's event rate, half of its variance from activity, half from the proneness to fail. latency_sigma: of the
    logarithm of the latency. shares: of the architectures. incident: a shared one of 15 minutes and 4 %, beginning at
    a random second of the first five minutes, or in the watch. scrape_loss: share of the readings that are lost.
    incident_multiplied: whether a fault multiplies the incident's failures too, or stands beside it.
    like_load_from: first stage in which slow events count. dwell_50_s: of the 50 % stage.
    """

    rps: float = 200.0
    users: int = 20_000
    base: float = 0.005
    sigma: float = 1.0
    latency_sigma: float = 0.25
    shares: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    rhythm: bool = False
    incident: Literal["no", "before 100 %", "watch"] = "no"
    incident_multiplied: bool = True
    scrape_loss: float = 0.0
    cold_start: bool = False
    chronic: bool = False
    like_load_from: int = 0
    dwell_50_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with the candidate. rho: times as many failures. begins: (stage index, seconds since it opened)."""

    rho: float = 1.0
    shape: str | None = None
    where: Where = "everywhere"
    begins: tuple[int, float] = (0, 0.0)

    @property
    def name(self) -> str:
        """As it stands in tables and in the JSON."""
        if self.shape is not None:
            return f"latency {self.shape}"
        if self.rho == 1:
            return "healthy"
        place = "" if self.where == "everywhere" else f" on {self.where}"
        stage, after_s = self.begins
        late = f", {after_s / 60:g} min into stage {stage + 1}" if self.begins != (0, 0.0) else ""
        return f"rho {self.rho:g}{place}{late}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A world under a name. why: what a crossing attacks; empty for a factor alone."""

    name: str
    world: World
    faults: tuple[Fault, ...]
    why: str = field(default="")


HEALTHY: Final = Fault()
RHOS: Final = tuple(Fault(rho=rho) for rho in (1.2, 2.0, 4.0, 10.0))
LATENCIES: Final = tuple(Fault(shape=shape) for shape in SHAPES)
PARTIAL: Final = (
    Fault(rho=10.0, where="one architecture"),
    Fault(rho=10.0, where="long inputs"),
    Fault(rho=10.0, where="one tenant"),
)
USUAL: Final = (HEALTHY, *RHOS[1:])
SLOW: Final = (HEALTHY, *LATENCIES)


def _late(stage: int, after_s: float) -> tuple[Fault, ...]:
    return tuple(Fault(rho=rho, begins=(stage, after_s)) for rho in (2.0, 4.0, 10.0))


_CENTRE: Final = World()
_LONG_STAGE: Final = replace(_CENTRE, dwell_50_s=4 * 3600.0)  # so that the fault finds the stage still open


def _alone() -> tuple[Cell, ...]:
    def cell(name: str, faults: tuple[Fault, ...] = USUAL, **changes: object) -> Cell:
        return Cell(name=name, world=replace(_CENTRE, **changes), faults=faults)  # type: ignore[arg-type]

    return (
        cell("centre", (HEALTHY, *RHOS, *LATENCIES, *PARTIAL)),
        cell("20 rps", rps=20.0),
        cell("2000 rps", rps=2000.0),
        cell("200 users", users=200),
        cell("2000 users", users=2000),
        cell("200000 users", users=200_000),
        cell("base 0.05 %", base=0.0005),
        cell("base 5 %", base=0.05),
        cell("sigma 0", sigma=0.0),
        cell("sigma 2", sigma=2.0),
        cell("daily rhythm", rhythm=True),
        cell("shared incident", incident="before 100 %"),
        cell("scrape loss", scrape_loss=0.3),
        cell("cold start", cold_start=True),
        cell("latency sigma 0.5", SLOW, latency_sigma=0.5),
        cell("latency sigma 1", SLOW, latency_sigma=1.0),
        cell("unlike replica mixes", (*USUAL, PARTIAL[0]), shares=(0.7, 0.1, 0.1, 0.1)),
        cell("chronic users", chronic=True),
        Cell(name="fault 30 min into 50 %", world=_LONG_STAGE, faults=_late(2, 1800.0)),
        Cell(name="fault 60 min into 50 %", world=_LONG_STAGE, faults=_late(2, 3600.0)),
        Cell(name="fault in the watch", world=_CENTRE, faults=_late(3, 900.0)),
    )


def _crossing(name: str, why: str, faults: tuple[Fault, ...], **changes: object) -> Cell:
    return Cell(name=name, why=why, faults=faults, world=replace(_CENTRE, **changes))  # type: ignore[arg-type]


def _scarce() -> tuple[Cell, ...]:
    """Few users, few events, or an incident that is most of them."""
    two = (HEALTHY, RHOS[1])
    return (
        _crossing("20 rps, 2000 users", "little of everything", USUAL, rps=20.0, users=2000),
        _crossing("2000 users, sigma 2", "busy users saturate the count", two, users=2000, sigma=2.0),
        _crossing(
            "2000 users, base 5 %", "everybody fails within minutes", two,
            users=2000, base=0.05,
        ),
        _crossing("20 rps, base 0.05 %", "one failure in a hundred seconds", two, rps=20.0, base=0.0005),
        _crossing(
            "2000 users, sigma 2, incident", "an incident that busy users see first", two,
            users=2000, sigma=2.0, incident="before 100 %",
        ),
        _crossing("20 rps, incident", "the incident is most of the evidence", two, rps=20.0, incident="before 100 %"),
    )  # fmt: skip


def _shared() -> tuple[Cell, ...]:
    """Heavy tails, strata of unlike size, slow tails, and what both versions share."""
    two = (HEALTHY, RHOS[1])
    return (
        _crossing("sigma 2, chronic users", "heavy tails twice", two, sigma=2.0, chronic=True),
        _crossing(
            "2000 users, chronic users", "two users make a twentieth of the coins", two,
            users=2000, chronic=True,
        ),
        _crossing(
            "unlike mixes, sigma 2, incident", "strata of unlike size under shared bursts", two,
            shares=(0.7, 0.1, 0.1, 0.1), sigma=2.0, incident="before 100 %",
        ),
        _crossing(
            "incident beside the fault",
            "what is shared hides what is not: the whole rate is far from twice stable's",
            two,
            incident="before 100 %",
            incident_multiplied=False,
        ),
        _crossing(
            "latency sigma 1, 2000 users", "slow tails that hardly move, few users", SLOW,
            latency_sigma=1.0, users=2000,
        ),
        _crossing(
            "latency sigma 1, unlike load", "slow events count from 50 % on only", SLOW,
            latency_sigma=1.0, like_load_from=2,
        ),
        _crossing(
            "base 0.05 %, unlike mixes, one architecture", "a fault in a tenth of a rare event", (HEALTHY, PARTIAL[0]),
            base=0.0005, shares=(0.7, 0.1, 0.1, 0.1),
        ),
        _crossing(
            "daily rhythm, scrape loss, incident", "the clock, the data and the service at once", two,
            rhythm=True, scrape_loss=0.3, incident="before 100 %",
        ),
        _crossing("incident in the watch", "no other side is left to share it", (HEALTHY,), incident="watch"),
    )  # fmt: skip


CELLS: Final = (*_alone(), *_scarce(), *_shared())
