"""Answers that are not a result. One class, so that every refusal carries a status, a counted reason and text."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

# Every value of `infer_failures_total{reason}`; all of them exist from the start, at 0.
REASONS: Final = ("bad_request", "too_large", "queue_full", "not_ready", "nonfinite", "backend")


class Refusal(Exception):
    """An answer >= 400. reason: one of REASONS, or None where no inference was asked for."""

    def __init__(
        self, status: int, message: str, reason: str | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        super().__init__(status, message, reason, headers)
        self.status, self.message, self.reason, self.headers = status, message, reason, headers


def bad(message: str) -> Refusal:
    """400 of an inference: the request is at fault; the message names tensor, field, got and wanted."""
    return Refusal(400, message, "bad_request")
