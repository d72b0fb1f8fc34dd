"""One stage's verdict: pass, harm or hold, with the numbers that it came from.

Problem: a gate that is asked again and again, with data that may be missing, must neither turn a healthy version
back nor let a bad or an unseen one through.

Invariants: pure; the same evidence, gate, stage and time give the same verdict. The worst reading is asked first:
harm, then doubt about the data, then time, then the power floor, then no harm shown; only what is left over is a
pass. Nothing that is missing, stale, NaN or contradictory can be harm or pass.

Error rates: harm of a harmless version anywhere in a rollout has a chance of at most alpha (`coins`; at 100 %
the same alpha is dealt to the kinds against absolute limits, which is harm by another definition). A version
rho0 times worse in a kind whose own rate is not below the objective passes the last stage that asks for
no harm with a chance of at most beta/2 + beta/2, one half for each way to show it.
"""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, Final

from sluice.coins import HARM_ODDS, Reading, bar, kind_weight, no_harm_odds, read
from sluice.evalues import bernoulli_log_e, mixed_strata_log_e
from sluice.evidence import KINDS, SLOW_KINDS, Kind, StageEvidence, complete
from sluice.forecast import latest, soonest, until_evidence, until_users
from sluice.judgement import Action, GateLike, GatePolicy, StagePolicy, Verdict, stage_policy
from sluice.objective import (
    ObjectiveReading,
    rates_above,
    rates_below,
    shown_above,
    shown_below,
    watch_limits,
)
from sluice.power import stage_floor, watch_floor

__all__ = ["Action", "GateLike", "GatePolicy", "StagePolicy", "Verdict", "judge", "stage_policy", "watch"]

MAX_AGE_S: Final = 60.0  # of the newest entry; a scrape of 15 s and a quiet service fit in
MISROUTED_SHARE: Final = 0.01  # of sampled requests served by the other version than the hash says
MISROUTED_MIN: Final = 10
WATCHED: Final[tuple[Kind, ...]] = (Kind.FAILURE, Kind.SLOW_P99X150)


def judge(evidence: StageEvidence | None, gate: GateLike, stage: StagePolicy, *, now_s: float) -> Verdict:
    """Judge one stage. No clock, I/O or log in here. Harm beats doubt, doubt beats success.

    At 100 % there is no stable side, and `watch`'s rules hold. evidence None: nobody could read it.
    """
    if evidence is None:
        return _verdict(Action.HOLD, "no evidence could be read", None, {}, now_s)
    doubt = _unusable(evidence, stage)
    if doubt:
        return _verdict(Action.HOLD, doubt, evidence, {}, now_s)
    if evidence.percent >= 100:
        return watch(evidence, gate, stage, now_s=now_s)
    numbers = _figures(evidence)
    harm = read(evidence.coins, "harm", HARM_ODDS, _levels(evidence, gate))
    numbers["harm"] = {kind.value: _coin_figures(reading) for kind, reading in harm.items()}
    crossed = [reading for reading in harm.values() if reading.crossed]
    if crossed:
        worst = max(crossed, key=lambda reading: reading.log_e - reading.bar)
        return _verdict(Action.HARM, _harm_reason(worst), evidence, numbers, now_s)
    holds = [*_doubts(evidence, gate, now_s), *_early(evidence, gate, stage, now_s)]
    holds += _under_power(evidence, gate, numbers, now_s)
    if stage.needs_no_harm:
        holds += _harm_not_excluded(evidence, gate, numbers, now_s)
    passed = f"stage of {stage.percent:g} % passed"
    numbers["unjudged"] = _not_counted(evidence, gate)
    if numbers["unjudged"]:
        passed += ", slowness not judged: the versions' load per replica differs"
    return _concluded(holds, passed, evidence, numbers, now_s)


