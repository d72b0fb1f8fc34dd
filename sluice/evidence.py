"""What a verdict is made from: one frozen picture of one stage, and its form as metric samples.

Problem: the guard in the controller and the gate sensor behind Prometheus must judge the same numbers by the
same function, and a number that is missing must never look like a zero.

Invariants: `from_samples(to_samples(e)) == e`; a sample that is missing, doubled or NaN raises
EvidenceIncompleteError (retryable: the reader holds), it is never replaced. Two things may be absent because
absence is what they mean: `newest_at_s` (no entry arrived yet) and `slow_limits_ms` (not known yet); `judge`
holds on both. Every process carries a row for every stratum, zero counts included, so strata are never guessed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from sluice.errors import FatalError, RetryableError
from sluice.evalues import check_counts
from sluice.hashline import Side
from sluice.samples import Sample, SampleReader

Test = Literal["harm", "no_harm"]
TESTS: Final[tuple[Test, ...]] = ("harm", "no_harm")
SIDES: Final[tuple[Side, ...]] = ("candidate", "stable")
NO_VERSION: Final = (
    "none"  # as a label: Prometheus drops an empty one, and a label that is missing means nothing
)


class Kind(StrEnum):
    """Kinds of events. Each has e-values of its own; the slow ones differ in their limit alone."""

    FAILURE = "failure"  # status >= 400, a response flag, or a marker of the server
    SLOW_P95 = "slow_p95"  # slower than stable's p95
    SLOW_P99 = "slow_p99"
    SLOW_P99X125 = "slow_p99x125"  # slower than 1.25 x stable's p99
    SLOW_P99X150 = "slow_p99x150"

    @property
    def metric(self) -> str:
        """The name under which a spec asks for it: `failure` or `slow`."""
        return "failure" if self is Kind.FAILURE else "slow"


SLOW_KINDS: Final = (Kind.SLOW_P95, Kind.SLOW_P99, Kind.SLOW_P99X125, Kind.SLOW_P99X150)  # limits' order
KINDS: Final = (Kind.FAILURE, *SLOW_KINDS)


class EvidenceIncompleteError(RetryableError):
    """Samples that do not make one picture: `what` says which is missing, doubled or not a number."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    @property
    def message(self) -> str:
        return f"evidence is incomplete: {self.what}"

    @property
    def next_step(self) -> str:
        return "hold; look at the controller's /metrics and at the scrape"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoinCount:
    """Coins of one bias in one process. heads: first events by candidate users, tails: by stable's.

    process: number j of the process, from 0; its bar pays for it with weight 1/((j+1)(j+2)). stratum: the
    assigned architecture. bias: chance of heads under "changes nothing", 0 to 1.
    """

    kind: Kind
    test: Test
    process: int
    stratum: str
    bias: float
    heads: int
    tails: int

    def __post_init__(self) -> None:
        check_counts(self.bias, self.heads, self.tails)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventUsers:
    """Users of one side with at least one counted event of this kind in the stage."""

    kind: Kind
    side: Side
    users: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveCount:
    """The candidate's users by the outcome of their first sampled request since the process started.

    process: 0 starts with the stage, after settling; later ones, counted at 100 % alone, start within it.
    """

    kind: Kind
    ok: int
    bad: int
    process: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Stable's share of bad first requests in the last stage that had a stable side; 0 to 1."""

    kind: Kind
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEvidence:
    """One stage of one rollout as counted at one moment. Times are unix seconds.

    stable: the version beside the candidate, None in a first deployment, where nothing ever was.
    users_*: distinct users seen in the stage after settling, by the side that the hash assigns;
    users_coin are the candidate's that can be a coin (not seen inside the cohort in an earlier stage).
    requests_*: sampled requests; requests_misrouted were served by the other version than the hash says.
    event_users, objective and coins have a row for each kind that counts: failure always, the slow kinds
    once their limits are known; coins exist while there is a stable side. baselines: for the watch at 100 %.
    """

    service: str
    rollout: str
    epoch: int
    version: str
    stable: str | None
    stage: int
    percent: float
    opened_at_s: float
    newest_at_s: float | None
    coins: tuple[CoinCount, ...]
    users_candidate: int
    users_stable: int
    users_coin: int
    event_users: tuple[EventUsers, ...]
    objective: tuple[ObjectiveCount, ...]
    baselines: tuple[Baseline, ...]
    slow_limits_ms: tuple[float, float, float, float] | None
    like_load: bool
    stale: str | None
    requests_candidate: int
    requests_stable: int
    requests_misrouted: int
    settling_events: int

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that count now."""
        return KINDS if self.slow_limits_ms is not None else (Kind.FAILURE,)

    def events(self, kind: Kind, side: Side) -> int:
        """Users with an event; raises EvidenceIncompleteError when there is no such row."""
        for row in self.event_users:
            if row.kind is kind and row.side == side:
                return row.users
        raise EvidenceIncompleteError(f"no event users of {kind} on side {side}")


_FIGURES: Final[Mapping[str, str]] = {  # plain numbers: metric name to field
    "sluice_rollout_percent": "percent",
    "sluice_stage_opened_seconds": "opened_at_s",
    "sluice_settling_events": "settling_events",
}
_SIDED: Final[Mapping[tuple[str, str], str]] = {  # (metric name, side) to field
    ("sluice_users", "candidate"): "users_candidate",
    ("sluice_users", "stable"): "users_stable",
    ("sluice_users", "candidate_coin"): "users_coin",
    ("sluice_stage_requests", "candidate"): "requests_candidate",
    ("sluice_stage_requests", "stable"): "requests_stable",
    ("sluice_stage_requests", "misrouted"): "requests_misrouted",
}


def to_samples(evidence: StageEvidence) -> list[Sample]:
    """The picture as `(metric name, labels, value)`, each with the labels service, rollout and stage."""
    own = {"service": evidence.service, "rollout": evidence.rollout, "stage": str(evidence.stage)}
    out: list[Sample] = []

    def put(name: str, value: float, **labels: str) -> None:
        out.append((name, {**own, **labels}, float(value)))

    info = {
        "epoch": str(evidence.epoch),
        "version": evidence.version,
        "stable": evidence.stable or NO_VERSION,
    }
    put("sluice_stage_info", 1, **info)
    for name, field in _FIGURES.items():
        put(name, getattr(evidence, field))
    for (name, side), field in _SIDED.items():
        put(name, getattr(evidence, field), side=side)
    put("sluice_like_load", evidence.like_load)
    put("sluice_stale", evidence.stale is not None, reason=evidence.stale or "")
    if evidence.newest_at_s is not None:
        put("sluice_evidence_newest_seconds", evidence.newest_at_s)
    for kind, limit_ms in zip(SLOW_KINDS, evidence.slow_limits_ms or (), strict=False):
        put("sluice_slow_limit_ms", limit_ms, kind=kind)
    for events in evidence.event_users:
        put("sluice_event_users", events.users, kind=events.kind, side=events.side)
    for row in evidence.objective:
        which = {"kind": row.kind.value, "process": str(row.process)}
        put("sluice_objective_users", row.ok, **which, result="ok")
        put("sluice_objective_users", row.bad, **which, result="bad")
    for baseline in evidence.baselines:
        put("sluice_baseline_rate", baseline.rate, kind=baseline.kind)
    for coin in evidence.coins:
        labels = {"kind": coin.kind, "test": coin.test, "process": str(coin.process)}
        labels |= {"stratum": coin.stratum, "bias": repr(coin.bias)}
        put("sluice_coins", coin.heads, side="candidate", **labels)
        put("sluice_coins", coin.tails, side="stable", **labels)
    return out


def from_samples(samples: Iterable[Sample]) -> StageEvidence:
    """The picture back. Samples of other metrics and further labels (job, instance) are ignored.

    Raises EvidenceIncompleteError: nothing there, more than one stage or epoch, a metric missing, doubled,
    NaN, not a whole number where users are counted, or a row missing for a kind that counts.
    """
    try:
        evidence = _read(SampleReader(samples))
    except (KeyError, ValueError, FatalError) as error:
        raise EvidenceIncompleteError(" ".join(str(arg) for arg in error.args)) from error
    if not complete(evidence):
        raise EvidenceIncompleteError("a kind that counts lacks its coins, event users or objective rows")
    return evidence


def complete(evidence: StageEvidence) -> bool:
    """Whether every kind that counts has its rows: events per side, objective, and coins below 100 %."""
    kinds = set(evidence.kinds)
    events = {(row.kind, row.side) for row in evidence.event_users}
    coins = {(row.kind, row.test) for row in evidence.coins}
    wanted = {(kind, test) for kind in kinds for test in TESTS} if evidence.percent < 100 else set()
    return (
        events == {(kind, side) for kind in kinds for side in SIDES}
        and {row.kind for row in evidence.objective} == kinds
        and coins == wanted
    )


def _read(reader: SampleReader) -> StageEvidence:
    info = reader.only("sluice_stage_info").labels
    stale = reader.only("sluice_stale")
    newest = reader.maybe("sluice_evidence_newest_seconds")
    limits = {Kind(row.labels["kind"]): row.value for row in reader.all("sluice_slow_limit_ms")}
    if limits and set(limits) != set(SLOW_KINDS):
        raise ValueError(f"sluice_slow_limit_ms has only {sorted(limits)}")
    figures = {field: reader.only(name).value for name, field in _FIGURES.items()}
    sided = {field: reader.only(name, side=side).count for (name, side), field in _SIDED.items()}
    return StageEvidence(
        service=info["service"],
        rollout=info["rollout"],
        stage=int(info["stage"]),
        epoch=int(info["epoch"]),
        version=info["version"],
        stable=None if info["stable"] == NO_VERSION else info["stable"],
        percent=figures["percent"],
        opened_at_s=figures["opened_at_s"],
        settling_events=reader.only("sluice_settling_events").count,
        newest_at_s=newest.value if newest else None,
        like_load=reader.only("sluice_like_load").flag,
        stale=(stale.labels["reason"] or "no reason given") if stale.flag else None,
        slow_limits_ms=tuple(limits[kind] for kind in SLOW_KINDS) if limits else None,  # type: ignore[arg-type]
        coins=_read_coins(reader),
        event_users=_read_events(reader),
        objective=_read_objective(reader),
        baselines=_read_baselines(reader),
        **sided,
    )


def _read_events(reader: SampleReader) -> tuple[EventUsers, ...]:
    rows = {(row.labels["kind"], row.labels["side"]): row.count for row in reader.all("sluice_event_users")}
    named = ((kind, side) for kind in KINDS for side in SIDES if (kind, side) in rows)
    return tuple(EventUsers(kind=kind, side=side, users=rows[kind, side]) for kind, side in named)


def _read_objective(reader: SampleReader) -> tuple[ObjectiveCount, ...]:
    rows = {
        (Kind(row.labels["kind"]), int(row.labels["process"]), row.labels["result"]): row.count
        for row in reader.all("sluice_objective_users")
    }
    places = sorted({row[:2] for row in rows}, key=lambda place: (KINDS.index(place[0]), place[1]))
    return tuple(
        ObjectiveCount(
            kind=kind, process=process, ok=rows[kind, process, "ok"], bad=rows[kind, process, "bad"]
        )
        for kind, process in places
    )


def _read_baselines(reader: SampleReader) -> tuple[Baseline, ...]:
    rows = {row.labels["kind"]: row.value for row in reader.all("sluice_baseline_rate")}
    return tuple(Baseline(kind=kind, rate=rows[kind]) for kind in KINDS if kind in rows)


def _read_coins(reader: SampleReader) -> tuple[CoinCount, ...]:
    """Coins in the order of `coin_order`; heads and tails come as two samples each."""
    pairs: dict[tuple[str, str, int, str, float], dict[str, int]] = {}
    for row in reader.all("sluice_coins"):
        label = row.labels
        key = (label["kind"], label["test"], int(label["process"]), label["stratum"], float(label["bias"]))
        pairs.setdefault(key, {})[label["side"]] = row.count
    coins: list[CoinCount] = []
    for (kind, test, process, stratum, bias), sides in pairs.items():
        if test not in TESTS or set(sides) != set(SIDES):
            raise ValueError(
                f"sluice_coins of {kind}, test {test}, process {process} has only {sorted(sides)}"
            )
        coins.append(
            CoinCount(
                kind=Kind(kind),
                test="harm" if test == "harm" else "no_harm",
                process=process,
                stratum=stratum,
                bias=bias,
                heads=sides["candidate"],
                tails=sides["stable"],
            )
        )
    return tuple(sorted(coins, key=coin_order))


def coin_order(coin: CoinCount) -> tuple[int, str, int, str, float]:
    """The one order of coins in a picture, so that equal evidence compares equal."""
    return (KINDS.index(coin.kind), coin.test, coin.process, coin.stratum, coin.bias)
