"""The evidence book of one rollout: entries go in, a `StageEvidence` comes out.

Problem: a service's every event must be weighed within milliseconds, by user and not by request, with the
knowledge of what earlier stages saw of that user.

Invariants
- Membership is by bucket (intention to treat), whatever served the request; only route `hash` counts.
- An entry of the event log tosses coins; an entry of the sample makes its user seen and counts requests, the
  objective and stable's latencies. Neither does the other's work.
- Entries that started before settling ended make users seen and are counted apart, no coins.
- No clock, no randomness: equal entries in equal order give equal evidence, also across snapshot and restore.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sluice.book import MARKS, Page, Purpose, User
from sluice.buckets import keeps
from sluice.entry import HASH_ROUTE, Entry
from sluice.errors import FatalError
from sluice.evidence import (
    KINDS,
    SIDES,
    SLOW_KINDS,
    TESTS,
    Baseline,
    EventUsers,
    Kind,
    ObjectiveCount,
    StageEvidence,
)
from sluice.hashline import CANDIDATE, HashLine
from sluice.latency import Latencies, Live, LiveFigures, RecentIds, SlowLimits
from sluice.numbering import Numbering
from sluice.processes import NEVER, CoinKey

__all__ = ["Entry", "Tally", "like_load"]

SNAPSHOT_SCHEMA: Final = 3
ANYBODY: Final[CoinKey] = ("", NEVER)  # at 100 % there are no coins, so nothing that sets users apart
BASELINE_MIN_USERS: Final = 200  # stable users in the stage before 100 %, else there is no baseline
LOAD_FACTOR: Final = 2.0


def like_load(share: float, candidate_replicas: int, stable_replicas: int) -> bool:
    """Whether users per replica of both versions are within a factor of 2; False without replicas.

    share: the candidate's share of the line, 0 to 1. By share and not by measured requests, so that which
    slow events count does not depend on who was assigned where.
    """
    if candidate_replicas <= 0 or stable_replicas <= 0 or not 0 < share < 1:
        return False
    ratio = (share / candidate_replicas) / ((1 - share) / stable_replicas)
    return 1 / LOAD_FACTOR - 1e-9 <= ratio <= LOAD_FACTOR + 1e-9


class Tally:
    """The book of one rollout.

    `like_load`, `stale` and `epoch` are set by the owner as they change; like_load is False until then.
    """

    def __init__(
        self,
        *,
        service: str,
        rollout: str,
        epoch: int,
        version: str,
        stable: str | None,
        salt: str,
        rho0: float = 2.0,
        settle_s: float = 5.0,
    ) -> None:
        """version, stable: names as entries carry them; stable None in a first deployment. rho0 > 1."""
        if not rho0 > 1:
            raise FatalError(f"rho0 {rho0!r} is not above 1", "correct gates.rho0")
        self.service, self.rollout, self.epoch = service, rollout, epoch
        self.version, self.stable = version, stable
        self.like_load = False
        self.stale: str | None = None
        self._salt, self._rho0, self._settle_s = salt, rho0, settle_s
        self._users: dict[int, User] = {}
        self._numbering = Numbering()
        self._page: Page | None = None
        self._latencies = Latencies()
        self._live: dict[str, Live] = {}
        self._sampled_ids, self._event_ids = RecentIds(), RecentIds()

    @property
    def stage(self) -> int | None:
        """Index of the open stage, None before the first."""
        return self._page.stage if self._page else None

    @property
    def limits_ms(self) -> SlowLimits | None:
        """The open stage's frozen slow limits, None while they are not known."""
        return self._page.limits_ms if self._page else None

    def open_stage(
        self, stage: int, percent: float, line: HashLine, at_s: float, slow_limits: SlowLimits | None
    ) -> None:
        """Close the open stage and start counting the next; the open stage again changes nothing.

        at_s: when it was opened (see `acknowledged`). slow_limits: frozen for the stage; None freezes them as
        soon as stable's sample is large enough, and slow kinds count from then on; at 100 %, where stable has no
        traffic any more, the limits of the stage before stay. Raises FatalError for a
        stage that is not later than the open one, or a line whose cohort lost a user.
        """
        before = self._page
        if before is not None and stage == before.stage and line == before.line:
            return
        self._check_next(stage, line)
        baselines: tuple[Baseline, ...] = ()
        if before is not None:
            baselines = before.baselines if before.percent >= 100 else _baselines(before)
            self._numbering.leave(before)
            if slow_limits is None and percent >= 100:
                slow_limits = before.limits_ms
        self._numbering.lines[stage] = line
        self._page = Page(
            stage=stage,
            percent=percent,
            line=line,
            opened_at_s=at_s,
            counts_from_s=at_s + self._settle_s,
            limits_ms=slow_limits,
            baselines=baselines if percent >= 100 else (),
        )
        for live in self._live.values():
            live.events = live.requests = 0

    def acknowledged(self, at_s: float) -> None:
        """Every gateway had the open stage at `at_s`: settling and counting begin then.

        Until then some gateway still routed by the stage before. What was counted meanwhile is dropped, but not
        what its processes were entitled to spend; whose users they were stays seen.
        """
        page = self._page
        if page is None or not at_s > page.opened_at_s:
            return
        if any(page.users):
            self._numbering.drop(page)
            page = self._page = Page(
                stage=page.stage,
                percent=page.percent,
                line=page.line,
                opened_at_s=at_s,
                counts_from_s=at_s,
                limits_ms=page.limits_ms,
                baselines=page.baselines,
                newest_at_s=page.newest_at_s,
            )
            for user in self._users.values():
                user.recount(page.stage)
        page.opened_at_s, page.counts_from_s = at_s, at_s + self._settle_s

    def add(self, entry: Entry) -> None:
        """Take one entry of either log, in order of arrival. Entries of other routes are ignored."""
        if entry.route != HASH_ROUTE:
            return
        ids = self._event_ids if entry.event_log else self._sampled_ids
        if ids.seen(entry.request_id):
            return
        live = self._live.get(entry.version)
        if live is None:
            live = self._live[entry.version] = Live()
        live.add(entry)
        page = self._page
        if not entry.event_log and entry.version == self.stable and entry.duration_ms is not None:
            self._latencies.add(entry.at_s, entry.duration_ms)
            if page is not None and page.limits_ms is None:
                page.limits_ms = self._latencies.limits(entry.at_s)
        if page is not None:
            self._count(page, entry)

    def slow_limits(self, now_s: float) -> SlowLimits | None:
        """Stable's p95, p99, 1.25 x and 1.5 x p99 of the last 15 minutes, ms; None with under 200 samples."""
        return self._latencies.limits(now_s)

    def live(self, now_s: float, *, sample_fraction: float = 1.0) -> dict[str, LiveFigures]:
        """Figures for people, per version. sample_fraction: share of requests that are sampled, (0, 1]."""
        users = self._page.users if self._page else [0, 0]
        by_version = dict(zip((self.version, self.stable), users, strict=True))
        return {
            version: live.figures(now_s, users=by_version.get(version, 0), sample_fraction=sample_fraction)
            for version, live in self._live.items()
        }

    def evidence(self) -> StageEvidence:
        """The picture of the open stage; raises FatalError before the first stage is open."""
        page = self._page
        if page is None:
            raise FatalError("no stage is open, so there is no evidence", "open the first stage")
        kinds = KINDS if page.limits_ms is not None else (Kind.FAILURE,)
        return StageEvidence(
            service=self.service,
            rollout=self.rollout,
            epoch=self.epoch,
            version=self.version,
            stable=self.stable,
            stage=page.stage,
            percent=page.percent,
            opened_at_s=page.opened_at_s,
            newest_at_s=page.newest_at_s,
            coins=self._numbering.coins(page, kinds) if page.percent < 100 else (),
            users_candidate=page.users[0],
            users_stable=page.users[1],
            users_coin=page.users_coin,
            event_users=tuple(
                EventUsers(kind=kind, side=side, users=page.event_users[kind][index])
                for kind in kinds
                for index, side in enumerate(SIDES)
            ),
            objective=tuple(row for kind in kinds for row in _objective(page, kind)),
            baselines=page.baselines,
            slow_limits_ms=page.limits_ms,
            like_load=self.like_load,
            stale=self.stale,
            requests_candidate=page.requests[0],
            requests_stable=page.requests[1],
            requests_misrouted=page.misrouted,
            settling_events=page.settling_events,
        )

    def snapshot(self) -> dict[str, Any]:
        """Everything that evidence depends on, as JSON values; latencies and live figures refill by themselves."""
        return {
            "schema": SNAPSHOT_SCHEMA,
            "service": self.service,
            "rollout": self.rollout,
            "epoch": self.epoch,
            "version": self.version,
            "stable": self.stable,
            "salt": self._salt,
            "rho0": self._rho0,
            "settle_s": self._settle_s,
            "numbering": self._numbering.to_json(),
            "users": [[uid, *user.to_json()] for uid, user in self._users.items()],
            "page": self._page.to_json() if self._page else None,
        }

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> "Tally":
        """The book from its snapshot; raises FatalError for one of another schema."""
        if data.get("schema") != SNAPSHOT_SCHEMA:
            raise FatalError(
                f"snapshot schema {data.get('schema')!r}", f"use one of schema {SNAPSHOT_SCHEMA}"
            )
        names = ("service", "rollout", "epoch", "version", "stable", "salt", "rho0", "settle_s")
        tally = cls(**{name: data[name] for name in names})
        tally._numbering = Numbering.from_json(data["numbering"])
        tally._users = {uid: User.from_json(row) for uid, *row in data["users"]}
        tally._page = Page.from_json(data["page"]) if data["page"] else None
        return tally

    def _check_next(self, stage: int, line: HashLine) -> None:
        page = self._page
        if page is None:
            return
        if stage <= page.stage:
            raise FatalError(f"stage {stage} does not follow stage {page.stage}", "open the next stage")
        grows = line.sizes == page.line.sizes and line.archs == page.line.archs
        if not grows or any(a < b for a, b in zip(line.candidates, page.line.candidates, strict=True)):
            raise FatalError(
                f"stage {stage} takes users out of the cohort", "keep the shares, raise the percent"
            )

    def _count(self, page: Page, entry: Entry) -> None:
        if page.newest_at_s is None or entry.at_s > page.newest_at_s:
            page.newest_at_s = entry.at_s
        user = self._users.get(entry.uid_hash)
        if user is None:
            user = self._users[entry.uid_hash] = User()
        user.see(page.stage)
        if entry.at_s < page.counts_from_s:
            page.settling_events += entry.event_log
            return
        candidate = page.line.side(entry.bucket) == CANDIDATE
        inside = user.prev != NEVER and self._numbering.lines[user.prev].side(entry.bucket) == CANDIDATE
        if user.counted != page.stage:
            user.counted = page.stage
            page.users[0 if candidate else 1] += 1
            page.users_coin += candidate and not inside
        if entry.event_log:
            key = None if inside else (page.line.arch(entry.bucket), user.prev)
            self._count_event(page, entry, user, candidate, key)
        else:
            self._count_sample(page, entry, user, candidate)

    def _count_sample(self, page: Page, entry: Entry, user: User, candidate: bool) -> None:
        page.requests[0 if candidate else 1] += 1
        page.misrouted += entry.version != (self.version if candidate else self.stable)
        bad = self._kinds(page, entry)
        if user.sampled != page.stage:
            user.sampled = page.stage
            page.sampled_users += 1
            for kind in self._counting(page):
                page.objective[kind][0 if candidate else 1][kind in bad] += 1
        if page.percent >= 100:
            for kind in self._counting(page):
                self._toss(page, user, "watch", kind, ANYBODY, heads=kind in bad)

    def _count_event(
        self, page: Page, entry: Entry, user: User, candidate: bool, key: CoinKey | None
    ) -> None:
        kinds = self._kinds(page, entry)
        if not kinds:
            return
        name = entry.request_id or f"{entry.uid_hash}:{entry.at_s}"
        kept = not candidate or keeps(self._salt, name, 1 / self._rho0)
        for kind in kinds:
            if user.marks is None or user.marks[MARKS["harm", kind]] == NEVER:
                page.event_users[kind][0 if candidate else 1] += 1
            for test in TESTS if kept else TESTS[:1]:
                self._toss(page, user, test, kind, key, heads=candidate)

    def _toss(
        self, page: Page, user: User, purpose: Purpose, kind: Kind, key: CoinKey | None, *, heads: bool
    ) -> None:
        if user.marks is None:
            user.marks = [NEVER] * len(MARKS)
        place, series = MARKS[purpose, kind], page.series[purpose, kind]
        user.marks[place] = series.toss(user.marks[place], key, heads=heads, active=page.sampled_users)

    def _counting(self, page: Page) -> tuple[Kind, ...]:
        """Slow kinds count while their limits are known and both versions carry a like load.

        At 100 % there is no other version to be unlike.
        """
        slow = page.limits_ms is not None and (self.like_load or page.percent >= 100)
        return KINDS if slow else (Kind.FAILURE,)

    def _kinds(self, page: Page, entry: Entry) -> tuple[Kind, ...]:
        failed = (Kind.FAILURE,) if entry.failed else ()
        limits, duration_ms = page.limits_ms, entry.duration_ms
        if limits is None or duration_ms is None or len(self._counting(page)) == 1:
            return failed
        slow = tuple(kind for kind, limit in zip(SLOW_KINDS, limits, strict=True) if duration_ms > limit)
        return failed + slow


def _objective(page: Page, kind: Kind) -> Iterator[ObjectiveCount]:
    """The candidate's own users: of the stage, and at 100 % of each process that counts."""
    if page.percent < 100:
        ok, bad = page.objective[kind][0]
        yield ObjectiveCount(kind=kind, ok=ok, bad=bad)
        return
    series = page.series["watch", kind]
    for process in series.live:
        bad, ok = series.counts.get((process, ANYBODY), (0, 0))
        yield ObjectiveCount(kind=kind, process=process, ok=ok, bad=bad)


def _baselines(page: Page) -> tuple[Baseline, ...]:
    """Stable's own rates in the stage that is left, where enough of its users were counted."""
    out = []
    for kind in KINDS:
        ok, bad = page.objective[kind][1]
        if ok + bad >= BASELINE_MIN_USERS:
            out.append(Baseline(kind=kind, rate=bad / (ok + bad)))
    return tuple(out)
