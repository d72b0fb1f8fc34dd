"""Which recorded dataset calibrates a service today, and what was calibrated on it.

Problem: a calibration of last week's traffic is used again by every promotion until the traffic moves, so something
must say which one. Invariants: only a dataset that passed its checks is pointed to; whoever reads the pointer gets both
keys of one acceptance, or none; losing it costs one calibration and nothing else.
"""

import json
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from artifacts.errors import ArtifactMissingError
from artifacts.pointers import read_pointer, write_pointer
from artifacts.samples import raise_if_failed
from artifacts.store import Store
from sluice.digest import is_sha256
from sluice.release import dataset_rules
from sluice.spec import ReleaseSpec


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

    def serving(self, spec: ReleaseSpec) -> Accepted | None:
        """The current one where it serves this spec: INT8 is asked for, recordings are read, by the same rules."""
        reads = spec.recording is not None and spec.recording.source is not None
        if not reads or "int8" not in spec.precisions:
            return None
        found = self.current(spec.service)
        if found is None:
            return None
        facts = self._store.get("dataset", found.dataset).facts
        return found if facts.get("rules") == dataset_rules(spec) else None

    def accept(self, service: str, accepted: Accepted) -> None:
        """Point to it. Raises ArtifactMissingError for what is not in the store, DatasetError for what did not pass."""
        for kind, key in asdict(accepted).items():
            if not self._store.has(kind, key):
                raise ArtifactMissingError(kind, key, str(self._store.root))
        raise_if_failed(self._store.get("dataset", accepted.dataset))
        write_pointer(self._pointer(service), json.dumps(asdict(accepted), sort_keys=True))

    def forget(self, service: str, before: date) -> list[str]:
        """Remove the service's datasets that were gathered before that day; their keys. The current one stays.

        They hold what people sent. A release that names one of them can no longer be built from it.
        """
        current, gone = self.current(service), []
        for key in self._store.keys("dataset"):
            facts = self._store.get("dataset", key).facts
            old = facts.get("service") == service and str(facts.get("gathered", "")) < before.isoformat()
            if old and (current is None or key != current.dataset):
                self._store.remove("dataset", key)
                gone.append(key)
        return gone

    def _pointer(self, service: str) -> Path:
        return self._store.root / ".calibrations" / service
