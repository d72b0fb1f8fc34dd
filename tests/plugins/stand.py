"""A small real HTTP server whose answers a test sets, and what it was asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.threaded_server import ThreadedServer

Answer = tuple[int, Any]


@dataclass
class Asked:
    """One request. query: the first value of each parameter."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Stand(ThreadedServer):
    """`answers[(method, path)]`: (status, JSON), a function of `Asked`, or a list of either, used up in turn."""

    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        stand = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand._serve(self, "GET")

            def do_POST(self) -> None:
                stand._serve(self, "POST")

            def log_message(self, *args: object) -> None:
                """Quiet."""

        return Handler

    def calls(self, method: str, path: str) -> list[Asked]:
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]

    def _serve(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        url = urlsplit(handler.path)
        size = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(size)) if size else None
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        asked = Asked(method, url.path, query, dict(handler.headers), body)
        self.asked.append(asked)
        status, answer = self._answer(asked)
        text = json.dumps(answer).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **self.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def _answer(self, asked: Asked) -> Answer:
        found: Any = self.answers.get((asked.method, asked.path))
        if found is None:
            message = f"no {asked.method} {asked.path} here"
            return 404, {"error": {"code": "not-found", "message": message, "next_step": "look"}}
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return found(asked) if callable(found) else found


def refusal(code: str, message: str, **fields: Any) -> dict[str, Any]:
    """The controller's error body."""
    return {"error": {"code": code, "message": message, "next_step": "do this", **fields}}