def watch(evidence: StageEvidence, gate: GateLike, stage: StagePolicy, *, now_s: float) -> Verdict:
    """Judge 100 %, or a first deployment, where the candidate is alone: absolute limits on its own users.

    Harm: a kind's rate of bad first requests is shown above its limit, the objective or rho0 times what stable
    had, in the stage or since any later start; slow by the widest limit, for nothing cancels an hour in which
    everything is slower. Pass: dwell, so many users that ten times the limit (or 5 %) would have been shown, and
    no rate above it, neither of the whole stage nor lately. A first deployment has no slow limits, for nobody has
    said yet what slow is: it is judged by failures, and the numbers say so.
    """
    doubt = _unusable(evidence, stage)
    if doubt:
        return _verdict(Action.HOLD, doubt, evidence, {}, now_s)
    numbers = _figures(evidence)
    levels = _levels(evidence, gate, WATCHED)
    limits = watch_limits(_objectives(gate), evidence.baselines, gate.rho0)
    readings = shown_above(evidence.objective, limits, levels)
    foremost = {kind: max(rows, key=lambda row: row.log_e - row.bar) for kind, rows in readings.items()}
    numbers["watch"] = {kind.value: _objective_figures(reading) for kind, reading in foremost.items()}
    numbers["unjudged"] = [
        kind.value for kind in WATCHED if kind.metric in gate.metrics and kind not in readings
    ]
    for reading in foremost.values():
        if reading.crossed:
            return _verdict(Action.HARM, _above_reason(reading), evidence, numbers, now_s)
    holds = [*_doubts(evidence, gate, now_s), *_early(evidence, gate, stage, now_s)]
    holds += _watch_under_power(evidence, gate, readings, now_s)
    return _concluded(holds, "the watch passed", evidence, numbers, now_s)


_Hold = tuple[str, float | None]  # reason, forecast in seconds


def _unusable(evidence: StageEvidence, stage: StagePolicy) -> str | None:
    """Why these numbers cannot be computed with at all: not even harm may come from them."""
    if evidence.percent != stage.percent:
        return f"the evidence is of {evidence.percent:g} %, the stage is {stage.percent:g} %"
    plain = [evidence.percent, evidence.opened_at_s, evidence.users_candidate, evidence.users_stable]
    plain += [evidence.users_coin, evidence.requests_candidate, evidence.requests_stable]
    plain += [evidence.requests_misrouted, *(evidence.slow_limits_ms or ())]
    plain += [row.rate for row in evidence.baselines] + [row.users for row in evidence.event_users]
    plain += [count for row in evidence.objective for count in (row.ok, row.bad)]
    if evidence.newest_at_s is not None:
        plain.append(evidence.newest_at_s)
    if not all(isfinite(value) and value >= 0 for value in plain):
        return "a number in the evidence is NaN, infinite or negative"
    return None if complete(evidence) else "a kind that counts lacks its rows"


def _doubts(evidence: StageEvidence, gate: GateLike, now_s: float) -> Iterator[_Hold]:
    """Reasons not to trust the data enough for a pass."""
    if evidence.stale is not None:
        yield f"evidence is stale: {evidence.stale}", None
    newest = evidence.newest_at_s
    if newest is None:
        yield "no traffic was seen in this stage yet", None
    elif now_s - newest > MAX_AGE_S:
        yield f"the newest traffic seen is {now_s - newest:.0f} s old", None
    elif newest - now_s > MAX_AGE_S:
        yield f"the newest traffic seen is {newest - now_s:.0f} s in the future: check the clocks", None
    requests = evidence.requests_candidate + evidence.requests_stable
    if evidence.requests_misrouted > max(MISROUTED_MIN, MISROUTED_SHARE * requests):
        yield f"{evidence.requests_misrouted} of {requests} requests went to the other version", None
    if "slow" in gate.metrics and evidence.slow_limits_ms is None and evidence.stable is not None:
        yield "slow limits are not known: too few sampled requests of stable in 15 minutes", None


def _early(evidence: StageEvidence, gate: GateLike, stage: StagePolicy, now_s: float) -> Iterator[_Hold]:
    """Settling and dwell, from the moment every gateway had acknowledged."""
    open_s = now_s - evidence.opened_at_s
    if open_s < gate.settle_s:
        yield (
            f"settling: open for {open_s:.1f} of {gate.settle_s:g} s",
            max(stage.dwell_s, gate.settle_s) - open_s,
        )
    elif open_s < stage.dwell_s:
        yield f"dwell: open for {open_s:.0f} of {stage.dwell_s:g} s", stage.dwell_s - open_s


