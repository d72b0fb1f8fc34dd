"""Routes of the recorder: which service a copy is of, and what probes and Prometheus ask.

Invariants: a copy is answered before it is read, with nothing; its headers, but for the length of the binary
extension's JSON part, its query, its id and its sender are not looked at; a path of no service is 404.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from serving.recorder.days import Days
from serving.recorder.intake import Intake
from serving.recorder.metrics import Metrics
from serving.runtime.oip import HEADER_LENGTH
from serving.runtime.refusal import Refusal
from serving.runtime.service import Answer, Reply, Request, State

TEXT: Final[Mapping[str, str]] = {"Content-Type": "text/plain; charset=utf-8"}
TAKEN: Final = Answer(status=200, body=[], headers={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One service that is recorded. prefix: as its clients call it, without a / at the end."""

    prefix: str
    intake: Intake
    days: Days


class Service:
    """What the recorder answers. `state` is set by the app."""

    def __init__(self, recorded: Sequence[Recorded], metrics: Metrics, now: Callable[[], datetime]) -> None:
        """now: aware, in UTC."""
        self.state = State.READY
        self.trouble: str | None = None  # why the last write failed
        self._recorded = sorted(recorded, key=lambda one: -len(one.prefix))
        self._metrics, self._now = metrics, now

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer, then record."""
        path = request.path.partition("?")[0]
        for one in self._recorded:
            if path == one.prefix or path.startswith(f"{one.prefix}/"):
                reply(TAKEN)
                self._record(one, path, request)
                return
        reply(self._own(path))

    def refuse(self, refusal: Refusal) -> Answer:
        """The answer to what is no whole request."""
        self._metrics.refused.inc()
        return _text(refusal.status, refusal.message)

    def forget(self, call: object) -> None:
        """Nothing is under way once a request was handled."""

    def _record(self, one: Recorded, path: str, request: Request) -> None:
        service, metrics = one.days.service, self._metrics
        metrics.requests.labels(service).inc()
        if request.method != "POST" or not path.rstrip("/").endswith("/infer"):
            metrics.drop(service, "not_infer")
            return
        day = self._now().astimezone(UTC).date()
        taken = one.days.take(one.intake.samples(request.body, request.headers.get(HEADER_LENGTH)), day)
        metrics.samples.labels(service).inc(taken)

    def _own(self, path: str) -> Answer:
        if path == "/metrics":
            return Answer(
                status=200, body=[self._metrics.render()], headers={"Content-Type": CONTENT_TYPE_LATEST}
            )
        if path == "/healthz":
            return _text(200, "ok") if self.trouble is None else _text(503, self.trouble)
        return self.refuse(
            Refusal(404, f"path: no spec has it; wanted {', '.join(one.prefix for one in self._recorded)}")
        )


def _text(status: int, text: str) -> Answer:
    return Answer(status=status, body=[f"{text}\n".encode()], headers=TEXT)
