"""Which recorded dataset calibrates a service today, and what was calibrated on it.

Problem: a calibration of last week's traffic is used again by every promotion until the traffic moves, so something
must say which one. Invariants: only a dataset that passed its checks is pointed to; whoever reads the pointer gets both
keys of one acceptance, or none; losing it costs one calibration and nothing else.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from artifacts.errors import ArtifactMissingError
from artifacts.pointers import read_pointer, write_pointer
from artifacts.store import Store
from sluice.digest import is_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Keys in the store: of the `dataset`, and of the `calibration` that was made on it."""

    dataset: str
    calibration: str


class Calibrations:
    """The accepted calibration of each service in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def current(self, service: str) -> Accepted | None:
        """The one that was accepted last; None when there is none, and when either artifact is gone."""
        try:
            found = Accepted(**json.loads(read_pointer(self._pointer(service)) or "{}"))
        except (ValueError, TypeError):
            return None
        keys = {"dataset": found.dataset, "calibration": found.calibration}
        whole = all(is_sha256(key) and self._store.has(kind, key) for kind, key in keys.items())
        return found if whole else None

    def accept(self, service: str, accepted: Accepted) -> None:
        """Point to it. Raises ArtifactMissingError for an artifact that is not in the store."""
        for kind, key in asdict(accepted).items():
            if not self._store.has(kind, key):
                raise ArtifactMissingError(kind, key, str(self._store.root))
        write_pointer(self._pointer(service), json.dumps(asdict(accepted), sort_keys=True))

    def _pointer(self, service: str) -> Path:
        return self._store.root / ".calibrations" / service
