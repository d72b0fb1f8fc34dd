"""Which addresses serve a version, and how many there must be before it gets traffic.

Problem: a weight that moves before the pods are there overloads the candidate, and an overloaded candidate
looks like a bad model. So a stage opens in this order: scale, wait until ready, then move the weight.
Invariant: the addresses are those of the Kubernetes Endpoints, which hold ready pods only; while the Kubernetes API
is away the last known addresses stay (an unreachable API says nothing about the pods).
A workload with fixed `endpoints` instead of a deployment is always ready and is never scaled.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientError
from kubernetes_asyncio import client, config, watch

from serving.control.problems import ControlProblem

WATCH_S: Final = (
    240  # the API server ends a watch after this long; we start the next one at the version we saw
)
RELIST_AFTER_S: Final = 1.0  # pause after a failed list or watch
MAX_REPLICAS: Final = 1_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where one replica answers."""

    host: str
    port: int


def wanted_replicas(*, stable_replicas: float, policy_replicas: int, percent: float) -> int:
    """Replicas of the candidate for `percent` of the traffic, so that its load per replica equals stable's.

    stable_replicas: stable's full scale, carrying 100 - percent. At 100 percent the policy's number counts, and
    it bounds all others (at 90 percent the ratio alone would ask for nine times stable). Always >= 1.
    Raises ValueError when percent is not in (0, 100].
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent {percent!r} is not in (0, 100]")
    if percent == 100:
        return max(1, policy_replicas)
    like_stable = math.ceil(stable_replicas * percent / (100 - percent) - 1e-9)
    return max(1, min(like_stable, policy_replicas))


def static_addresses(workload: Mapping[str, Any]) -> tuple[Address, ...] | None:
    """The fixed addresses of a workload; None when a deployment serves it."""
    listed = workload.get("endpoints")
    return None if listed is None else tuple(sorted(Address(e["host"], e["port"]) for e in listed))


class Capacity:
    """Watches Endpoints and scales Deployments of one namespace. Without a kubeconfig: fixed endpoints only."""

    def __init__(self, *, kubeconfig: Path | None, namespace: str, on_change: Callable[[], None]) -> None:
        self._kubeconfig, self._namespace, self._on_change = kubeconfig, namespace, on_change
        self._known: dict[str, tuple[Address, ...]] = {}
        self._changed = asyncio.Event()
        self._listed = asyncio.Event()
        self._api: client.ApiClient | None = None
        self._task: asyncio.Task[None] | None = None
        self.error: str | None = None

    def seed(self, known: Mapping[str, list[list[Any]]]) -> None:
        """The addresses of an earlier life (`to_json`), until Kubernetes says better."""
        self._known = {
            name: tuple(Address(host, port) for host, port in rows) for name, rows in known.items()
        }

    def to_json(self) -> dict[str, list[list[Any]]]:
        """What is known, as `seed` takes it."""
        return {name: [[a.host, a.port] for a in rows] for name, rows in self._known.items()}

    async def start(self) -> None:
        """Load the kubeconfig and follow the Endpoints. Raises when the file cannot be read."""
        if self._kubeconfig is None:
            return
        settings = client.Configuration()
        await config.load_kube_config(config_file=str(self._kubeconfig), client_configuration=settings)
        self._api = client.ApiClient(settings)
        self._task = asyncio.create_task(self._follow(), name="endpoints-watch")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._api is not None:
            await self._api.close()

    async def listed(self, timeout_s: float) -> bool:
        """Wait for the first list of Endpoints. False when it did not come in time."""
        if self._api is None:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._listed.wait()
        return self._listed.is_set()

    def addresses(self, workload: Mapping[str, Any]) -> tuple[Address, ...]:
        """The ready addresses of a workload now, sorted; empty when none is ready or known."""
        fixed = static_addresses(workload)
        return fixed if fixed is not None else self._known.get(workload["deployment"], ())

    def require(self, workloads: Sequence[Mapping[str, Any]]) -> None:
        """Refuse deployments when this controller has no Kubernetes to find them in."""
        named = [w["deployment"] for w in workloads if static_addresses(w) is None]
        if named and self._api is None:
            raise ControlProblem(
                422,
                "no-kubernetes",
                f"the workloads name deployments {named}, and this controller has no kubeconfig",
                "start the controller with --kubeconfig, or name endpoints in the workload",
            )

    async def provide(self, wanted: Mapping[str, int], timeout_s: float) -> None:
        """Scale deployments up to `wanted` replicas (never down) and wait until so many are ready.

        Raises ControlProblem 503 `capacity` with Retry-After when they are not ready in time or cannot be scaled.
        """
        try:
            async with asyncio.timeout(timeout_s):
                for deployment, replicas in wanted.items():
                    await self._scale(deployment, replicas)
                while self._short(wanted):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise _no_capacity(
                f"not ready in {timeout_s:g} s (ready/wanted): {short_text(self._short(wanted))}"
            ) from None
        except (client.ApiException, ClientError, OSError) as error:
            raise _no_capacity(f"scaling {sorted(wanted)} failed: {one_line(error)}") from error

    async def _scale(self, deployment: str, replicas: int) -> None:
        apps = client.AppsV1Api(self._api)
        now = await apps.read_namespaced_deployment_scale(deployment, self._namespace)
        if (now.spec.replicas or 0) < replicas:
            body = {"spec": {"replicas": replicas}}
            await apps.patch_namespaced_deployment_scale(deployment, self._namespace, body)
            _log.info("scaled %s from %s to %s replicas", deployment, now.spec.replicas, replicas)

    def _short(self, wanted: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        ready = {name: len(self._known.get(name, ())) for name in wanted}
        return {name: (ready[name], n) for name, n in wanted.items() if ready[name] < n}

    async def _follow(self) -> None:
        while True:
            try:
                await self._list_and_watch()
            except (client.ApiException, ClientError, OSError, TimeoutError, ValueError) as error:
                # the API server is away, or our version is too old (410): addresses stay, list again
                self.error = one_line(error)
                _log.warning("watching endpoints: %s", self.error)
                await asyncio.sleep(RELIST_AFTER_S)

    async def _list_and_watch(self) -> None:
        core = client.CoreV1Api(self._api)
        listed = await core.list_namespaced_endpoints(self._namespace, _request_timeout=10)
        self._replace({item.metadata.name: _ready(item) for item in listed.items})
        self._listed.set()
        self.error = None
        stream = watch.Watch().stream(
            core.list_namespaced_endpoints,
            self._namespace,
            resource_version=listed.metadata.resource_version,
            timeout_seconds=WATCH_S,
            _request_timeout=WATCH_S + 30,
        )
        async with stream as events:
            async for event in events:
                self._take(event)

    def _take(self, event: Mapping[str, Any]) -> None:
        name = event["object"].metadata.name
        known = dict(self._known)
        if event["type"] == "DELETED":
            known.pop(name, None)
        else:
            known[name] = _ready(event["object"])
        self._replace(known)

    def _replace(self, known: dict[str, tuple[Address, ...]]) -> None:
        if known != self._known:
            self._known = known
            self._changed.set()
            self._on_change()


def _ready(item: Any) -> tuple[Address, ...]:
    """The ready addresses of one Endpoints object: every address with every port of its subset."""
    found = {
        Address(address.ip, port.port)
        for subset in item.subsets or ()
        for address in subset.addresses or ()
        for port in subset.ports or ()
    }
    return tuple(sorted(found))


def short_text(short: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} {ready}/{wanted}" for name, (ready, wanted) in sorted(short.items()))


def one_line(error: BaseException) -> str:
    """An exception as one line: Kubernetes' carry headers and bodies over many."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _no_capacity(message: str) -> ControlProblem:
    return ControlProblem(
        503,
        "capacity",
        message,
        "traffic has not moved; look at the candidate's pods, then repeat the call",
        retry_after_s=2,
    )
