"""/openapi/v2, as little of it as kubectl needs: a document without definitions.

kubectl asks for it before `create`, `apply` and `explain`, and checks a manifest only against kinds that the
document defines. It defines none: this server checks every manifest itself and refuses what it does not know.
"""

from __future__ import annotations

from typing import Any, Final

PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_TITLE: Final = "Sluice local cluster"


def document() -> dict[str, Any]:
    return {"swagger": "2.0", "info": {"title": _TITLE, "version": "v1"}, "paths": {}, "definitions": {}}


def protobuf() -> bytes:
    """The same document in gnostic's openapi.v2.Document: fields swagger = 1, info = 2, paths = 8."""
    info = _text(1, _TITLE) + _text(2, "v1")
    return _text(1, "2.0") + _field(2, info) + _field(8, b"")


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())


def _field(number: int, value: bytes) -> bytes:
    if len(value) > 127:
        raise ValueError("lengths above 127 need a varint of two bytes")
    return bytes([number << 3 | 2, len(value)]) + value
