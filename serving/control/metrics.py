"""The controller's metrics: the gate sensor's samples, and what people look at.

Invariant: what the sensor reads is `to_samples` of the very evidence that the guard judges, label for label, so that
the same pure function gives the same verdict on either side of Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.control.guard import Guard
from serving.control.ledger import Head
from serving.control.rollouts import Parts
from sluice.evidence import to_samples
from sluice.latency import quantile
from sluice.stages import State

QUANTILES: Final = (0.5, 0.95, 0.99)
LATENCY_S: Final = (
    60.0  # a version that serves nobody has no latency; a quiet one is still seen by some scrapes
)


def registry(parts: Parts, guard: Guard) -> CollectorRegistry:
    """A registry of this controller alone."""
    made = CollectorRegistry(auto_describe=False)
    made.register(ControlCollector(parts, guard))
    return made


class ControlCollector(Collector):
    """Reads everything at scrape time; keeps nothing."""

    def __init__(self, parts: Parts, guard: Guard) -> None:
        self._p, self._guard = parts, guard

    def collect(self) -> Iterator[Metric]:
        heads = self._p.ledger.heads(active=True)
        yield from self._evidence(heads)
        yield from self._versions()
        yield from self._gateways()
        yield from self._own(heads)

    def _evidence(self, heads: Iterable[Head]) -> Iterator[Metric]:
        families: dict[str, Metric] = {}

        def put(name: str, labels: Mapping[str, str], value: float) -> None:
            family = families.setdefault(
                name, Metric(name, "of the open stage; see sluice/evidence.py", "gauge")
            )
            family.add_sample(name, dict(labels), value)

        for head in heads:
            evidence = self._p.evidence.current(head) if head.state == State.RUNNING else None
            if evidence is None:
                continue
            for name, labels, value in to_samples(evidence):
                put(name, labels, value)
            own = {"service": head.service, "rollout": head.id, "stage": str(head.stage)}
            for kind, log_e in log_es(self._p.evidence.judge(head)).items():
                put("sluice_log_e", {**own, "kind": kind}, log_e)
        yield from families.values()

    def _versions(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "sluice_requests", "Requests by version, sampled ones scaled up", labels=["service", "version"]
        )
        latency = GaugeMetricFamily(
            "sluice_latency_ms",
            f"Duration of sampled requests of the last {LATENCY_S:.0f} s",
            labels=["service", "version", "quantile"],
        )
        oldest_s = self._p.now().timestamp() - LATENCY_S
        for service, meter in self._p.evidence.meters().items():
            for version, count in meter.requests.items():
                requests.add_metric([service, version], count)
            for version, live in meter.live.items():
                recent = (duration for at_s, duration in live.recent if at_s > oldest_s)
                durations = sorted(duration for duration in recent if duration is not None)
                for share in QUANTILES if durations else ():
                    latency.add_metric([service, version, str(share)], quantile(durations, share))
        yield requests
        yield latency

    def _gateways(self) -> Iterator[Metric]:
        current = GaugeMetricFamily(
            "sluice_gateway_current", "1 when the gateway applies what is wanted", labels=["node"]
        )
        for status in self._p.world.plane.status():
            current.add_metric(
                [status.node], float(status.connected and dict(status.acked) == dict(status.wanted))
            )
        yield current

    def _own(self, heads: Iterable[Head]) -> Iterator[Metric]:
        held = GaugeMetricFamily(
            "sluice_rollout_held", "1 when the rollout is held", labels=["service", "rollout"]
        )
        for head in heads:
            held.add_metric([head.service, head.id], float(head.held is not None))
        yield held
        yield CounterMetricFamily(
            "sluice_entries", "Access-log entries taken in", value=self._p.evidence.entries
        )
        yield CounterMetricFamily("sluice_guard_errors", "Guard passes that failed", value=self._guard.errors)


def log_es(verdict: Mapping[str, Any]) -> dict[str, float]:
    """The harm test's log e-value by kind, as far as the verdict's numbers tell."""
    rows = verdict["numbers"].get("harm") or {}
    return {kind: float(row["log_e"]) for kind, row in rows.items()}
