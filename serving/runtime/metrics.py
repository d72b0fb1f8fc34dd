"""What Prometheus reads from one replica. Invariant: every series exists from the start, failures at 0."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from serving.runtime.refusal import REASONS
from serving.runtime.shapes import Model

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
# 0.25 ms to 10 s, each about 1.6 times the one before: a quantile is off by a quarter of itself at most.
SECONDS: Final = (
    *(0.00025, 0.0004, 0.00063, 0.001, 0.0016, 0.0025, 0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063),
    *(0.1, 0.16, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0),
)
ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
LABELS: Final = ("model", "version", "arch", "precision")


class Metrics:
    """The series of one served version. Times are in seconds, observed where they end."""

    def __init__(self, model: Model) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = (model.name, model.version, model.arch, model.precision)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, LABELS, buckets=buckets, registry=self.registry).labels(*own)

        self.request = histogram(
            "infer_request_seconds", "From the last byte in to the first byte out.", SECONDS
        )
        self.queue = histogram("infer_queue_seconds", "Waiting for a run to begin.", SECONDS)
        self.compute = histogram("infer_compute_seconds", "One run of the engine.", SECONDS)
        self.batch_rows = histogram("infer_batch_rows", "Rows in one run.", ROWS)
        gauge = Gauge("infer_inflight", "Requests received and not answered.", LABELS, registry=self.registry)
        self.inflight = gauge.labels(*own)
        failures = Counter(
            "infer_failures_total", "Answers >= 400 by reason.", (*LABELS, "reason"), registry=self.registry
        )
        self.failures = {reason: failures.labels(*own, reason) for reason in REASONS}

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)
