"""Prometheus, as the gate reads it: instant queries for one rollout's series.

Invariant: what Prometheus does not hold is absent from the answer and never made up; an answer that is not a
success is `PrometheusUnavailableError`, on which a gate holds. NaN comes through as NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import requests
from airflow.sdk import BaseHook

from plugins.hooks.controller import CONNECT_TIMEOUT_S, connection_url
from sluice.errors import RetryableError
from sluice.samples import Sample

if TYPE_CHECKING:
    from airflow.sdk import Connection

CONNECTION_ID: Final = "sluice_prometheus"
READ_TIMEOUT_S: Final = 15.0


class PrometheusUnavailableError(RetryableError):
    """Prometheus did not answer, or answered something else than a result."""


class PrometheusClient:
    """One Prometheus server. `query` is the only thing a gate needs of it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False

    @classmethod
    def from_connection(cls, connection: Connection) -> PrometheusClient:
        return cls(connection_url(connection))

    def query(self, promql: str) -> list[Sample]:
        """(name, labels, value) of every series that `promql` selects now; [] when there is none."""
        advice = f"look at {self.url}/targets; the gate holds until it is back"
        try:
            answer = self._session.get(
                f"{self.url}/api/v1/query",
                params={"query": promql},
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            )
            decoded = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise PrometheusUnavailableError(f"Prometheus did not answer: {error}", advice) from error
        if (
            answer.status_code >= 400
            or not isinstance(decoded, Mapping)
            or decoded.get("status") != "success"
        ):
            raise PrometheusUnavailableError(
                f"Prometheus answered {answer.status_code}: {str(decoded)[:300]}", advice
            )
        return [_sample(row) for row in decoded["data"]["result"]]

    def stage_samples(self, service: str, rollout: str, stage: int) -> list[Sample]:
        """Every `sluice_*` series of one stage of one rollout of one service."""
        labels = {"service": service, "rollout": rollout, "stage": str(stage)}
        wanted = ",".join(f'{name}="{_quoted(text)}"' for name, text in labels.items())
        return self.query(f'{{__name__=~"sluice_.+",{wanted}}}')


class PrometheusHook(BaseHook):
    """Prometheus behind the Airflow connection `sluice_prometheus`."""

    conn_name_attr = "prometheus_conn_id"
    default_conn_name = CONNECTION_ID
    hook_name = "Prometheus (Sluice)"

    def __init__(self, prometheus_conn_id: str = CONNECTION_ID) -> None:
        super().__init__()
        self.prometheus_conn_id = prometheus_conn_id

    def get_conn(self) -> PrometheusClient:
        return PrometheusClient.from_connection(self.get_connection(self.prometheus_conn_id))


def _sample(row: Mapping[str, Any]) -> Sample:
    try:
        value = float(row["value"][1])
    except (KeyError, IndexError, TypeError, ValueError):
        value = math.nan  # present and unreadable is not the same as absent
    labels = {str(name): str(text) for name, text in row["metric"].items()}
    return labels.pop("__name__", ""), labels, value


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
