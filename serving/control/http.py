"""The door of the REST API: token, body size, and one shape for every error.

Invariants: a request without the right token reaches no command; a body over the limit is never held in memory;
whatever goes wrong, the answer is `{"error": {"code", "message", "next_step"}}`.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.control.problems import ControlProblem
from sluice.stages import IllegalMoveError

MAX_BODY_BYTES: Final = 1024 * 1024  # a policy with 64 targets is under 32 KiB

_log = logging.getLogger(__name__)
_bearer = HTTPBearer(auto_error=False, description="the token of --token-file")


class BodyLimit:
    """ASGI middleware: 413 once a request's body, declared or sent, is over `limit_bytes`."""

    def __init__(self, app: ASGIApp, *, limit_bytes: int = MAX_BODY_BYTES) -> None:
        self._app, self._limit = app, limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._limit:
            await self._refuse(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise _too_large(self._limit)
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _answer(_http_problem("", _too_large(self._limit)))
        await answer(scope, receive, send)


def token_check(token: str) -> Callable[..., Awaitable[None]]:
    """A FastAPI dependency that lets the bearer of `token` pass. Compares in constant time, as bytes."""
    wanted = token.encode()

    async def check(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> None:
        given = b"" if credentials is None else credentials.credentials.encode()
        if not hmac.compare_digest(given, wanted):
            raise ControlProblem(
                401,
                "unauthorized",
                "no bearer token came, or another one than this controller's",
                "send `Authorization: Bearer TOKEN` with the token of the controller's --token-file",
            )

    return check


def install_errors(app: FastAPI) -> None:
    """Give every failure of `app` the contract's shape."""

    @app.exception_handler(ControlProblem)
    async def _problem(_request: Request, problem: ControlProblem) -> JSONResponse:
        return _answer(problem)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(invalid([_plain(entry) for entry in error.errors()]))

    @app.exception_handler(StarletteHTTPException)
    async def _http(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return _answer(_http_problem(f"{request.method} {request.url.path}: ", error))

    @app.exception_handler(IllegalMoveError)
    async def _move(_request: Request, error: IllegalMoveError) -> JSONResponse:
        return _answer(ControlProblem(409, "illegal-move", error.message, error.next_step))

    @app.exception_handler(SQLAlchemyError)
    async def _database(_request: Request, error: SQLAlchemyError) -> JSONResponse:
        _log.error("ledger: %s", error)
        message = f"the ledger cannot be used: {type(error).__name__}"
        step = "no traffic has moved that the ledger does not know of; look at the database, then repeat the call"
        return _answer(ControlProblem(503, "ledger", message, step, retry_after_s=2))

    @app.exception_handler(Exception)
    async def _bug(_request: Request, error: Exception) -> JSONResponse:
        _log.exception("unexpected error", exc_info=error)
        message = f"unexpected {type(error).__name__}"
        return _answer(ControlProblem(500, "internal", message, "see the controller's log and report it"))


def _too_large(limit_bytes: int) -> HTTPException:
    """FastAPI lets its own exception through while it reads a body, and turns any other into a 400."""
    return HTTPException(413, f"the body is over {limit_bytes} bytes, or its content-length is no number")


def _http_problem(where: str, error: StarletteHTTPException) -> ControlProblem:
    code = {404: "not-found", 405: "method-not-allowed", 413: "body-too-large"}.get(
        error.status_code, "bad-request"
    )
    step = (
        "send the policy and names only" if error.status_code == 413 else "see /openapi.json for what exists"
    )
    return ControlProblem(error.status_code, code, f"{where}{error.detail}", step)


def invalid(problems: list[dict[str, Any]]) -> ControlProblem:
    """422 with every problem: `{path, value, message}`."""
    told = "; ".join(f"{problem['path'] or 'body'}: {problem['message']}" for problem in problems[:5])
    return ControlProblem(
        422, "invalid-request", told, "correct the fields named", fields={"problems": problems}
    )


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    path = ".".join(str(part) for part in entry["loc"] if part != "body")
    value = entry.get("input")
    shown = value if isinstance(value, str | int | float | bool | type(None)) else repr(value)[:200]
    return {"path": path, "value": shown, "message": entry["msg"]}


def _answer(problem: ControlProblem) -> JSONResponse:
    headers: dict[str, str] = {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    return JSONResponse(problem.body(), status_code=problem.status, headers=headers)