def _under_power(
    evidence: StageEvidence, gate: GateLike, numbers: dict[str, Any], now_s: float
) -> Iterator[_Hold]:
    """The floor of `power`, by failures and at the bar of the stage's first process."""
    kind = Kind.FAILURE if "failure" in gate.metrics else Kind.SLOW_P95
    processes = sorted({coin.process for coin in evidence.coins if coin.kind is kind and coin.test == "harm"})
    if evidence.users_stable == 0 or not processes:
        yield "power floor: no user of stable was seen to compare with", None
        return
    rate = evidence.events(kind, "stable") / evidence.users_stable
    level = bar(gate.alpha * kind_weight(kind, gate.metrics), _stage_s_own(processes, evidence.stage))
    need = stage_floor(evidence.percent / 100, min(rate, 1.0), level, HARM_ODDS)
    have = evidence.users_coin
    numbers["power"] = {"have": have, "need": need, "stable_rate": rate}
    if need is None or have < need:
        forecast = until_users(have, need, _counted_s(evidence, gate, now_s))
        yield f"power floor: {have} of {need} candidate users seen", forecast


def _stage_s_own(processes: list[int], stage: int) -> int:
    """The process that started with the stage: after the first stage an older one goes on beside it.

    The older one has the lower bar, but what it brings may be against harm.
    """
    return processes[1] if stage > 0 and len(processes) > 1 else processes[0]


def _harm_not_excluded(
    evidence: StageEvidence, gate: GateLike, numbers: dict[str, Any], now_s: float
) -> Iterator[_Hold]:
    """Each kind by either way: coins below odds 1 after thinning, or the own rate below the objective."""
    half = gate.beta / 2
    odds = no_harm_odds(gate.rho0)
    kinds = [kind for kind in evidence.kinds if kind.metric in gate.metrics]
    coins = read(evidence.coins, "no_harm", odds, dict.fromkeys(kinds, half))
    objectives = {kind: limit for kind, limit in _objectives(gate).items() if kind in kinds}
    below = shown_below(evidence.objective, objectives, half)
    numbers["no_harm"] = {kind.value: _coin_figures(reading) for kind, reading in coins.items()}
    numbers["objective"] = {kind.value: _objective_figures(reading) for kind, reading in below.items()}
    elapsed_s = _counted_s(evidence, gate, now_s)
    for kind in kinds:
        coin, own = coins.get(kind), below.get(kind)
        if (coin and coin.crossed) or (own and own.crossed):
            continue
        ways = [_coin_forecast(coin, odds, elapsed_s), _objective_forecast(own, elapsed_s)]
        unlike = kind is not Kind.FAILURE and not evidence.like_load
        why = ": slow events do not count, the versions' load per replica differs" if unlike else ""
        yield f"no harm not shown for {kind.value}{why}", None if unlike else soonest(ways)


def _watch_under_power(
    evidence: StageEvidence,
    gate: GateLike,
    readings: Mapping[Kind, tuple[ObjectiveReading, ...]],
    now_s: float,
) -> Iterator[_Hold]:
    """The stage's own users first, then those of the newest process that has seen as many as the floor asks."""
    elapsed_s = _counted_s(evidence, gate, now_s)
    if not readings:
        yield "nothing to judge: no kind that the gate asks for is counted", None
    for kind, (whole, *later) in readings.items():
        need = watch_floor(whole.limit, round(whole.bar, 3), rates_above(whole.limit))
        if need is None or whole.users < need:
            yield (
                f"watch floor: {whole.users} of {need} users counted for {kind.value}",
                until_users(whole.users, need, elapsed_s),
            )
            continue
        lately = [reading for reading in later if reading.users >= need][-1:]
        for reading in (whole, *lately):
            if reading.bad > reading.limit * reading.users:
                rate = reading.bad / reading.users
                yield (
                    f"{kind.value}: rate {rate:.4f} is above {reading.limit:g}, not shown to stay there",
                    None,
                )
                break


