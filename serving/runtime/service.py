"""Routes of the protocol: which question a path asks, and its answer.

Invariants: every request is answered exactly once through `reply`; ready is 200 only between the end of the
warm-up and the beginning of the drain, for the server and for its model alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from time import perf_counter
from typing import Final

import orjson

from serving.runtime import metrics as prometheus
from serving.runtime.batcher import Batcher, Call, Outcome
from serving.runtime.metrics import Metrics
from serving.runtime.oip import HEADER_LENGTH, InferRequest, decode, encode, error_body, metadata
from serving.runtime.refusal import Refusal, bad
from serving.runtime.shapes import Model

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
SERVER: Final = orjson.dumps({"name": "sluice", "version": "0.1.0", "extensions": ["binary_tensor_data"]})


class State(Enum):
    """Life of the server; it only goes forward."""

    STARTING = "starting: the engine is being loaded and warmed"
    READY = "ready"
    DRAINING = "draining: this replica is going away"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One whole HTTP request; header names in lowercase."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One whole HTTP answer but for the framing, which belongs to the connection."""

    status: int
    body: list[bytes]
    headers: Mapping[str, str]


Reply = Callable[[Answer], None]


class Service:
    """What the server answers. `state` is set by the app."""

    def __init__(self, model: Model, batcher: Batcher, metrics: Metrics) -> None:
        self.state = State.STARTING
        self._model, self._batcher, self._metrics = model, batcher, metrics
        base = f"/v2/models/{model.name}"
        both = (base, f"{base}/versions/{model.version}")
        self._infer = frozenset(f"{path}/infer" for path in both)
        self._get: Mapping[str, Callable[[], Answer]] = {
            "/v2": lambda: _json(SERVER),
            "/v2/health/live": lambda: _json(b'{"live":true}'),
            "/v2/health/ready": self._ready,
            **dict.fromkeys(both, lambda: _json(metadata(model))),
            **{f"{path}/ready": self._model_ready for path in both},
            "/metrics": lambda: _answer(200, [metrics.render()], {"Content-Type": prometheus.CONTENT_TYPE}),
        }

    def handle(self, request: Request, reply: Reply) -> Call | None:
        """Answer a request, now or later. The Call, if there is one, is marked `gone` when the client leaves."""
        path = request.path.partition("?")[0].rstrip("/") or "/"
        if path in self._infer and request.method == "POST":
            return self._start_infer(request, reply)
        reply(self._look_up(path, request.method))
        return None

    def refuse(self, refusal: Refusal) -> Answer:
        """The answer of a refusal, counted."""
        if refusal.reason is not None:
            self._metrics.failures[refusal.reason].inc()
        return _answer(refusal.status, [error_body(refusal)], {"Content-Type": JSON, **refusal.headers})

    def _look_up(self, path: str, method: str) -> Answer:
        allowed = "POST" if path in self._infer else "GET, HEAD" if path in self._get else None
        if allowed is None:
            known = f"/v2/models/{self._model.name}/versions/{self._model.version}"
            return self.refuse(Refusal(404, f"path: got {path[:200]!r}, this server has {known}"))
        if method not in allowed.split(", "):
            return self.refuse(
                Refusal(405, f"method: got {method}, wanted {allowed}", None, {"Allow": allowed})
            )
        return self._get[path]()

    def _ready(self) -> Answer:
        if self.state is State.READY:
            return _json(b'{"ready":true}')
        return _answer(
            503, [orjson.dumps({"ready": False, "error": self.state.value})], {"Content-Type": JSON}
        )

    def _model_ready(self) -> Answer:
        ready = self.state is State.READY
        body = {"name": self._model.name, "ready": ready, **({} if ready else {"error": self.state.value})}
        return _answer(200 if ready else 503, [orjson.dumps(body)], {"Content-Type": JSON})

    def _start_infer(self, request: Request, reply: Reply) -> Call | None:
        arrived = perf_counter()
        try:
            self._admit(request)
            infer = decode(request.body, request.headers.get(HEADER_LENGTH), self._model)
            call = Call(
                infer.tensors, infer.sizes, lambda outcome: self._end_infer(infer, outcome, arrived, reply)
            )
            self._batcher.submit(call)
        except Refusal as refusal:
            self._metrics.request.observe(perf_counter() - arrived)
            reply(self.refuse(refusal))
            return None
        self._metrics.inflight.inc()
        return call

    def _admit(self, request: Request) -> None:
        if self.state is State.STARTING:
            raise Refusal(503, self.state.value, "not_ready", {"Retry-After": "1"})
        if encoding := request.headers.get("content-encoding"):
            raise bad(f"header Content-Encoding: got {encoding[:40]!r}, wanted an uncompressed body")

    def forget(self, call: Call) -> None:
        """The client of an unanswered call has left."""
        call.gone = True
        self._metrics.inflight.dec()

    def _end_infer(self, infer: InferRequest, outcome: Outcome, arrived: float, reply: Reply) -> None:
        if isinstance(outcome, Refusal):
            answer = self.refuse(outcome)
        else:
            header_length, body = encode(self._model, infer, outcome)
            headers = {"Content-Type": JSON}
            if header_length is not None:
                headers = {"Content-Type": BINARY, "Inference-Header-Content-Length": str(header_length)}
            answer = _answer(200, body, headers)
        self._metrics.inflight.dec()
        self._metrics.request.observe(perf_counter() - arrived)
        reply(answer)


def _json(body: bytes) -> Answer:
    return _answer(200, [body], {"Content-Type": JSON})


def _answer(status: int, body: list[bytes], headers: Mapping[str, str]) -> Answer:
    return Answer(status=status, body=body, headers=headers)


PHRASES: Final[Mapping[int, str]] = {status.value: status.phrase for status in HTTPStatus}
