"""One HTTP/1.1 connection: moves bytes, frames answers, keeps their order. Knows no model and no format.

Invariants: answers leave in the order of their requests (pipelining); a body above the limit is refused without
being held; from the drain on every answer closes its connection, and an idle one is closed by the app.
"""

import asyncio
from collections import deque
from typing import Any, Final, Protocol

import httptools

from serving.runtime.batcher import Call
from serving.runtime.refusal import Refusal
from serving.runtime.service import PHRASES, Answer, Reply, Request, State

MAX_HEADER_BYTES: Final = 32 * 1024  # of all headers of one request; Envoy's own default is 60 KiB
MAX_PIPELINED: Final = 32  # requests of one connection that may wait; then it is not read from
DISCARD_S: Final = 2.0  # how long the rest of a refused body is read, so that the client sees the answer


class Handler(Protocol):
    """What answers requests: the model server's `Service`, the recorder's."""

    state: State

    def handle(self, request: Request, reply: Reply) -> Call | None:
        """Answer now or later, exactly once. The Call, if there is one, is marked `gone` when the client leaves."""

    def refuse(self, refusal: Refusal) -> Answer:
        """The answer of a refusal, counted."""

    def forget(self, call: Call) -> None:
        """The client of an unanswered call has left."""


class _Slot:
    """One request's place in the order of answers."""

    __slots__ = ("answer", "call", "close", "head_only")

    def __init__(self, *, close: bool, head_only: bool) -> None:
        self.close, self.head_only = close, head_only
        self.answer: Answer | None = None
        self.call: Call | None = None


class Connection(asyncio.Protocol):
    """Made by the app for each accepted socket; `connections` is the app's set of the living ones."""

    def __init__(self, service: Handler, connections: set["Connection"], max_body_bytes: int) -> None:
        self._service, self._connections, self._max_body_bytes = service, connections, max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._slots: deque[_Slot] = deque()
        self._transport: asyncio.Transport | None = None
        self._discarding = False
        self._in_message = False
        self._reset()

    def _reset(self) -> None:
        self._url, self._headers, self._header_bytes = b"", {}, 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    @property
    def busy(self) -> bool:
        """A request is being read, computed or answered."""
        return bool(self._slots) or self._in_message

    def close_if_idle(self) -> None:
        """Called in the drain, once nothing new is accepted."""
        if not self.busy and self._transport is not None:
            self._transport.close()

    # --- asyncio ---

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        for slot in self._slots:
            if slot.call is not None and slot.answer is None:
                self._service.forget(slot.call)
        self._slots.clear()
        self._in_message = False

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(Refusal(400, "header Upgrade: wanted plain HTTP/1.1"))
        except httptools.HttpParserError as error:
            self._refuse(Refusal(400, f"request: not HTTP/1.1 ({error})"))

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    # --- httptools ---

    def on_message_begin(self) -> None:
        self._in_message = True
        self._reset()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        length = self._headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            self._too_large(f"{length} bytes")
        elif self._headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > self._max_body_bytes:
            self._too_large("more")
        elif not self._discarding:
            self._body.append(data)

    def on_message_complete(self) -> None:
        self._in_message = False
        if self._discarding or self._transport is None:
            return
        method = self._parser.get_method().decode("latin-1")
        slot = _Slot(close=not self._parser.should_keep_alive(), head_only=method == "HEAD")
        self._slots.append(slot)
        if len(self._slots) >= MAX_PIPELINED:
            self._transport.pause_reading()
        request = Request(
            method=method,
            path=self._url.decode("latin-1"),
            headers=self._headers,
            body=self._body[0] if len(self._body) == 1 else b"".join(self._body),
        )
        slot.call = self._service.handle(request, lambda answer: self._answered(slot, answer))

    # --- answers ---

    def _count(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(
                Refusal(431, f"headers: got more than {MAX_HEADER_BYTES} bytes, wanted at most that")
            )

    def _too_large(self, got: str) -> None:
        message = (
            f"body: got {got}, wanted at most {self._max_body_bytes} bytes; send fewer rows in a request"
        )
        self._refuse(Refusal(413, message, "too_large"))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what is not a whole request, and read no further ones."""
        if self._discarding:
            return
        self._discarding, self._in_message = True, False
        self._body.clear()
        slot = _Slot(close=True, head_only=False)
        self._slots.append(slot)
        self._answered(slot, self._service.refuse(refusal))

    def _answered(self, slot: _Slot, answer: Answer) -> None:
        slot.answer = answer
        while self._slots and self._slots[0].answer is not None and self._transport is not None:
            first = self._slots.popleft()
            close = first.close or self._service.state is State.DRAINING
            self._transport.write(_frame(first.answer, close=close, head_only=first.head_only))
            if close:
                self._end()
                return
        if len(self._slots) == MAX_PIPELINED - 1 and self._transport is not None:
            self._transport.resume_reading()

    def _end(self) -> None:
        transport = self._transport
        if transport is None:
            return
        if not self._discarding:
            transport.close()
            return
        # Closing with unread bytes makes the kernel reset the connection, and the answer may be lost with it.
        transport.write_eof()
        asyncio.get_running_loop().call_later(DISCARD_S, transport.close)


def _frame(answer: Answer, *, close: bool, head_only: bool) -> bytes:
    length = sum(map(len, answer.body))
    lines = [f"HTTP/1.1 {answer.status} {PHRASES.get(answer.status, 'Unknown')}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    if close:
        lines.append("Connection: close")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if head_only else b"".join((head, *answer.body))
