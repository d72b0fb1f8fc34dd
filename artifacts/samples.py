"""The file that calibration and accuracy take their samples from: the recorded traffic's, or the checkpoint's own."""

from pathlib import Path
from typing import Final

from artifacts.store import Artifact, Store
from sluice.errors import FatalError
from sluice.release import Release

SAMPLES_FILE: Final = (
    "samples.jsonl"  # of a dataset: those that calibrate first, then those that are held out
)


class DatasetError(FatalError):
    """A recorded dataset that did not pass its checks. why: which, and the rows to blame."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(key, why)
        self.key, self.why = key, why

    @property
    def message(self) -> str:
        return f"dataset {self.key[:12]} did not pass its checks: {self.why}"

    @property
    def next_step(self) -> str:
        return "see docs/index.html of the dataset in the artifact store; correct what records it, then calibrate again"


def samples_file(store: Store, release: Release) -> Path:
    """Raises the store's errors, and DatasetError for a dataset that did not pass."""
    if release.calibrated_on is None:
        return store.get("checkpoint", release.keys.checkpoint).path / release.spec.model.samples
    dataset = store.get("dataset", release.calibrated_on.dataset)
    raise_if_failed(dataset)
    return dataset.path / SAMPLES_FILE


def raise_if_failed(dataset: Artifact) -> None:
    """DatasetError when a published dataset did not pass."""
    if dataset.facts.get("passed") is not True:
        raise DatasetError(dataset.receipt.key, str(dataset.facts.get("why", "not passed")))
