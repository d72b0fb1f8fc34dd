"""Start every part, wait until each answers, say how long it took, end all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import requests

from local.stack import programs
from local.stack.airflow_api import AirflowApi
from local.stack.processes import Processes
from local.stack.programs import REPO, Layout
from sluice.errors import RetryableError, SluiceError

READY_POLL_S = 0.25
READY_TIMEOUT_S = 180
LOOPBACK = ("127.0.0.1", "localhost")
Say = Callable[[str], None]


class Stack:
    """The running system. A context manager: nothing of it is left when the block ends."""

    def __init__(self, root: Path, *, dags: Path | None = None, say: Say = print) -> None:
        root.mkdir(parents=True, exist_ok=True)
        reach_loopback_directly()
        self.processes = Processes(root / "run")  # first: it ends what a killed stack left behind
        self.layout = Layout.make(root.resolve(), (dags or REPO / "dags").resolve())
        self.airflow = AirflowApi(self.layout.url("airflow"))
        self._say = say

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:
            self.processes.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.processes.close()

    def start(self) -> None:
        """Start all parts side by side (the cluster first: the others read its kubeconfig) and wait for each."""
        began = time.monotonic()
        for folder in (self.layout.store, self.layout.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        for part in (programs.mlflow, programs.airflow, programs.cluster):
            self.processes.start(part(self.layout))
        self._await("cluster", lambda: answers(f"{self.layout.url('cluster')}/version"), began)
        for part in (programs.controller, programs.gateway, programs.prometheus):
            self.processes.start(part(self.layout))
        recorder = programs.recorder(self.layout)
        if recorder is not None:
            self.processes.start(recorder)
            self._await("recorder", lambda: answers(f"{self.layout.url('recorder')}/healthz"), began)
        self._await("controller", lambda: answers(f"{self.layout.url('controller')}/healthz"), began)
        self._await("gateway", self._gateway_connected, began)
        self._await("prometheus", lambda: answers(f"{self.layout.url('prometheus')}/-/ready"), began)
        self._await("mlflow", lambda: answers(f"{self.layout.url('mlflow')}/health"), began)
        self._await("airflow", self.airflow_ready, began)

    def airflow_ready(self) -> bool:
        """Scheduler, triggerer and dag-processor healthy and a login works."""
        try:
            self.airflow.login()
            health = self.airflow.health()
        except (SluiceError, requests.RequestException):
            return False
        return all(health.get(part) == "healthy" for part in ("scheduler", "triggerer", "dag_processor"))

    def await_dag(self, dag_id: str, *, timeout_s: float = 90) -> None:
        """Wait until Airflow has parsed `dag_id`, then unpause it."""
        deadline = time.monotonic() + timeout_s
        while not self.airflow.has_dag(dag_id):
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"Airflow did not parse {dag_id}", next_step=f"read {self.layout.log('airflow')}"
                )
            time.sleep(READY_POLL_S)
        self.airflow.unpause(dag_id)

    def await_airflow(self) -> None:
        """Wait until Airflow answers again, after a restart."""
        self._await("airflow", self.airflow_ready, time.monotonic())

    def controller(self, method: str, path: str, **kwargs: object) -> requests.Response:
        """A call to the controller's API with its token."""
        headers = {"Authorization": f"Bearer {self.layout.token}"}
        return requests.request(  # type: ignore[arg-type]
            method, f"{self.layout.url('controller')}{path}", headers=headers, timeout=30, **kwargs
        )

    def _gateway_connected(self) -> bool:
        try:
            answer = self.controller("GET", "/v1/gateways")
        except requests.RequestException:
            return False
        return answer.ok and "gateway-0" in answer.text

    def _await(self, part: str, ready: Callable[[], bool], began: float) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            self.processes.assert_alive(part)
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"{part} was not ready in {READY_TIMEOUT_S} s", next_step=f"read {self.layout.log(part)}"
                )
            time.sleep(READY_POLL_S)
        where = self.layout.url(part)
        self._say(f"  {part:<11} ready after {time.monotonic() - began:5.1f} s   {where}")


def reach_loopback_directly() -> None:
    """No proxy between the parts, for us and for every child; what the person excluded stays excluded."""
    known = ",".join(os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy"))
    hosts = dict.fromkeys([*(host.strip() for host in known.split(",") if host.strip()), *LOOPBACK])
    # An asterisk means every host, and only when it stands alone.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*" if "*" in hosts else ",".join(hosts)


def answers(url: str) -> bool:
    """True if `url` answers with a success."""
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False
