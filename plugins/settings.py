"""The addresses that differ between a laptop and a cluster, read from the environment.

Problem: a missing address must not show as a failed pod an hour later. Invariant: what a DAG needs to be built is
checked when the DAG is built, all of it at once, and becomes Airflow's import error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sluice.errors import FatalError, Problem, ProblemsError

STORE_MOUNT: Final = "/var/lib/sluice/store"  # where every pod sees the artifact store
KUBERNETES_CONN_ID: Final = "kubernetes_default"


class AddressesError(ProblemsError):
    """Variables of the environment that are missing or wrong."""

    what = "environment of Airflow"
    fix = "set each named variable for scheduler, dag-processor, triggerer and workers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """store_volume: a Kubernetes volume source without its name, e.g. `{"hostPath": {"path": "/…"}}`."""

    namespace: str
    store_volume: Mapping[str, Any]

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Addresses:
        """Raises AddressesError naming every variable that is missing or wrong."""
        return cls(namespace=env.get("SLUICE_NAMESPACE") or "default", store_volume=_volume(env))


def store_root(env: Mapping[str, str]) -> Path:
    """The artifact store as this worker sees it. Raises FatalError when it is not named."""
    root = env.get("SLUICE_STORE")
    if not root:
        raise FatalError(
            "SLUICE_STORE is not set", "set it to the folder of the artifact store on every worker"
        )
    return Path(root)


def _volume(env: Mapping[str, str]) -> dict[str, Any]:
    name, text = "SLUICE_STORE_VOLUME", env.get("SLUICE_STORE_VOLUME")
    wanted = (
        'one Kubernetes volume source as JSON, such as {"persistentVolumeClaim": {"claimName": "sluice"}}'
    )
    try:
        volume = json.loads(text) if text else None
    except ValueError:
        volume = None
    if not isinstance(volume, dict) or len(volume) != 1 or not isinstance(next(iter(volume.values())), dict):
        raise AddressesError((Problem(path=name, value=text, message=f"wanted {wanted}"),))
    return volume
