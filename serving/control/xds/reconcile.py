"""Did what Envoy counted arrive? Pure: times are arguments (unix seconds; Envoy's own clock for what it sends).

Problem: Envoy counts an access-log entry as written while nobody receives it, so silence looks like health.
Invariant: a gateway whose events are short by more than 1 %, whose log is silent while requests flow, or whose
counters stop is named stale with the reason; what cannot be compared is stale, never fine. A cluster that Envoy no
longer reports was removed: what it counted last is compared for another minute, then it is forgotten.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from serving.control.xds.interface import ClusterCount

SPAN_S: Final = 60.0  # what is compared
SETTLE_S: Final = 1.5  # an entry is on its way for so long at most: flush 0.05 s, then the network
EDGE_S: Final = 0.1  # a counter and its entry are stamped this far apart at most
BINS: Final = 20  # per second
SILENT_S: Final = 10.0
RATE_S: Final = 5.5  # five reports, one a second, and their jitter
SHORTFALL: Final = 0.01
SURELY: Final = 7.0  # messages expected and none came: chance below 0.1 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Envoy's cumulative counters of one cluster. at_s: stamped by Envoy."""

    at_s: float
    requests: int
    errors: int


@dataclass(slots=True)
class _Cluster:
    counts: deque[Counts] = field(default_factory=deque)  # oldest first, SPAN_S of them
    ends: Counter[int] = field(
        default_factory=Counter
    )  # error entries received, by BINS-th of a second of their end

    @property
    def newest_s(self) -> float:
        """When it was last heard of, by Envoy's clock."""
        return self.counts[-1].at_s if self.counts else max(self.ends, default=0) / BINS


@dataclass(slots=True)
class Node:
    """Everything heard from one gateway. `since_s`: when it connected last."""

    since_s: float
    sample_fraction: float = 0.0  # in force
    last_log_s: float | None = None
    last_stats_s: float | None = None
    reported_s: float | None = None  # Envoy's stamp of the newest report
    clusters: dict[str, _Cluster] = field(default_factory=dict)

    def on_counts(self, report: Mapping[str, Counts], now_s: float) -> None:
        """Take in one report: every cluster that Envoy has counted anything for.

        The first report is where counting starts. Later, a cluster not seen before started at zero since the
        report before, and so did one whose counters went back (Envoy or the cluster was made anew).
        """
        before_s, self.reported_s = self.reported_s, max((c.at_s for c in report.values()), default=None)
        self.last_stats_s = now_s
        for cluster, counts in report.items():
            kept = self.clusters.setdefault(cluster, _Cluster()).counts
            if kept and (counts.requests < kept[-1].requests or counts.errors < kept[-1].errors):
                kept.clear()
            if not kept and before_s is not None:
                kept.append(Counts(at_s=before_s, requests=0, errors=0))
            kept.append(counts)
            while kept[0].at_s < counts.at_s - SPAN_S - SETTLE_S:
                kept.popleft()
        self._forget_removed()

    def _forget_removed(self) -> None:
        if self.reported_s is not None:
            oldest = self.reported_s - SPAN_S
            self.clusters = {name: kept for name, kept in self.clusters.items() if kept.newest_s >= oldest}

    def on_log(self, now_s: float) -> None:
        """A message of either access log came."""
        self.last_log_s = now_s

    def on_error(self, cluster: str, ended_s: float) -> None:
        """An entry with status >= 400 came. ended_s: start plus duration, by Envoy's clock."""
        ends = self.clusters.setdefault(cluster, _Cluster()).ends
        ends[int(ended_s * BINS)] += 1
        if len(ends) > 3 * SPAN_S * BINS:
            oldest = int((ended_s - 2 * SPAN_S) * BINS)
            for late in [at for at in ends if at < oldest]:
                del ends[late]

    def count(self, name: str, cluster: str) -> ClusterCount:
        """Counted against received over the last minute, without the last moments, which may be on their way."""
        kept = self.clusters[cluster]
        first, last = _bounds(kept.counts)
        earliest, latest = (first.at_s - EDGE_S) * BINS, (last.at_s + EDGE_S) * BINS
        received = sum(n for end, n in kept.ends.items() if earliest <= end <= latest)
        return ClusterCount(
            node=name,
            cluster=cluster,
            requests=last.requests - first.requests,
            errors=last.errors - first.errors,
            received=received,
            requests_per_s=self._rate(kept),
        )

    def stale(self, counts: list[ClusterCount], now_s: float) -> str | None:
        """Why this gateway's evidence cannot be trusted now, or None. The worst reason comes first."""
        heard_s = max(self.since_s, self.last_stats_s or 0.0)
        if now_s - heard_s > SILENT_S:
            return f"no counters for {now_s - heard_s:.0f} s"
        for one in counts:
            missing = one.errors - one.received
            if missing > SHORTFALL * one.errors:
                return f"{missing} of {one.errors} failed requests of {one.cluster} never arrived in the log"
        return self._silent(counts, now_s)

    def _silent(self, counts: list[ClusterCount], now_s: float) -> str | None:
        heard_s = max(self.since_s, self.last_log_s or 0.0)
        gap_s = now_s - heard_s
        if gap_s <= SILENT_S:
            return None
        flowed = sum(one.requests_per_s for one in counts) * gap_s
        if flowed * self.sample_fraction < SURELY:
            return None
        return f"access log silent for {gap_s:.0f} s while about {math.floor(flowed)} requests flowed"

    def _rate(self, kept: _Cluster) -> float:
        """Requests per second over the last 5 s of reports; 0 when there is only one, or none so late."""
        recent = [c for c in kept.counts if c.at_s >= (self.reported_s or 0.0) - RATE_S]
        span_s = recent[-1].at_s - recent[0].at_s if recent else 0.0
        return (recent[-1].requests - recent[0].requests) / span_s if span_s > 0 else 0.0


def _bounds(counts: deque[Counts]) -> tuple[Counts, Counts]:
    """First and last report of the span compared; the same one twice when there is too little."""
    if not counts:
        nothing = Counts(at_s=0.0, requests=0, errors=0)
        return nothing, nothing
    newest = counts[-1].at_s
    settled = [c for c in counts if c.at_s <= newest - SETTLE_S]
    last = settled[-1] if settled else counts[0]
    return counts[0], last
