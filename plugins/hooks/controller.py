"""The rollout controller's API, as Airflow's tasks speak it.

Problem: a task must know from the exception alone whether to try again, to give up or to wait. So every answer
becomes one type: `ControllerUnavailableError` (nobody answered, or 5xx: the same call may succeed later, after
`retry_after_s`), a subclass of `ControllerConflictError` (409: the controller knows better than the caller; the
fields of the answer are attributes), or `ControllerRefusedError` (any other 4xx: the call itself is wrong).

Invariant: no call moves traffic by accident; the library retries nothing, and only `retreat` needs no epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import requests
from airflow.sdk import BaseHook

from sluice.errors import FatalError, RetryableError

if TYPE_CHECKING:
    from airflow.sdk import Connection

CONNECTION_ID: Final = "sluice_controller"
CONNECT_TIMEOUT_S: Final = 3.05
READ_TIMEOUT_S: Final = 30.0
OPEN_TIMEOUT_S: Final = 120.0  # `open` answers once capacity stands and every gateway acknowledged


class ControllerUnavailableError(RetryableError):
    """Nobody answered, or the controller cannot right now (5xx). retry_after_s: seconds, None when not said."""

    def __init__(
        self, what: str, advice: str, reason: str = "unreachable", retry_after_s: float | None = None
    ) -> None:
        super().__init__(what, advice, reason, retry_after_s)
        self.reason, self.retry_after_s = reason, retry_after_s


class ControllerRefusedError(FatalError):
    """The controller refused the call. reason: its code; answer: its error object; status: HTTP."""

    def __init__(self, what: str, advice: str, reason: str, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(what, advice, reason, status, answer)
        self.reason, self.status, self.answer = reason, status, answer


class ControllerConflictError(ControllerRefusedError):
    """409: the call does not fit where the rollout stands."""


class ActiveRolloutError(ControllerConflictError):
    """Another rollout of this service is running: `running` is that Rollout, or its id."""

    @property
    def same_release(self) -> bool:
        """Whether it rolls out the very release that was asked for."""
        return self.answer.get("same_release") is True

    @property
    def running(self) -> dict[str, Any]:
        running = self.answer.get("running") or {}
        return dict(running) if isinstance(running, Mapping) else {"id": running}


class TurnedBackError(ControllerConflictError):
    """This very release was turned back before: `previous` is that Rollout, or its id."""

    @property
    def previous(self) -> dict[str, Any]:
        previous = self.answer.get("previous") or {}
        return dict(previous) if isinstance(previous, Mapping) else {"id": previous}


class AlreadyStableError(ControllerConflictError):
    """This very release holds the traffic already."""


class NoFreshPassError(ControllerConflictError):
    """The controller holds no fresh pass for the stage being left: `verdict` says why."""

    @property
    def verdict(self) -> dict[str, Any]:
        return dict(self.answer.get("verdict") or {})


class WrongStageError(ControllerConflictError):
    """The rollout does not stand before the stage that was named."""


class StaleEpochError(ControllerConflictError):
    """Somebody else took the rollout over: this run must not write any more."""


class EndedError(ControllerConflictError):
    """The rollout has ended."""


CONFLICTS: Final[Mapping[str, type[ControllerConflictError]]] = {
    "active-rollout": ActiveRolloutError,
    "turned-back": TurnedBackError,
    "already-stable": AlreadyStableError,
    "no-fresh-pass": NoFreshPassError,
    "wrong-stage": WrongStageError,
    "stale-epoch": StaleEpochError,
    "ended": EndedError,
}


class ControllerClient:
    """One controller. Every method returns the decoded answer or raises one of the errors above."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy variable must not stand between a task and the controller
        self._session.headers["Authorization"] = f"Bearer {token}"

    @classmethod
    def from_connection(cls, connection: Connection) -> ControllerClient:
        """From an Airflow connection `http://:TOKEN@host:port`."""
        return cls(connection_url(connection), connection.password or "")

    def create(self, rollout: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a rollout; the same `run_id` again gives the same rollout."""
        return self._call("POST", "/v1/rollouts", rollout)

    def rollout(self, rollout: str) -> dict[str, Any]:
        return self._call("GET", _path(rollout))

    def candidate(self, rollout: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Say what serves the candidate: `{epoch, version, signature, workloads}`."""
        return self._call("POST", _path(rollout, "candidate"), body)

    def open(self, rollout: str, *, epoch: int, stage: int) -> dict[str, Any]:
        """Open stage number `stage` (from 0); returns once every gateway acknowledged it."""
        body = {"epoch": epoch, "stage": stage}
        return self._call("POST", _path(rollout, "open"), body, timeout_s=OPEN_TIMEOUT_S)

    def retreat(self, rollout: str, *, reason: str, by: str, outcome: str) -> dict[str, Any]:
        """Take all traffic back; outcome: turned_back, rejected, cancelled or abandoned. Idempotent."""
        return self._call("POST", _path(rollout, "retreat"), {"reason": reason, "by": by, "outcome": outcome})

    def hold(self, rollout: str, *, epoch: int, reason: str, by: str) -> dict[str, Any]:
        return self._call("POST", _path(rollout, "hold"), {"epoch": epoch, "reason": reason, "by": by})

    def resume(self, rollout: str, *, epoch: int, reason: str, by: str) -> dict[str, Any]:
        return self._call("POST", _path(rollout, "resume"), {"epoch": epoch, "reason": reason, "by": by})

    def lift(self, rollout: str, *, epoch: int, held_by: str, reason: str, by: str) -> bool:
        """Resume, if the rollout is held by exactly `held_by`, read right before. Whether it was."""
        held = self.rollout(rollout).get("held") or {}
        if held.get("by") != held_by:
            return False
        self.resume(rollout, epoch=epoch, reason=reason, by=by)
        return True

    def renew_lease(self, rollout: str, *, epoch: int) -> dict[str, Any]:
        return self._call("POST", _path(rollout, "lease"), {"epoch": epoch})

    def promote(self, rollout: str, *, epoch: int) -> dict[str, Any]:
        return self._call("POST", _path(rollout, "promote"), {"epoch": epoch})

    def evidence(self, rollout: str) -> dict[str, Any]:
        """`{verdict, evidence, live}`."""
        return self._call("GET", _path(rollout, "evidence"))

    def service(self, service: str) -> dict[str, Any] | None:
        """How a service stands; None when the controller never heard of it."""
        try:
            return self._call("GET", f"/v1/services/{quote(service, safe='')}")
        except ControllerRefusedError as error:
            if error.status == 404:
                return None
            raise

    def decisions(self, rollout: str) -> list[dict[str, Any]]:
        """The ledger rows of a rollout, oldest first."""
        rows = self._call("GET", f"/v1/decisions?rollout={quote(rollout, safe='')}")
        return list(rows["decisions"] if isinstance(rows, Mapping) else rows)

    def _call(self, method: str, path: str, body: Any = None, *, timeout_s: float = READ_TIMEOUT_S) -> Any:
        try:
            answer = self._session.request(
                method, f"{self.url}{path}", json=body, timeout=(CONNECT_TIMEOUT_S, timeout_s)
            )
        except requests.RequestException as error:
            raise ControllerUnavailableError(
                f"the rollout controller did not answer {method} {self.url}{path}: {error}",
                f"start it, or correct AIRFLOW_CONN_{CONNECTION_ID.upper()}; the task tries again by itself",
            ) from error
        if answer.status_code < 400:
            return answer.json()
        raise _error(method, path, answer)


class ControllerHook(BaseHook):
    """The controller behind the Airflow connection `sluice_controller`."""

    conn_name_attr = "controller_conn_id"
    default_conn_name = CONNECTION_ID
    hook_name = "Sluice rollout controller"

    def __init__(self, controller_conn_id: str = CONNECTION_ID) -> None:
        super().__init__()
        self.controller_conn_id = controller_conn_id

    def get_conn(self) -> ControllerClient:
        return ControllerClient.from_connection(self.get_connection(self.controller_conn_id))


def connection_url(connection: Connection) -> str:
    """`scheme://host[:port][/path]` of an HTTP connection, whichever way Airflow stored it."""
    host, schema = connection.host or "", connection.schema or ""
    if not host:
        raise FatalError(f"connection {connection.conn_id} has no host", "set it to http://host:port")
    if "://" in host:
        scheme, _, host = host.partition("://")
    else:
        scheme = "https" if "https" in {connection.conn_type, schema} else "http"
    path = (
        "" if schema in {"", "http", "https"} else f"/{schema.strip('/')}"
    )  # of a URI, Airflow keeps it there
    return f"{scheme}://{host}" + (f":{connection.port}" if connection.port else "") + path


def _path(rollout: str, action: str = "") -> str:
    return f"/v1/rollouts/{quote(rollout, safe='')}" + (f"/{action}" if action else "")


def _error(method: str, path: str, answer: requests.Response) -> Exception:
    """The one exception that an answer of 400 and above stands for."""
    error = _error_object(answer)
    code = str(error.get("code") or f"http-{answer.status_code}")
    said = str(error.get("message") or answer.text[:300] or answer.reason)
    what = f"{method} {path} answered {answer.status_code} {code}: {said}"
    advice = str(error.get("next_step") or "")
    if (
        answer.status_code >= 500 or answer.status_code == 429 or code == "conflict"
    ):  # another writer was first
        after = _seconds(answer.headers.get("Retry-After"))
        return ControllerUnavailableError(what, advice or "the task tries again by itself", code, after)
    if answer.status_code == 401:
        advice = advice or f"put the controller's token into AIRFLOW_CONN_{CONNECTION_ID.upper()}"
    if answer.status_code == 409:
        kind: type[ControllerRefusedError] = CONFLICTS.get(code, ControllerConflictError)
    else:
        kind = ControllerRefusedError
    return kind(what, advice, code, answer.status_code, error)


def _error_object(answer: requests.Response) -> dict[str, Any]:
    """The `error` object of an answer; empty when something in between answered instead."""
    try:
        decoded = answer.json()
    except ValueError:
        return {}
    error = decoded.get("error") if isinstance(decoded, Mapping) else None
    return dict(error) if isinstance(error, Mapping) else {}


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None