def _concluded(
    holds: list[_Hold], passed: str, evidence: StageEvidence, numbers: dict[str, Any], now_s: float
) -> Verdict:
    """A hold for the first reason (all of them in the numbers), for as long as the last one; else a pass."""
    if not holds:
        return _verdict(Action.PASS, passed, evidence, numbers, now_s)
    numbers["holds"] = [reason for reason, _ in holds]
    return _verdict(Action.HOLD, holds[0][0], evidence, numbers, now_s, latest(wait for _, wait in holds))


def _verdict(
    action: Action,
    reason: str,
    evidence: StageEvidence | None,
    numbers: Mapping[str, Any],
    now_s: float,
    forecast_s: float | None = None,
) -> Verdict:
    return Verdict(
        action=action,
        reason=reason,
        at_s=now_s,
        stage=evidence.stage if evidence else -1,
        epoch=evidence.epoch if evidence else -1,
        numbers=numbers,
        forecast_s=forecast_s,
    )


def _levels(evidence: StageEvidence, gate: GateLike, among: tuple[Kind, ...] = KINDS) -> dict[Kind, float]:
    """Each counting kind's part of alpha; kinds that the gate does not ask for are left out."""
    weights = {kind: kind_weight(kind, gate.metrics) for kind in among if kind in evidence.kinds}
    return {kind: gate.alpha * weight for kind, weight in weights.items() if weight > 0}


def _objectives(gate: GateLike) -> dict[Kind, float]:
    return {kind: gate.objectives[kind.metric] for kind in KINDS if kind.metric in gate.metrics}


def _counted_s(evidence: StageEvidence, gate: GateLike, now_s: float) -> float:
    return now_s - evidence.opened_at_s - gate.settle_s


def _coin_forecast(reading: Reading | None, odds: tuple[float, ...], elapsed_s: float) -> float | None:
    if reading is None:
        return None

    def log_e_at(times: float) -> float:
        grown = [[(b, h * times, t * times) for b, h, t in counts] for counts in reading.strata]
        return mixed_strata_log_e(grown, odds)

    return until_evidence(log_e_at, reading.bar, elapsed_s)


def _objective_forecast(reading: ObjectiveReading | None, elapsed_s: float) -> float | None:
    if reading is None:
        return None
    rates = rates_below(reading.limit)

    def log_e_at(times: float) -> float:
        return bernoulli_log_e(reading.bad * times, reading.ok * times, reading.limit, rates)

    return until_evidence(log_e_at, reading.bar, elapsed_s)


def _not_counted(evidence: StageEvidence, gate: GateLike) -> list[str]:
    """Kinds that the gate asks for and that do not count under unlike load."""
    return [kind.value for kind in SLOW_KINDS if kind.metric in gate.metrics and not evidence.like_load]


def _figures(evidence: StageEvidence) -> dict[str, Any]:
    return {
        "users": {"candidate": evidence.users_candidate, "stable": evidence.users_stable},
        "event_users": {f"{row.kind.value}/{row.side}": row.users for row in evidence.event_users},
        "like_load": evidence.like_load,
    }


def _coin_figures(reading: Reading) -> dict[str, float]:
    return {
        "log_e": round(reading.log_e, 4),
        "bar": round(reading.bar, 4),
        "process": reading.process,
        "heads": reading.heads,
        "tails": reading.tails,
    }


def _objective_figures(reading: ObjectiveReading) -> dict[str, float]:
    return {
        "log_e": round(reading.log_e, 4),
        "bar": round(reading.bar, 4),
        "process": reading.process,
        "limit": reading.limit,
        "ok": reading.ok,
        "bad": reading.bad,
    }


def _harm_reason(reading: Reading) -> str:
    coins = reading.heads + reading.tails
    return (
        f"harm: {reading.kind.value}: {reading.heads} of {coins} users with a first event are the candidate's; "
        f"log e {reading.log_e:.2f} >= {reading.bar:.2f}"
    )


def _above_reason(reading: ObjectiveReading) -> str:
    return (
        f"harm: {reading.kind.value}: {reading.bad} of {reading.users} users' first requests are bad, above "
        f"{reading.limit:g}; log e {reading.log_e:.2f} >= {reading.bar:.2f}"
    )
