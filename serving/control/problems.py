"""What the controller refuses, and what the caller does next.

One exception type, because every refusal leaves by the same door: `{"error": {"code", "message", "next_step", …}}`
with an HTTP status. The code is for programs, the message for people, the next step for whoever is on call.
"""

from __future__ import annotations

from typing import Any


class ControlProblem(Exception):
    """A refusal of the controller. `fields` go into the error body next to code, message and next_step."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        next_step: str,
        *,
        retry_after_s: int | None = None,
        fields: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(status, code, message, next_step)
        self.status, self.code, self.message, self.next_step = status, code, message, next_step
        self.retry_after_s = retry_after_s
        self.fields = dict(fields or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.message}; {self.next_step}"

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        return {
            "error": {**self.fields, "code": self.code, "message": self.message, "next_step": self.next_step}
        }


def not_found(what: str, name: str, where: str) -> ControlProblem:
    return ControlProblem(404, "not-found", f"no {what} {name!r}", f"list what exists with GET {where}")


def stale_epoch(rollout: str, wanted: int, got: int) -> ControlProblem:
    return ControlProblem(
        409,
        "stale-epoch",
        f"rollout {rollout} is at epoch {wanted}, the call names {got}",
        "read the rollout again; another writer was here",
        fields={"epoch": wanted},
    )


def conflict(rollout: str) -> ControlProblem:
    return ControlProblem(
        409,
        "conflict",
        f"rollout {rollout} changed while this call was deciding",
        "read the rollout again and repeat the call if it still makes sense",
    )


def ended(rollout: str, state: str, reason: str | None) -> ControlProblem:
    return ControlProblem(
        409,
        "ended",
        f"rollout {rollout} has ended as {state}" + (f": {reason}" if reason else ""),
        "start a new rollout",
        fields={"state": state},
    )


def retreat_owed(rollout: str, error: Exception) -> ControlProblem:
    return ControlProblem(
        503,
        "ledger",
        f"the traffic of rollout {rollout} has been taken away; the ledger cannot be written: {type(error).__name__}",
        "look at the database: the row is written as soon as it can be; repeat the call to see it",
        retry_after_s=2,
        fields={"rollout": rollout},
    )
