"""From counted coins to "harm" and "no harm shown": who pays how much of alpha, and which bar is crossed.

The coin. Under "the candidate changes nothing" it is fixed which users have events and when; the hash alone
puts each of them in the cohort. So a user's first event since a process started is a coin:
- never seen before this stage: bias w, the cohort's share of the buckets of the user's architecture;
- seen earlier, last in a stage of share v, outside the cohort: the bucket is uniform over the rest of the
  block, so the bias is (w - v)/(1 - v);
- seen earlier inside the cohort: inside for sure, no coin.
"Seen" is by any event or sampled request that evidence has used before the stage, because the decision to open
the stage depended on it: given all of that, buckets of users not seen, and of users seen outside, are still
uniform and independent, and that is the information each process of the stage starts from.

Harm. The product of ratios of one process is a martingale for each odds ratio (`evalues`), in the process'
own filtration. Start times depend on how many users had events, not on who serves them, so they are fixed under
the null. alpha is dealt to kinds and processes with weights that sum to at most 1 and *any* process above its
own log(1/(alpha w_kind w_j)) is harm: Ville for each, union bound over all, no independence needed. j counts
over the whole rollout, so the bound is for the whole rollout however many stages and epochs it has. Number 0 goes on
over all stages (`numbering`): its coins of the stages before are rows like any others, each with its own bias.

No harm shown. The candidate's events are kept with probability 1/rho0, stable's all. If the candidate were
rho0 times worse, kept events would be assigned by the hash alone: the same coins, now with odds below 1,
are an e-value against "rho0 times worse". It must be shown for *every* kind, so a candidate that is bad in any
one kind passes wrongly with at most that kind's chance: beta is not dealt over kinds. A rollout passes wrongly
only if its last stage that asks does, so j counts within the stage. beta is halved between this test and the
objective (`objective`), either of which suffices.
Slack in "exactly" there: of a user never seen before, not to have been seen says a little about the side when
the candidate has more events. The bias of such a user is then below w by less than w times the chance that a
user's *only* trace before the stage would have been an extra event.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import Final

from sluice.evalues import Counts, mixed_strata_log_e
from sluice.evidence import CoinCount, Kind, Test

HARM_ODDS: Final = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 1000.0)
"""Odds ratios that are looked for; 1 000, so that two heads at 1 % are enough for the first process."""

_NO_HARM_POWERS: Final = (0.6, 1.0, 2.0, 4.0)  # of 1/rho0; 1.0 is "no worse than stable", the others better


@lru_cache(maxsize=16)
def no_harm_odds(rho0: float) -> tuple[float, ...]:
    """Odds ratios after thinning that mean "better than rho0 times worse"; all below 1. rho0 > 1."""
    return tuple(rho0**-power for power in _NO_HARM_POWERS)


def kind_weight(kind: Kind, metrics: Sequence[str]) -> float:
    """The kind's share of alpha: half to failure, an eighth to each slow kind; all to one metric alone."""
    if kind.metric not in metrics:
        return 0.0
    share = 1.0 if len(set(metrics)) == 1 else 0.5
    return share if kind is Kind.FAILURE else share / 4


def process_weight(process: int) -> float:
    """The share of process number j >= 0: 1/((j+1)(j+2)); all together 1."""
    return 1 / ((process + 1) * (process + 2))


def bar(level: float, process: int) -> float:
    """What the log e-value of a process must reach. level: its kind's part of alpha or beta, in (0, 1)."""
    return -log(level * process_weight(process))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The process of one kind and test that is nearest to, or farthest above, its own bar."""

    kind: Kind
    process: int
    log_e: float
    bar: float
    heads: int
    tails: int
    strata: tuple[tuple[Counts, ...], ...]

    @property
    def crossed(self) -> bool:
        """Whether the bar is reached; NaN is not."""
        return self.log_e >= self.bar


def read(
    coins: Iterable[CoinCount], test: Test, odds: tuple[float, ...], levels: Mapping[Kind, float]
) -> dict[Kind, Reading]:
    """The foremost process of each kind in `levels` that has coins rows of this test; kinds without: left out.

    levels: each kind's part of alpha or beta, > 0.
    """
    rows: dict[tuple[Kind, int], dict[str, list[Counts]]] = {}
    for coin in coins:
        if coin.test == test and coin.kind in levels:
            strata = rows.setdefault((coin.kind, coin.process), {})
            strata.setdefault(coin.stratum, []).append((coin.bias, coin.heads, coin.tails))
    best: dict[Kind, Reading] = {}
    for (kind, process), by_stratum in rows.items():
        reading = _reading(kind, process, by_stratum, odds, bar(levels[kind], process))
        before = best.get(kind)
        if before is None or reading.log_e - reading.bar > before.log_e - before.bar:
            best[kind] = reading
    return best


def _reading(
    kind: Kind, process: int, by_stratum: Mapping[str, list[Counts]], odds: tuple[float, ...], level: float
) -> Reading:
    strata = tuple(tuple(counts) for counts in by_stratum.values())
    flat = [count for counts in strata for count in counts]
    return Reading(
        kind=kind,
        process=process,
        log_e=mixed_strata_log_e(strata, odds),
        bar=level,
        heads=int(sum(heads for _, heads, _ in flat)),
        tails=int(sum(tails for _, _, tails in flat)),
        strata=strata,
    )
