"""Answers that are not 2xx, each as the `Status` object that Kubernetes clients know how to read."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A refusal of the API server. `code` is the HTTP status, `reason` the machine-readable word."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(code, reason, message, details)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.code} {self.reason}: {self.message}"

    def status(self) -> dict[str, Any]:
        """The `Status` object of this refusal."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body


def not_found(resource: str, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource} "{name}" not found', {"name": name, "kind": resource})


def already_exists(resource: str, name: str) -> ApiError:
    details = {"name": name, "kind": resource}
    return ApiError(409, "AlreadyExists", f'{resource} "{name}" already exists', details)


def conflict(resource: str, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, {"name": name, "kind": resource})


def invalid(kind: str, name: str, causes: list[tuple[str, str]]) -> ApiError:
    """A value is wrong: `causes` are (field path, what is wrong) and all of them are told at once."""
    text = ", ".join(f"{path}: {why}" for path, why in causes)
    details = {
        "name": name,
        "kind": kind,
        "causes": [{"field": path, "message": why, "reason": "FieldValueInvalid"} for path, why in causes],
    }
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {text}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def not_implemented(what: str) -> ApiError:
    """Kubernetes may have it; this server does not, and will not pretend."""
    message = f"{what} is not implemented by the local cluster; see local/cluster/README.md or use a real one"
    return ApiError(501, "NotImplemented", message)


def expired(asked: int, oldest: int) -> ApiError:
    message = f"too old resource version: {asked} ({oldest}); list again and watch from the list's version"
    return ApiError(410, "Expired", message)
