"""What Prometheus reads from a recorder. Invariant: every series exists from the start, at 0."""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

# Why a request, or a sample of it, was not recorded; all of them are counted, none is stored.
REASONS: Final = (
    "not_infer",  # under the service's prefix, but no inference (metadata, a probe)
    "unreadable",  # no request of the protocol, or not of this model
    "no_sample",  # a row that the spec's axes or values do not allow
    "redacted",  # the hook said None
    "redaction_failed",  # the hook raised, or gave back what is no sample
)
NO_SERVICE: Final = "-"


class Metrics:
    """The series of one recorder, by service."""

    def __init__(self, services: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own, names = {"registry": self.registry}, tuple(services)
        self.requests = Counter("sluice_recorder_requests", "Requests that arrived.", ["service"], **own)
        self.samples = Counter(
            "sluice_recorder_samples", "Samples that were seen, kept or not.", ["service"], **own
        )
        self.dropped = Counter("sluice_recorder_dropped", "Not recorded.", ["service", "reason"], **own)
        self.refused = Counter("sluice_recorder_refused", "No request, too large, or of no service.", **own)
        self.kept = Gauge("sluice_recorder_kept", "Distinct inputs in the day's sample.", ["service"], **own)
        self.writes_failed = Counter(
            "sluice_recorder_writes_failed", "Files not written.", ["service"], **own
        )
        self.written = Gauge(
            "sluice_recorder_written_timestamp_seconds",
            "When the day's file was written last.",
            ["service"],
            **own,
        )
        for name in names:
            for series in (self.requests, self.samples, self.kept, self.writes_failed, self.written):
                series.labels(name)
            for reason in REASONS:
                self.dropped.labels(name, reason)

    def drop(self, service: str, reason: str) -> None:
        """Count what is not recorded."""
        self.dropped.labels(service, reason).inc()

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)
