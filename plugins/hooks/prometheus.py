"""Prometheus, as the gate reads it: instant queries for one rollout's series.

Invariant: what Prometheus does not hold is absent from the answer and never made up; an answer that is not a
success is `PrometheusUnavailableError`, on which a gate holds. NaN comes through as NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import requests
from airflow.sdk import BaseHook

from plugins.hooks.controller import CONNECT_TIMEOUT_S, connection_url
from sluice.errors import RetryableError
from sluice.promql import Answer, Series, read_answer
from sluice.samples import Sample

if TYPE_CHECKING:
    from airflow.sdk import Connection

CONNECTION_ID: Final = "sluice_prometheus"
READ_TIMEOUT_S: Final = 15.0


class PrometheusUnavailableError(RetryableError):
    """Prometheus did not answer, or answered something else than a result."""


class PrometheusClient:
    """One Prometheus server."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False

    @classmethod
    def from_connection(cls, connection: Connection) -> PrometheusClient:
        return cls(connection_url(connection))

    def query(self, promql: str) -> list[Sample]:
        """(name, labels, value) of every series that `promql` selects now; [] when there is none."""
        answer = self.answer(promql)
        if answer.error is not None:
            advice = f"look at {self.url}/targets; the gate holds until it is back"
            raise PrometheusUnavailableError(answer.error, advice)
        return [_sample(series) for series in answer.series]

    def answer(self, promql: str) -> Answer:
        """What came back, whatever it was."""
        try:
            got = self._session.get(
                f"{self.url}/api/v1/query",
                params={"query": promql},
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            )
        except requests.RequestException as error:
            return Answer(error=f"Prometheus did not answer: {error}")
        try:
            return read_answer(got.status_code, got.json())
        except ValueError:
            return read_answer(got.status_code, None)

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


def _sample(series: Series) -> Sample:
    labels = dict(series.labels)
    return labels.pop("__name__", ""), labels, series.value


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
